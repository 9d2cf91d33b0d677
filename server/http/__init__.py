"""The detector over HTTP: pictures at once, videos as jobs, live sources, the page."""

from fakeface_jax.server.http.app import create_app

__all__ = ["create_app"]
