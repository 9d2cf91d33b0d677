"""Vision transformers answer as `transformers` does, are rebuilt from their settings, and refuse what does not fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import save_file

from fakeface_jax.errors import BundleError, ConfigError
from fakeface_jax.models import fill_state, flatten_state
from fakeface_jax.models.huggingface import our_name, read_huggingface
from fakeface_jax.models.vit import (
    VisionTransformer,
    bicubic_matrix,
    layer_norm_only,
    resize_positions,
    rotary_table,
    unit_length,
)

TINY = {"size": 16, "patch": 4, "width": 16, "depth": 1, "heads": 2, "mlp_width": 24}
ROTARY = TINY | {"position_grid": 0, "registers": 3, "layer_scale": True, "biases": ["patch", "query", "mlp"]}
LEARNT = TINY | {"position_grid": 4, "pre_norm": True, "activation": "quick_gelu", "gated_mlp": True}
RNG = np.random.default_rng(0)
PIXELS = RNG.normal(size=(3, 16, 16, 3)).astype(np.float32)


def filled(settings, weights):
    """The network with a directory's weights and a classifier of zeros."""
    model = nnx.eval_shape(lambda: VisionTransformer(rngs=nnx.Rngs(0), **settings))
    head = {
        "classifier.kernel": np.zeros((settings["width"], 1), np.float32),
        "classifier.bias": np.zeros(1, np.float32),
    }
    nnx.update(model, fill_state(nnx.state(model, nnx.Param), weights | head, name="vit"))
    return model


def features(model, pixels):
    graph, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graph, state).features(x))(state, jnp.asarray(pixels)))


def logits(model, pixels, **options):
    graph, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state, x: nnx.merge(graph, state)(x, **options))(state, jnp.asarray(pixels)))


# ---- against transformers -------------------------------------------------------------------------------------------


def published(family, directory):
    """A tiny network of a family with random weights, saved as its authors save theirs; (pixels) -> features."""
    torch = pytest.importorskip("torch", reason="needs torch: make test-parity")
    transformers = pytest.importorskip("transformers", reason="needs transformers: make test-parity")
    common = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    torch.manual_seed(0)
    if family == "clip":
        text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.CLIPConfig(
            vision_config=common | {"intermediate_size": 40},
            text_config=text | {"vocab_size": 50},
            projection_dim=8,
        )
        model = transformers.CLIPModel(config)
    elif family.startswith("dinov2"):
        config = transformers.Dinov2Config(**common, use_swiglu_ffn=family == "dinov2 gated", mlp_ratio=2)
        model = transformers.Dinov2Model(config)
    else:
        gated = {"use_gated_mlp": True, "hidden_act": "silu", "key_bias": True} if "gated" in family else {}
        config = transformers.DINOv3ViTConfig(**common, intermediate_size=40, num_register_tokens=3, **gated)
        model = transformers.DINOv3ViTModel(config)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh scales are 1 and fresh biases 0, which would hide a mix-up
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.eval().save_pretrained(directory)
    tower = model.vision_model if family == "clip" else model
    options = {"interpolate_pos_encoding": True} if family == "clip" else {}

    def answer(pixels):
        with torch.no_grad():
            return tower(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), **options).pooler_output.numpy()

    return answer


@pytest.mark.filterwarnings("ignore")  # of transformers' own making
@pytest.mark.parametrize("family", ["clip", "dinov2", "dinov2 gated", "dinov3_vit", "dinov3_vit gated"])
def test_features_are_those_of_transformers_at_the_native_size_and_at_another(family, tmp_path):
    answer = published(family, tmp_path)
    found = read_huggingface(tmp_path)
    assert found.settings["size"] == 16
    model = filled(found.settings, found.weights)
    for size in (16, 28):
        pixels = np.random.default_rng(size).normal(size=(2, size, size, 3)).astype(np.float32)
        wanted = answer(pixels)
        np.testing.assert_allclose(features(model, pixels), wanted, rtol=1e-4, atol=1e-4)
        assert wanted.std() > 0.1


def test_positions_are_resized_as_in_pytorch():
    torch = pytest.importorskip("torch", reason="needs torch: make test-parity")
    table = RNG.normal(size=(25, 6)).astype(np.float32)
    for grid in (3, 5, 8):
        theirs = torch.from_numpy(table).reshape(1, 5, 5, 6).permute(0, 3, 1, 2)
        theirs = torch.nn.functional.interpolate(theirs, size=(grid, grid), mode="bicubic", align_corners=False)
        ours = resize_positions(jnp.asarray(table), grid)
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).reshape(-1, 6), rtol=1e-5, atol=1e-5)


