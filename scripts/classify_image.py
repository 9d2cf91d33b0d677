"""Scores the faces of pictures: `fakeface classify` from a checkout.

python scripts/classify_image.py photo.jpg --save scored.jpg
"""

import sys

from fakeface_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["classify", *sys.argv[1:]]))
