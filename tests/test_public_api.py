import subprocess
import sys

import pytest

import fakeface_jax

MEASURE = """
import sys, time
start = time.process_time()
import fakeface_jax
spent = time.process_time() - start
heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[1].split(",")))
print(spent, ",".join(heavy) or "nothing")
"""
HEAVY = "jax,flax,cv2,tensorflow,tensorflow_datasets,optax,grain,PIL,scipy,sklearn,pyarrow,matplotlib"


def test_importing_the_package_is_cheap():
    done = subprocess.run([sys.executable, "-c", MEASURE, HEAVY], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.split()
    assert heavy == "nothing"
    assert float(seconds) < 0.5
    assert done.stderr == ""


@pytest.mark.parametrize("name", fakeface_jax.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(fakeface_jax, name)
    assert value.__doc__
    assert value.__module__.startswith("fakeface_jax.")


def test_the_public_names_are_listed_in_order_and_once():
    assert list(fakeface_jax.__all__) == sorted(set(fakeface_jax.__all__))
    assert set(fakeface_jax._LAZY) <= set(fakeface_jax.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_thing"):
        fakeface_jax.no_such_thing  # noqa: B018 - the access is the test


def test_everything_public_can_be_imported_with_a_star():
    namespace = {}
    exec("from fakeface_jax import *", namespace)
    assert set(fakeface_jax.__all__) <= set(namespace)
