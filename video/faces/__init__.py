"""Frames in, faces out: detected, cropped, and followed over time."""
