"""Measures a bundle on a split of prepared crops: `fakeface evaluate` from a checkout.

python scripts/evaluate.py --data runs/report-data/fake_faces/faces-150 --output runs/report-cnn/test
"""

import sys

from fakeface_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
