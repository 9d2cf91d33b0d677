"""A trained model on disk: everything that is needed to run it, and nothing that could run code.

A bundle is a directory of `weights.safetensors`, `bundle.json` (architecture, crop, normalisation, calibration,
operating points, provenance, checksums) and `README.md` (the model card). Weights and JSON are protected by SHA-256, so
that a changed byte is refused. No file is a pickle.

Example:
    >>> bundle = load_bundle()              # the model that ships for pictures
    >>> bundle.spec.crop.size
    224
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fakeface_jax.decision import Calibration, OperatingPoint, VerdictBands, VideoDecision
from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.faces import CropSpec

FORMAT = "fakeface-bundle"
FORMAT_VERSION = 1

WEIGHTS = "weights.safetensors"
SPEC = "bundle.json"
CARD = "README.md"

PRETRAINED = Path(__file__).parent / "pretrained"
"""Directory of the models that ship with the package; each can be named without its path."""

Medium = Literal["picture", "video"]
"""Kind of media. Faces in videos show other traces than those in pictures, and there is time for a larger network."""

DEFAULT_BUNDLES: Mapping[Medium, Path] = {"picture": PRETRAINED / "lite0", "video": PRETRAINED / "clip-lite0"}
"""The models that are used unless another is named; live streams are scored by the one for pictures, which is fast."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalization:
    """Scaling of the uint8 pixels that the network sees: (value / 255 - mean) / std, per RGB channel."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundleSpec:
    """Everything about a model except its weights; stored as `bundle.json`.

    Attributes:
        name: a short name for reports.
        model: the architecture, in the form that `fakeface_jax.models.create_model` takes: `name` and its settings.
        crop: the crop that the model was trained on.
        detector: the face detector that found the training crops.
        normalization: pixel scaling.
        calibration: turns the logit into P(fake).
        operating_points: thresholds at stated error rates.
        bands: the verdict bands in force.
        video: the same for scores of whole videos; None where that was not fitted.
        provenance: data, licences, command, versions, device: free-form, for people and reports.
        metrics: per source, on the test split: free-form, for people and reports.
    """

    name: str
    model: Mapping[str, Any]
    crop: CropSpec
    detector: str
    bands: VerdictBands
    normalization: Normalization = Normalization()
    calibration: Calibration = Calibration()
    operating_points: tuple[OperatingPoint, ...] = ()
    video: VideoDecision | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded model.

    Attributes:
        spec: the contents of `bundle.json`.
        weights: parameter path (joined by dots) to float array.
        id: sha256 over weights and specification without its metrics; reports quote it.
        path: where it was loaded from.
        reference: uncalibrated logits of `fakeface_jax.backends.reference.probe_crops`, by JAX when the bundle was
            saved; None for networks that JAX alone runs.
    """

    spec: BundleSpec
    weights: Mapping[str, np.ndarray]
    id: str
    path: Path
    reference: tuple[float, ...] | None = None


