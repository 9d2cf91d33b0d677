"""Scores videos: `fakeface score` from a checkout.

python scripts/score_video.py clip.mp4 --fps 2 --save scored.mp4
"""

import sys

from fakeface_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
