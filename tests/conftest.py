"""Fixtures for all tests: several CPU devices, the shared data if present, a tiny bundle, a picture with a face."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

# Set before JAX starts: data parallelism is tested on several devices of one CPU.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Keras is a reference in some tests; its numbers are the same on every backend, and JAX is installed anyway.
os.environ.setdefault("KERAS_BACKEND", "jax")

# Many tests run the same small programs, some in other processes: each program is compiled once.
COMPILED = tempfile.mkdtemp(prefix="fakeface-xla-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Returns the folder of real faces, fakes and clips, which is not in the repository because of its licences."""
    path = Path(os.environ.get("FAKEFACE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (path / "faces.csv").is_file():
        pytest.skip(f"needs the labelled faces and clips, which {path} lacks; set FAKEFACE_DATA")
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """Makes a bundle of the report's network at 64 pixels with fresh weights: fast, with meaningless answers."""
    from flax import nnx

    from fakeface_jax.bundle import BundleSpec, save_bundle
    from fakeface_jax.decision import VerdictBands
    from fakeface_jax.faces import CropSpec
    from fakeface_jax.models import create_model, flatten_state

    config = {"name": "report", "size": 64, "dtype": "float32"}
    weights = flatten_state(nnx.state(create_model(config, nnx.Rngs(0)), nnx.Param))
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    spec = BundleSpec(
        name="tiny",
        model=config,
        crop=CropSpec(size=64),
        detector="centerface",
        bands=VerdictBands(real_below=0.3, fake_from=0.7, reason="chosen by hand for tests"),
    )
    save_bundle(path, spec, weights, card="A test bundle.\n")
    return path


@pytest.fixture(scope="session")
def face_picture() -> np.ndarray:
    """Returns an RGB picture, 512 x 512, with one face: NASA's portrait of Eileen Collins, from scikit-image."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="session")
def faceless_picture() -> np.ndarray:
    """Returns an RGB picture without a face: scikit-image's cup of coffee."""
    from skimage import data

    return np.ascontiguousarray(data.coffee())


@pytest.fixture(scope="session")
def two_sources(tmp_path_factory) -> Path:
    """Prepares about 100 crops of 64 pixels in two sources; the fakes of one are brighter, of the other smoother."""
    import cv2

    from fakeface_jax.cli.main import main

    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for source in ("light", "smooth"):
        for split, count in (("train", 12), ("valid", 16), ("test", 8)):
            for label in ("real", "fake"):
                place = root / source / split / label
                place.mkdir(parents=True)
                for number in range(count):
                    picture = cv2.resize(rng.uniform(40, 160, (6, 6, 3)), (64, 64), interpolation=cv2.INTER_CUBIC)
                    picture += rng.normal(0, 2 if (source, label) == ("smooth", "fake") else 12, picture.shape)
                    picture += 60 * ((source, label) == ("light", "fake"))
                    cv2.imwrite(str(place / f"{number:03d}.png"), np.clip(picture, 0, 255).astype(np.uint8))
    sources = [f"folder:{root / source}@{source}" for source in ("light", "smooth")]
    assert main(["data", "merge", *sources, "--output", str(root / "m.parquet")]) == 0
    more = ["--output", str(root / "crops"), "--size", "64", "--whole-images"]
    assert main(["data", "build", str(root / "m.parquet"), *more]) == 0
    return root / "crops"


@pytest.fixture
def unchecked_types():
    """Turns off the check of signatures, for tests of wrong arguments by callers without the checker."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    shutil.rmtree(COMPILED, ignore_errors=True)