def save_bundle(
    directory: str | os.PathLike[str],
    spec: BundleSpec,
    weights: Mapping[str, np.ndarray],
    *,
    card: str,
    dtype: np.dtype | type = np.float16,
) -> Bundle:
    """Writes a bundle, completely or not at all.

    Args:
        directory: the bundle's directory; an existing bundle is replaced, unless it contains other files.
        weights: parameter path to array.
        card: the model card, in Markdown.
        dtype: type in which the weights are stored; half precision halves the file and moves a logit by less than 1e-2.

    Raises:
        BundleError: the directory exists and is not a bundle, or it cannot be written; weights are not finite, or too
            large for `dtype`; JSON cannot represent the specification.
    """
    from safetensors.numpy import save

    directory = Path(directory)
    _check_replaceable(directory)
    stored = _stored(weights, dtype)
    data = save(stored)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **dataclasses.asdict(spec),
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        "reference": _reference(spec, stored),
    }
    try:
        document["sha256"] = _fingerprint(document)
    except (TypeError, ValueError) as error:
        raise BundleError(f"{directory}: this specification cannot be written as JSON: {error}; correct it") from error
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Written beside the target and then renamed, so that a crash leaves either the old or the new bundle.
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            (temporary / WEIGHTS).write_bytes(data)
            (temporary / SPEC).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (temporary / CARD).write_text(card, encoding="utf-8")
            temporary.chmod(0o755)
            _put_in_place(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise BundleError(
            f"{directory}: the bundle cannot be written: {error.strerror or error}; name another directory"
        ) from error
    return load_bundle(directory)


def _check_replaceable(directory: Path) -> None:
    """Refuses to replace anything that `save_bundle` did not write."""
    if not os.path.lexists(directory):
        return
    if not (directory / SPEC).is_file():
        raise BundleError(f"{directory}: exists and is not a bundle; name another directory")
    foreign = sorted({path.name for path in directory.iterdir()} - {WEIGHTS, SPEC, CARD})
    if foreign:
        raise BundleError(
            f"{directory}: contains {foreign[0]}, which does not belong to a bundle; name another directory"
        )


def _stored(weights: Mapping[str, np.ndarray], dtype: np.dtype | type) -> dict[str, np.ndarray]:
    stored = {}
    for key, value in weights.items():
        with np.errstate(over="ignore"):
            # order="C" instead of ascontiguousarray, which turns a scalar into a vector.
            stored[key] = np.asarray(value).astype(dtype, order="C")
        if not np.isfinite(stored[key]).all():
            raise BundleError(f"weight {key} is not finite as {np.dtype(dtype).name}; train again, or use a wider type")
    return stored


def _reference(spec: BundleSpec, stored: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Returns the logits by which backends are checked; None if only JAX will run the network."""
    from fakeface_jax.backends.inference_layers import inference_layers
    from fakeface_jax.backends.reference import reference_logits

    weights = {key: np.asarray(value, np.float32) for key, value in stored.items()}
    # OpenVINO also runs heads on a backbone and fusions of networks.
    if spec.model.get("name") not in ("feature_probe", "experts") and inference_layers(spec.model, weights) is None:
        return None
    logits = reference_logits(spec, weights)
    # A network that answers nothing but NaN says so itself; there is nothing to check others by.
    return {"logits": [float(value) for value in logits]} if np.isfinite(logits).all() else None


def _put_in_place(temporary: Path, directory: Path) -> None:
    """Renames twice, so that after any failure either the old or the new bundle is there and complete."""
    old = temporary.with_name(temporary.name + ".old")
    if directory.exists():
        directory.rename(old)
    try:
        temporary.rename(directory)
    except BaseException:
        if old.exists():
            old.rename(directory)
        raise
    if old.is_symlink():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)


def load_bundle(path: str | os.PathLike[str] | None = None, *, medium: Medium = "picture") -> Bundle:
    """Reads and verifies a bundle.

    Args:
        path: its directory, or the name of a model that ships; None for the default one of the medium.
        medium: chooses the default.

    Raises:
        BundleError: the bundle is missing, damaged, or of a version that this release cannot run.
    """
    path = DEFAULT_BUNDLES[medium] if path is None else _place(path)
    if not (path / SPEC).is_file():
        names = ", ".join(sorted(place.name for place in PRETRAINED.iterdir() if (place / SPEC).is_file()))
        raise BundleError(
            f"{path}: no bundle here ({SPEC} is missing); "
            f"name a bundle directory, or one of the bundled models: {names}"
        )
    try:
        document = json.loads((path / SPEC).read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise BundleError(f"{path}: {SPEC} does not describe a bundle; name a bundle directory")
        if document.get("format_version") != FORMAT_VERSION:
            raise BundleError(
                f"{path}: bundle format {document.get('format_version')}, but this release reads {FORMAT_VERSION}; "
                "install the release it was made with, or train it again"
            )
        data = (path / WEIGHTS).read_bytes()
        stated = document.pop("sha256", None)
        fingerprint = _fingerprint(document)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: damaged bundle: {error}; get it again") from error
    if stated != fingerprint:
        raise BundleError(f"{path}: {SPEC} was changed (its SHA-256 differs); get the bundle again")
    # The file's name is fixed; the one in the document is for readers.
    weights_sha256 = document["weights"].get("sha256") if isinstance(document.get("weights"), dict) else None
    if hashlib.sha256(data).hexdigest() != weights_sha256:
        raise BundleError(f"{path}: {WEIGHTS} was changed (its SHA-256 differs); get the bundle again")
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        weights = {key: np.asarray(value, np.float32) for key, value in load(data).items()}
    except SafetensorError as error:
        raise BundleError(f"{path}: {WEIGHTS} is not a safetensors file: {error}; get the bundle again") from error
    # Measuring a model does not change it: the id in reports is the same before and after.
    identity = _fingerprint({key: value for key, value in document.items() if key not in ("metrics", "reference")})
    spec, reference = _parse_spec(document, path), _parse_reference(document, path)
    return Bundle(spec=spec, weights=weights, id=identity, path=path, reference=reference)


def _place(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    # A directory of the user takes precedence over a bundled model of the same name.
    shipped = PRETRAINED / path
    return shipped if not path.exists() and len(path.parts) == 1 and (shipped / SPEC).is_file() else path


def _fingerprint(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _parse_spec(document: Mapping[str, Any], path: Path) -> BundleSpec:
    try:
        normalization = document["normalization"]
        return BundleSpec(
            name=document["name"],
            model=document["model"],
            crop=CropSpec(**document["crop"]),
            detector=document["detector"],
            bands=VerdictBands(**document["bands"]),
            normalization=Normalization(mean=tuple(normalization["mean"]), std=tuple(normalization["std"])),
            calibration=Calibration(**document["calibration"]),
            operating_points=_parse_points(document["operating_points"]),
            video=_parse_video(document["video"]),
            provenance=document["provenance"],
            metrics=document["metrics"],
        )
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise BundleError(f"{path}: {SPEC} lacks or misstates {error}; it was made by another release") from error


def _parse_reference(document: Mapping[str, Any], path: Path) -> tuple[float, ...] | None:
    try:
        found = document["reference"]
        return None if found is None else tuple(float(value) for value in found["logits"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: {SPEC} lacks or misstates {error}; it was made by another release") from error


def _parse_points(points: Sequence[Mapping[str, Any]]) -> tuple[OperatingPoint, ...]:
    return tuple(OperatingPoint(**point) for point in points)


def _parse_video(video: Mapping[str, Any] | None) -> VideoDecision | None:
    if video is None:
        return None
    return VideoDecision(
        rule=video["rule"],
        calibration=Calibration(**video["calibration"]),
        bands=VerdictBands(**video["bands"]),
        operating_points=_parse_points(video["operating_points"]),
        fitted_on=video["fitted_on"],
    )
