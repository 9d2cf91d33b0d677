"""Starts the service: `fakeface serve` from a checkout.

python scripts/serve.py --port 8000
"""

import sys

from fakeface_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
