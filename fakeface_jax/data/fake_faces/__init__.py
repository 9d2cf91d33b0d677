"""The TFDS data set `fake_faces`, written from a manifest."""
