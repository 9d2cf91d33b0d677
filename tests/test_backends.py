"""OpenVINO gives JAX's answers, or JAX is used; and a process that only scores does not import JAX."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import TypeCheckError  # where the run checks types, it comes before our own check

from fakeface_jax import efficientnet_lite_config as lite
from fakeface_jax.backends import choice
from fakeface_jax.backends.choice import create_backend
from fakeface_jax.backends.inference_layers import Conv, Residual, inference_layers
from fakeface_jax.backends.openvino import OpenVinoBackend
from fakeface_jax.backends.reference import agrees, probe_crops, reference_logits
from fakeface_jax.backends.xla import JaxBackend
from fakeface_jax.bundle import SPEC, Bundle, BundleSpec, Normalization, load_bundle, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.decision import VerdictBands
from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.faces import CropSpec
from fakeface_jax.models import build_network, efficientnet_lite, flatten_shapes, pixel_scaling

REPOSITORY = Path(__file__).resolve().parent.parent
PROBE_SHA256 = "58115deeb885455bc91636acfb37f07f30f8c2ac0f8dbe4dd026195775bf5095"
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "openvino_telemetry"}


@pytest.fixture
def small_lite(monkeypatch):
    """EfficientNet-Lite with three stages, one of which adds its input: compiles quickly."""
    first = lite._STAGES[0]
    monkeypatch.setattr(lite, "_STAGES", (first, (5, 2, 6, 16, 2), first))
    monkeypatch.setattr(efficientnet_lite, "HEAD", 24)
    monkeypatch.setattr("fakeface_jax.backends.inference_layers.HEAD", 24)


def random_weights(config, seed=0):
    """Weights of that network of which none is an idle 0 or 1."""
    network, rng = build_network(config, seed=None), np.random.default_rng(seed)
    weights = {}
    for name, shape in (flatten_shapes(network.params) | flatten_shapes(network.stats)).items():
        if name.endswith(("scale", "var")):
            weights[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            fan = np.prod(shape[:-1]) if len(shape) > 1 else 10
            weights[name] = rng.normal(0, np.sqrt(2 / fan), shape).astype(np.float32)
    return weights


def bundle_of(config, path, *, weights=None):
    mean, std = pixel_scaling(config)
    spec = BundleSpec(
        name="any",
        model=config,
        crop=CropSpec(size=config["size"]),
        detector="centerface",
        normalization=Normalization(mean=mean, std=std),
        bands=VerdictBands(real_below=0.3, fake_from=0.7),
    )
    weights = random_weights(config) if weights is None else weights
    return Bundle(spec=spec, weights=weights, id="0" * 64, path=path)


def random_crops(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "report", "size": 64},
        {"name": "report", "size": 51, "input": "residual"},
        {"name": "report", "size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)},
        {"name": "efficientnet_lite0", "size": 64, "dropout": 0.3, "drop_path": 0.2, "frozen_stages": 2},
        {"name": "efficientnet_lite0", "size": 45, "input": "residual"},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_openvino_answers_as_jax(config, tmp_path, small_lite):
    bundle = bundle_of(config, tmp_path)
    crops = random_crops(5, config["size"])
    ours, plain = create_backend(bundle, "openvino"), create_backend(bundle, "jax")
    expected = plain.logits(crops)
    assert (ours.name, plain.name) == ("openvino", "jax")
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(ours.logits(crops), expected, atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(ours.logits(crops[2:3]), expected[2:3], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_every_weight_of_the_whole_networks_is_used(variant):
    config = {"name": f"efficientnet_lite{variant}", "size": 224}
    network = build_network(config, seed=None)
    shapes = flatten_shapes(network.params) | flatten_shapes(network.stats)
    layers = inference_layers(config, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    convs = [conv for layer in layers for conv in (layer.layers if isinstance(layer, Residual) else [layer])]
    convs = [conv for conv in convs if isinstance(conv, Conv)]
    kernels = [name for name, shape in shapes.items() if len(shape) > 1 and not name.startswith("classifier")]
    assert sorted(conv.name for conv in convs) == sorted(kernels)
    blocks = [block for blocks in lite.lite_stages(variant) for block in blocks]
    assert len(blocks) == {0: 16, 1: 21, 2: 21}[variant]
    assert sum(isinstance(layer, Residual) for layer in layers) == sum(block.residual for block in blocks)
    # All ones: variance 1, scale 1, mean 1, bias 1.
    assert convs[0].kernel == pytest.approx(1 / np.sqrt(1 + lite.EPSILON))
    assert convs[0].bias == pytest.approx(1 - 1 / np.sqrt(1 + lite.EPSILON), abs=1e-6)


def test_what_is_not_understood_has_no_layers():
    config = {"name": "report", "size": 32}
    weights = random_weights(config)
    assert inference_layers(config, weights) is not None
    for other in (
        {"name": "vit", "size": 32},
        {"name": "vision-oracle"},
        {},
        config | {"dtype": "bfloat16"},
        config | {"depth": 3},
        config | {"input": "frequencies"},
        config | {"size": 64},
        config | {"size": "large"},
        {"name": "efficientnet_lite0", "size": 32},
    ):
        assert inference_layers(other, weights) is None
    assert inference_layers(config, weights | {"extra": np.zeros(1, np.float32)}) is None
    assert inference_layers(config, {key: weights[key] for key in list(weights)[1:]}) is None
    wide = weights | {"convs.0.bias": np.zeros(33, np.float32)}
    assert inference_layers(config, wide) is None


def test_jax_runs_what_openvino_cannot(tmp_path):
    config = {"name": "report", "size": 32, "dtype": "bfloat16"}
    bundle = bundle_of(config, tmp_path)
    assert create_backend(bundle).name == "jax"
    with pytest.raises(ConfigError, match=r"OpenVINO cannot run this network; choose the backend jax"):
        create_backend(bundle, "openvino")
    with pytest.raises((ConfigError, TypeCheckError), match=r"unknown backend 'tpu'|Type-check error"):
        create_backend(bundle, "tpu")
    assert save_bundle(tmp_path / "saved", bundle.spec, bundle.weights, card="").reference is None


def test_a_bundle_carries_what_jax_answers(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    expected = JaxBackend(bundle).logits(probe_crops(64))
    np.testing.assert_allclose(bundle.reference, expected, atol=1e-6)
    assert agrees(expected, bundle.reference)
    assert not agrees(expected + np.float32(2e-3), bundle.reference)
    assert not agrees(expected * np.float32("nan"), bundle.reference)
    assert not agrees(expected[:1], bundle.reference)


def test_the_reference_belongs_to_the_weights_and_not_to_the_identity(tiny_bundle, tmp_path):
    bundle = load_bundle(tiny_bundle)
    document = json.loads((tiny_bundle / SPEC).read_text())
    without = {key: value for key, value in document.items() if key not in ("reference", "sha256")}
    (tmp_path / "weights.safetensors").write_bytes((tiny_bundle / "weights.safetensors").read_bytes())
    changed = without | {"reference": None}
    (tmp_path / SPEC).write_text(json.dumps(changed | {"sha256": canonical_sha256(changed)}))
    unchecked = load_bundle(tmp_path)
    assert unchecked.reference is None
    assert unchecked.id == bundle.id
    wrongs = ({}, {"logits": None}, {"logits": ["x"]}, 3)
    for changed in (without, *(without | {"reference": wrong} for wrong in wrongs)):
        (tmp_path / SPEC).write_text(json.dumps(changed | {"sha256": canonical_sha256(changed)}))
        with pytest.raises(BundleError, match="lacks or misstates"):
            load_bundle(tmp_path)


def canonical_sha256(document):
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def test_jax_is_asked_only_where_the_bundle_does_not_know(tiny_bundle, monkeypatch):
    asked = []

    def ask(spec, weights):
        asked.append(spec.name)
        return reference_logits(spec, weights)

    monkeypatch.setattr(choice, "reference_logits", ask)
    bundle = load_bundle(tiny_bundle)
    assert create_backend(bundle).name == "openvino"
    assert asked == []
    assert create_backend(dataclasses.replace(bundle, reference=None)).name == "openvino"
    # Other weights than those that the answers were recorded for.
    moved = bundle.weights | {"dense2.bias": bundle.weights["dense2.bias"] + np.float32(1)}
    other = create_backend(dataclasses.replace(bundle, weights=moved))
    assert other.name == "openvino"
    assert asked == ["tiny", "tiny"]
    crops = random_crops(2, 64)
    np.testing.assert_allclose(other.logits(crops), create_backend(bundle).logits(crops) + 1, atol=1e-5)


def test_a_runtime_that_answers_otherwise_is_not_used(tiny_bundle, monkeypatch):
    bundle = load_bundle(tiny_bundle)
    right = OpenVinoBackend.logits
    monkeypatch.setattr(OpenVinoBackend, "logits", lambda self, crops: right(self, crops) + np.float32(0.01))
    with pytest.raises(ConfigError, match=r"OpenVINO computes .* instead of"):
        create_backend(bundle, "openvino")
    assert create_backend(bundle).name == "jax"


def test_where_openvino_does_not_work_jax_scores(tiny_bundle, monkeypatch):
    from fakeface_jax.backends.openvino import OpenVinoBackend

    def broken(*_):
        raise RuntimeError("libopenvino_intel_cpu_plugin.so: cannot be loaded")

    monkeypatch.setattr(OpenVinoBackend, "of", broken)
    assert FaceClassifier.load(tiny_bundle).backend.name == "jax"
    with pytest.raises(ConfigError, match="does not work here: libopenvino"):
        create_backend(load_bundle(tiny_bundle), "openvino")


def test_without_openvino_jax_scores(tiny_bundle, monkeypatch):
    find = choice.importlib.util.find_spec
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    assert FaceClassifier.load(tiny_bundle).backend.name == "jax"
    with pytest.raises(ConfigError, match="pip install openvino"):
        create_backend(load_bundle(tiny_bundle), "openvino")


def test_an_accelerator_is_jaxs(tiny_bundle, monkeypatch):
    import jax

    assert create_backend(load_bundle(tiny_bundle)).name == "openvino"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert create_backend(load_bundle(tiny_bundle)).name == "jax"
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert not choice._has_accelerator()
    monkeypatch.delenv("JAX_PLATFORMS")
    assert not choice._has_accelerator()
    assert "jax" not in sys.modules
    monkeypatch.setitem(sys.modules, "jax", jax)


def test_probe_crops_never_change():
    crops = probe_crops(64)
    assert crops.shape == (2, 64, 64, 3)
    assert hashlib.sha256(crops.tobytes()).hexdigest() == PROBE_SHA256
    assert len(np.unique(crops[1])) == 256
    assert 70 < crops[1].std() < 78  # of evenly spread bytes: 73.9
    assert np.abs(np.diff(crops[0].astype(int), axis=0)).max() <= 3


def near(found, expected):
    # The order of a sum follows from how many pictures a core computes at a time.
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-5)


def test_views_and_frozen_arrays_are_scored_like_others(tiny_bundle):
    backend = create_backend(load_bundle(tiny_bundle))
    crops = random_crops(6, 64)
    expected = backend.logits(crops)
    assert backend.logits(crops[:0]).shape == (0,)
    near(backend.logits(crops[::-2]), expected[::-2])
    near(
        backend.logits(crops[:, ::-1, ::-1][..., ::-1]),
        backend.logits(np.ascontiguousarray(crops[:, ::-1, ::-1][..., ::-1])),
    )
    crops.flags.writeable = False
    near(backend.logits(crops), expected)
    near(backend.logits(crops[3:4]), expected[3:4])


def test_threads_do_not_disturb_each_other(tiny_bundle):
    backend = create_backend(load_bundle(tiny_bundle))
    crops = random_crops(24, 64)
    expected, found = backend.logits(crops), {}

    def score(start):
        for count in (1, 3, 2):
            found[start, count] = backend.logits(crops[start : start + count])

    threads = [threading.Thread(target=score, args=(start,)) for start in range(0, 20, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30
    for (start, count), logits in found.items():
        near(logits, expected[start : start + count])


def test_gradients_come_from_jax(tiny_bundle):
    classifier = FaceClassifier.load(tiny_bundle)
    crops = random_crops(2, 64)
    function, state = classifier.logits_function()
    assert classifier.backend.name == "openvino"
    np.testing.assert_allclose(np.asarray(function(state, crops)), classifier.logits(crops), atol=1e-5)
    plain = FaceClassifier(load_bundle(tiny_bundle), backend="jax")
    assert plain.logits_function()[0] is plain.backend.function


@pytest.mark.parametrize("model", ["lite0", "report-cnn"])
def test_scoring_imports_no_jax_and_reports_to_nobody(model):
    program = (
        "import sys\n"
        "from fakeface_jax.cli.main import main\n"
        "code = main(['classify', 'samples/real_collins.jpg', '--model', sys.argv[1], '--format', 'jsonl'])\n"
        "print(code, *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, model], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=300
    )
    report, (code, *modules) = json.loads(done.stdout.splitlines()[0]), done.stdout.splitlines()[-1].split()
    assert code == "0"
    assert 0 < report["p_fake"] < 1
    assert "openvino" in modules
    assert not HEAVY & set(modules)


def test_openvino_is_imported_in_one_place_only():
    found = []
    for folder in ("fakeface_jax", "video", "cli", "server"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [path.name for line in lines if line.split()[:2] in (["import", "openvino"], ["from", "openvino"])]
    # Twice in `import_openvino`, which keeps its converter, and with that a web analytics service, out.
    assert found == ["openvino_runtime.py", "openvino_runtime.py"]


def test_a_signal_after_networks_have_gone_is_heard(tiny_bundle):
    """A plug-in of OpenVINO left the process a stack for signals that it had freed: Ctrl-C was a segmentation fault."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed here")
    program = f"""
import faulthandler, gc, signal
faulthandler.enable()  # gives signals a stack of their own, which the plug-in then replaces
from fakeface_jax.classifier import FaceClassifier
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
one = FaceClassifier.load({str(tiny_bundle)!r})
two = FaceClassifier.load({str(tiny_bundle)!r})
del one
gc.collect()
del two
gc.collect()
waste = [bytes(8000) for _ in range(20000)]
del waste
signal.raise_signal(signal.SIGTERM)
print("heard", len(heard))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout.split()) == (0, ["heard", "1"]), ran.stderr
