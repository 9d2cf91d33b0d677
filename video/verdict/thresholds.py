"""How much a verdict must rest on; less is `inconclusive`.

Example:
    >>> report.evidence.frames_with_face >= MIN_FRAMES
    True
"""

MIN_FRAMES = 5
"""With scored faces in fewer frames a video is `inconclusive`: averaging that few leaves most of one frame's error (on
DFDC, log loss .490 for one frame against .254 for 32). Many faces in one frame are no substitute: they share its light,
its blur and its compression."""

MIN_SECONDS = 1.0
"""The same for faces seen over a shorter time: neighbouring frames are one observation, however many they are."""

MAX_UNREAD = 0.1
"""With a larger share of its frames that could not be read (damaged, cut off), a video is not called `real`: what it is
asked about may be in the rest, and whoever wants a fake to pass could damage the part that shows it."""

MIN_SHARPNESS = 0.01
"""Of a crop, see `fakeface_jax.faces.sharpness`. None of 457 validation faces looked at is below; of the same faces
blurred by 4 of 224 pixels, nearly all are."""