# ---- the network alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [ROTARY, LEARNT], ids=["rotary", "learnt"])
def test_settings_and_weights_alone_rebuild_the_network(settings):
    first = VisionTransformer(rngs=nnx.Rngs(1), **settings)
    again = VisionTransformer(rngs=nnx.Rngs(2), **json.loads(json.dumps(settings)))
    wanted = logits(first, PIXELS)
    assert wanted.shape == (3,)
    assert np.abs(logits(again, PIXELS) - wanted).max() > 1e-5
    nnx.update(again, fill_state(nnx.state(again, nnx.Param), flatten_state(nnx.state(first, nnx.Param)), name="vit"))
    np.testing.assert_array_equal(logits(again, PIXELS), wanted)
    np.testing.assert_array_equal(logits(again, PIXELS, key=jax.random.key(0)), wanted)


def test_half_precision_computes_the_same_network_and_answers_in_float32():
    full = VisionTransformer(rngs=nnx.Rngs(0), **ROTARY)
    half = VisionTransformer(rngs=nnx.Rngs(0), dtype="bfloat16", **ROTARY)
    wanted, found = features(full, PIXELS), features(half, PIXELS)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(half, nnx.Param)))


def test_logits_see_the_feature_or_only_its_direction():
    model = VisionTransformer(rngs=nnx.Rngs(0), **LEARNT)
    plain = VisionTransformer(rngs=nnx.Rngs(0), unit_features=False, **LEARNT)
    seen = features(model, PIXELS)
    length = np.linalg.norm(seen, axis=1)
    kernel, bias = np.asarray(model.classifier.kernel[...])[:, 0], np.asarray(model.classifier.bias[...])
    np.testing.assert_allclose(logits(model, PIXELS), seen @ kernel / length + bias, atol=1e-6)
    np.testing.assert_allclose(logits(plain, PIXELS), seen @ kernel + bias, atol=1e-6)
    assert np.all(np.abs(length - 1) > 0.1)
    assert np.isfinite(jax.grad(lambda x: unit_length(x).sum())(jnp.zeros((1, 4)))).all()


def test_layer_norm_tuning_moves_norms_and_classifier_alone():
    model = VisionTransformer(rngs=nnx.Rngs(0), **LEARNT)
    graph, params = nnx.split(model, nnx.Param)
    paths = [path for path, _ in nnx.to_flat_state(params)]
    kinds = ["moved" if layer_norm_only(path) else "frozen" for path in paths]
    assert kinds.count("moved") == 2 * (1 + 2 + 1) + 2  # before, two in the block, last; and the classifier
    tree = jax.tree.unflatten(jax.tree.structure(params), kinds)
    optimizer = optax.partition({"moved": optax.adam(0.01), "frozen": optax.set_to_zero()}, tree)

    def loss_of(params):
        return jnp.square(nnx.merge(graph, params)(jnp.asarray(PIXELS)) - 1).mean()

    updates, _ = optimizer.update(jax.jit(jax.grad(loss_of))(params), optimizer.init(params), params)
    moved = flatten_state(updates)
    for path, kind in zip(paths, kinds, strict=True):
        assert np.any(moved[".".join(map(str, path))]) == (kind == "moved"), path


@pytest.mark.parametrize("frozen", [0, 2])
def test_frozen_stages_get_no_gradient_and_the_others_do(frozen):
    model = VisionTransformer(rngs=nnx.Rngs(0), frozen_stages=frozen, **ROTARY)
    graph, params = nnx.split(model, nnx.Param)
    gradient = jax.jit(jax.grad(lambda params: nnx.merge(graph, params)(jnp.asarray(PIXELS)).sum()))(params)
    stages = {path: model.stage_of(path) for path, _ in nnx.to_flat_state(params)}
    assert set(stages.values()) == {0, 1, 2}
    for path, leaf in nnx.to_flat_state(gradient):
        assert np.any(leaf[...]) == (stages[path] >= frozen), path


def test_the_summary_counts_every_parameter():
    model = VisionTransformer(rngs=nnx.Rngs(0), frozen_stages=2, **ROTARY)
    total = sum(value.size for value in flatten_state(nnx.state(model, nnx.Param)).values())
    block = 4 * 16 * 16 + 2 * 16 * 24 + 16 + 24 + 16 + 6 * 16  # products, three biases, scales and shifts
    assert total == 48 * 16 + 16 + 16 + 3 * 16 + block + 2 * 16 + 17
    text = model.summary()
    assert f"Total parameters: {total:,}" in text
    assert text.count("(None, 20, 16)") == 2
    assert text.count("frozen") == 2


