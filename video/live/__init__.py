"""Cameras and network streams: read without waiting for the model, scored over the last seconds."""
