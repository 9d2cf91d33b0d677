"""Trains a model on CPU, GPU or TPU: `fakeface train` from a checkout.

JAX chooses the device; JAX_PLATFORMS=cpu forces the CPU. A run of a minute on a CPU shows that everything works:

    python scripts/train.py --data runs/report-data/fake_faces/faces-150 --output runs/try --dry-run
"""

import sys

from fakeface_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