def test_the_large_networks_have_as_many_parameters_as_published():
    settings = {"patch": 14, "width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096}
    clip = settings | {"pre_norm": True, "position_grid": 16, "biases": ["query", "key", "value", "out", "mlp"]}
    shapes = nnx.eval_shape(lambda: nnx.state(VisionTransformer(rngs=nnx.Rngs(0), **clip), nnx.Param))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count - 1025 == 303_179_776  # of CLIP's ViT-L/14 without its projection


def test_rotary_positions_turn_and_keep_lengths():
    cosine, sine = rotary_table(3, 2, 8, 100.0)
    assert cosine.shape == sine.shape == (11, 8)
    np.testing.assert_allclose(cosine**2 + sine**2, 1, atol=1e-6)
    np.testing.assert_array_equal(sine[:2], 0)  # tokens without a place
    np.testing.assert_allclose(sine[2 + 4], 0, atol=1e-6)  # the middle of the picture
    np.testing.assert_allclose(sine[2], -sine[-1], atol=1e-6)  # opposite corners


def test_resampling_keeps_constants_and_straight_lines():
    for old, new in ((4, 4), (5, 9), (9, 4)):
        matrix = bicubic_matrix(old, new)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(bicubic_matrix(4, 4), np.eye(4), atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": 15}, "not a multiple"),
        ({"heads": 3}, "multiple of its 3 heads"),
        ({"heads": 8, "position_grid": 0}, "rotary"),
        ({"dtype": "float16"}, "float16"),
        ({"activation": "tanh"}, "activation"),
        ({"biases": ["query", "window"]}, "window"),
        ({"depth": 0}, "depth"),
        ({"registers": -1}, "registers"),
        ({"width": 16.0}, "width"),
        ({"frozen_stages": 3}, "frozen_stages"),
        ({"norm_epsilon": 0.0}, "norm_epsilon"),
    ],
)
def test_settings_that_cannot_be_used_say_so(setting, message, unchecked_types):
    with pytest.raises(ConfigError, match=message):
        VisionTransformer(rngs=nnx.Rngs(0), **TINY | setting)


def test_pictures_that_cannot_be_cut_into_patches_are_refused():
    with pytest.raises(ConfigError, match="18 pixels"):
        VisionTransformer(rngs=nnx.Rngs(0), **LEARNT)(jnp.zeros((1, 18, 18, 3)))


# ---- directories, without torch -------------------------------------------------------------------------------------

CONFIG = {
    "model_type": "dinov2",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": 8,
    "patch_size": 4,
}


def tensors(*, query="attention.attention.query", out="attention.output.dense"):
    """What `transformers` 4 calls, and shapes, a DINOv2 of `CONFIG`."""
    block = "encoder.layer.0."
    square, names = (8, 8), (query, query.replace("query", "key"), query.replace("query", "value"), out)
    if query.endswith("q_proj"):
        names = (query, query.replace("q_", "k_"), query.replace("q_", "v_"), out)
    shapes = {
        "embeddings.cls_token": (1, 1, 8),
        "embeddings.mask_token": (1, 8),
        "embeddings.position_embeddings": (1, 5, 8),
        "embeddings.patch_embeddings.projection.weight": (8, 3, 4, 4),
        "embeddings.patch_embeddings.projection.bias": (8,),
        **{f"{block}{name}.weight": square for name in names},
        **{f"{block}{name}.bias": (8,) for name in names},
        **{f"{block}norm{number}.{leaf}": (8,) for number in (1, 2) for leaf in ("weight", "bias")},
        **{f"{block}layer_scale{number}.lambda1": (8,) for number in (1, 2)},
        f"{block}mlp.fc1.weight": (16, 8),
        f"{block}mlp.fc1.bias": (16,),
        f"{block}mlp.fc2.weight": (8, 16),
        f"{block}mlp.fc2.bias": (8,),
        "layernorm.weight": (8,),
        "layernorm.bias": (8,),
    }
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(directory, config=CONFIG, weights=None, **files):
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors() if weights is None else weights, directory / "model.safetensors")
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def test_weights_arrive_by_our_names_and_axes(tmp_path):
    theirs = tensors()
    settings, weights, mean, std = read_huggingface(write(tmp_path))
    assert settings["norm_epsilon"] == 1e-6  # config.json is silent: the family's own
    assert mean == (0.485, 0.456, 0.406)
    assert std == (0.229, 0.224, 0.225)
    block = "encoder.layer.0."
    np.testing.assert_array_equal(weights["blocks.0.up.kernel"], theirs[f"{block}mlp.fc1.weight"].T)
    np.testing.assert_array_equal(weights["blocks.0.out.bias"], theirs[f"{block}attention.output.dense.bias"])
    np.testing.assert_array_equal(weights["blocks.0.layer_scale2"], theirs[f"{block}layer_scale2.lambda1"])
    np.testing.assert_array_equal(weights["position"], theirs["embeddings.position_embeddings"][0])
    assert features(filled(settings, weights), PIXELS[:, :8, :8]).shape == (3, 8)
    # A patch is read row by row, its colours innermost.
    patch = RNG.normal(size=(4, 4, 3)).astype(np.float32)
    kernel = theirs["embeddings.patch_embeddings.projection.weight"]
    np.testing.assert_allclose(
        patch.reshape(-1) @ weights["patch.kernel"], np.einsum("ocyx,yxc->o", kernel, patch), rtol=1e-5, atol=1e-5
    )


