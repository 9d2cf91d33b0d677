"""The TFDS data set `fake_faces`, which is written from a manifest."""