def test_older_and_newer_names_and_shards_are_the_same_weights(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    wanted = read_huggingface(write(first)).weights
    newer = {f"dinov2.{k}": v for k, v in tensors(query="attention.q_proj", out="attention.o_proj").items()}
    write(second, weights={})
    (second / "model.safetensors").unlink()
    places = {name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(newer)}
    for file in set(places.values()):
        save_file({name: newer[name] for name in newer if places[name] == file}, second / file)
    (second / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    found = read_huggingface(second).weights
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_the_directory_states_its_normalisation_and_size(tmp_path):
    stated = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 2], "crop_size": {"height": 14, "width": 14}}
    found = read_huggingface(write(tmp_path, preprocessor_config=stated))
    assert found.mean == (0.1, 0.2, 0.3)
    assert found.std == (1.0, 1.0, 2.0)
    assert found.settings["size"] == 12  # in whole patches
    assert found.settings["position_grid"] == 2
    json.dumps(found.settings)


@pytest.mark.parametrize(
    ("family", "theirs", "ours"),
    [
        ("clip_vision_model", "vision_model.pre_layrnorm.weight", "norm_pre.scale"),
        ("clip_vision_model", "encoder.layers.7.self_attn.k_proj.bias", "blocks.7.key.bias"),
        ("clip_vision_model", "text_model.encoder.layers.7.self_attn.k_proj.bias", None),
        ("clip_vision_model", "visual_projection.weight", None),
        ("dinov2", "encoder.layer.2.mlp.weights_in.weight", "blocks.2.gate+up.kernel"),
        ("dinov2", "embeddings.mask_token", None),
        ("dinov3_vit", "layer.2.mlp.gate_proj.weight", "blocks.2.gate.kernel"),
        ("dinov3_vit", "model.layer.2.norm2.bias", "blocks.2.norm2.bias"),
        ("dinov3_vit", "embeddings.register_tokens", "registers"),
        ("dinov3_vit", "norm.weight", "norm.scale"),
    ],
)
def test_names(family, theirs, ours):
    assert our_name(family, theirs) == ours


def without(name):
    return {key: value for key, value in tensors().items() if key != name}


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        (CONFIG | {"model_type": "swin"}, None, "model_type 'swin'"),
        (CONFIG | {"num_attention_heads": 3}, None, "3 heads"),
        (CONFIG | {"patch_size": [4, 2]}, None, "not a square"),
        (CONFIG | {"hidden_act": "relu6"}, None, "relu6"),
        (CONFIG | {"num_channels": 1}, None, "1 channels"),
        (CONFIG | {"num_hidden_layers": None}, None, "describes an unsupported network"),
        (CONFIG | {"hidden_size": 16}, None, r"has shape .* requires"),
        (CONFIG | {"num_hidden_layers": 2}, None, "lacks the weight blocks.1"),
        (CONFIG | {"qkv_bias": False}, None, "do not belong to its config.json: blocks.0.key.bias"),
        (CONFIG, without("layernorm.bias"), "lacks the weight norm.bias"),
    ],
)
def test_what_does_not_fit_is_one_line(config, weights, message, tmp_path, unchecked_types):
    with pytest.raises(BundleError, match=message) as caught:
        read_huggingface(write(tmp_path, config, weights))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_what_is_missing_or_damaged_says_what_to_do(tmp_path):
    with pytest.raises(BundleError, match="the directory does not exist"):
        read_huggingface(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"config\.json: cannot be read"):
        read_huggingface(tmp_path)
    write(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nonsense")
    with pytest.raises(BundleError, match="cannot be read as safetensors"):
        read_huggingface(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(BundleError, match="save_pretrained"):
        read_huggingface(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(BundleError, match=r"contains no \*\.safetensors"):
        read_huggingface(tmp_path)
    for name in "ab":
        save_file(tensors(), tmp_path / f"{name}.safetensors")
    with pytest.raises(BundleError, match="no index"):
        read_huggingface(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(BundleError, match="must list files in the same directory"):
        read_huggingface(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BundleError, match="is not valid JSON"):
        read_huggingface(tmp_path)
