"""The front door of the library: one object that scores pictures, videos and live streams.

`fakeface_jax` exports everything here under its own name.

Example:
    >>> import fakeface_jax as ff
    >>> ff.score("portrait.jpg").verdict
    <Verdict.REAL: 'real'>
    >>> detector = ff.load("runs/mine/bundle")
    >>> detector.score_image(frame, colour="bgr").p_fake
    0.41
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fakeface_jax.backends.choice import BackendName
from fakeface_jax.bundle import load_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.detectors import create_detector
from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import FaceDetector
from fakeface_jax.images import is_image
from fakeface_jax.video import scoring
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.report.records import FrameRecord
from fakeface_jax.video.report.video_report import ImageReport, VideoReport

if TYPE_CHECKING:
    from PIL.Image import Image

    from fakeface_jax.video.live.stream_config import LiveConfig, StreamConfig
    from fakeface_jax.video.live.watch import Event

Colour = Literal["rgb", "bgr"]
"""Order of the colours of an array: OpenCV's `imread` and `VideoCapture.read` give `bgr`, everybody else `rgb`."""

PathOrBytes = str | os.PathLike[str] | bytes


class FakeFaceDetector:
    """Scores faces in pictures, videos and live streams with one model.

    Attributes:
        classifier: scores pictures and live streams; its `spec` has the thresholds and what they were measured on.
        face_detector: finds the faces.

    Args:
        classifier: scores pictures and live streams, and videos where no other model is given for them.
        face_detector: finds the faces; by default the one that the model was trained with.
        load_for_videos: loads the model for videos when the first one is scored.
    """

    def __init__(
        self,
        classifier: FaceClassifier,
        face_detector: FaceDetector | None = None,
        *,
        load_for_videos: Callable[[], FaceClassifier] | None = None,
    ) -> None:
        self.classifier = classifier
        self.face_detector = face_detector or create_detector(classifier.spec.detector)
        self._load_for_videos = load_for_videos

    @functools.cached_property
    def video_classifier(self) -> FaceClassifier:
        """The model that scores videos."""
        return self.classifier if self._load_for_videos is None else self._load_for_videos()

    def __repr__(self) -> str:
        spec = self.classifier.spec
        return f"<FakeFaceDetector {spec.name} ({self.classifier.bundle.id}), runs on {self.classifier.backend.name}>"

    def score(self, source: PathOrBytes) -> ImageReport | VideoReport:
        """Scores a picture or a video, whichever the file is by its content.

        Args:
            source: a path, or the bytes of a file.

        Raises:
            MediaError: the file cannot be read.
        """
        return self.score_image(source) if is_image(source) else self.score_video(source)

    def score_image(
        self,
        source: PathOrBytes | np.ndarray | Image,
        *,
        colour: Colour = "rgb",
        whole_image: bool = False,
        name: str | None = None,
    ) -> ImageReport:
        """Scores every face of one picture.

        Args:
            source: a path, the bytes of an image file, a picture of Pillow's, or a uint8 array [height, width, 3].
            colour: order of the colours of an array; `bgr` for what OpenCV read.
            whole_image: takes the picture itself for the crop of a face and does not look for faces in it.
            name: names the picture in the report; by default the path.

        Raises:
            MediaError: the picture cannot be read.
            ConfigError: the array is not uint8 of shape [height, width, 3], or the colour order is unknown.
        """
        given = _rgb(source, colour)
        return scoring.score_image(self.classifier, self.face_detector, given, whole_image=whole_image, name=name)

    def score_images(
        self, sources: Iterable[PathOrBytes | np.ndarray | Image], *, colour: Colour = "rgb"
    ) -> Iterator[ImageReport]:
        """Scores pictures one after the other and yields their reports in order; see `score_image`."""
        for source in sources:
            yield self.score_image(source, colour=colour)

    def score_video(
        self,
        source: PathOrBytes,
        sampling: Sampling | None = None,
        *,
        on_frame: Callable[[FrameRecord], None] | None = None,
        name: str | None = None,
    ) -> VideoReport:
        """Scores the people in a video, and the video.

        Args:
            source: a path, or the bytes of a video file.
            sampling: chooses the frames; by default 32, evenly spread.
            on_frame: receives each frame's record as soon as its faces are scored.
            name: names the video in the report; by default the path.

        Raises:
            MediaError: the video cannot be read.
        """
        return scoring.score_video(
            self.video_classifier, self.face_detector, source, sampling, on_frame=on_frame, name=name
        )

    def stream(
        self,
        source: str,
        *,
        seconds: float | None = None,
        reading: StreamConfig | None = None,
        scoring: LiveConfig | None = None,
    ) -> Iterator[Event]:
        """Watches a camera, a network stream, or a file at its own speed, and yields what happens.

        Args:
            source: the number of a camera, an address such as rtsp://host/path, or a path.
            seconds: ends the watch; by default it goes on until the source ends.
            reading: settings of the connection.
            scoring: settings of the window and of how steady a verdict is.

        Yields:
            At least one `Status` a second, and every change of a verdict or of the connection.

        Raises:
            ConfigError: the source is not one that can be opened.
        """
        from fakeface_jax.video.live.scorer import LiveScorer
        from fakeface_jax.video.live.stream import Stream
        from fakeface_jax.video.live.stream_config import LiveConfig, StreamConfig
        from fakeface_jax.video.live.watch import watch

        scorer = LiveScorer(self.classifier, self.face_detector, scoring or LiveConfig())
        scorer.warm_up()
        with Stream(source, reading or StreamConfig()) as stream:
            yield from watch(stream, scorer, seconds=seconds)


def load(model: str | os.PathLike[str] | None = None, *, backend: BackendName = "auto") -> FakeFaceDetector:
    """Loads a model with the face detector that it was trained with.

    Args:
        model: the name of a model that ships, or the directory of a bundle; by default the models that ship, one for
            pictures and live streams and one for videos.
        backend: runs the network: `auto`, `openvino` or `jax`.

    Raises:
        BundleError: the model is missing or damaged.
        ConfigError: the backend cannot run this network.
    """
    classifier = FaceClassifier(load_bundle(model), backend=backend)
    if model is not None:
        return FakeFaceDetector(classifier)
    return FakeFaceDetector(
        classifier, load_for_videos=lambda: FaceClassifier(load_bundle(medium="video"), backend=backend)
    )


@functools.cache
def _default() -> FakeFaceDetector:
    """The model that ships, loaded once for the functions below."""
    return load()


def score(source: PathOrBytes) -> ImageReport | VideoReport:
    """Scores a picture or a video with the model that ships; see `FakeFaceDetector.score`."""
    return _default().score(source)


def score_image(
    source: PathOrBytes | np.ndarray | Image,
    *,
    colour: Colour = "rgb",
    whole_image: bool = False,
    name: str | None = None,
) -> ImageReport:
    """Scores every face of a picture with the model that ships; see `FakeFaceDetector.score_image`."""
    return _default().score_image(source, colour=colour, whole_image=whole_image, name=name)


def score_video(source: PathOrBytes, sampling: Sampling | None = None, *, name: str | None = None) -> VideoReport:
    """Scores a video with the model that ships; see `FakeFaceDetector.score_video`."""
    return _default().score_video(source, sampling, name=name)


def stream(source: str, *, seconds: float | None = None) -> Iterator[Event]:
    """Watches a live source with the model that ships; see `FakeFaceDetector.stream`."""
    return _default().stream(source, seconds=seconds)


def _rgb(source: Any, colour: str) -> Any:
    """Turns arrays and Pillow's pictures into RGB arrays; paths and bytes stay as they are."""
    if colour not in ("rgb", "bgr"):
        raise ConfigError(f"colour={colour!r} is unknown; say 'rgb', or 'bgr' for arrays that OpenCV read")
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ConfigError(
                f"the array is {source.dtype} of shape {source.shape}; give uint8 of shape (height, width, 3)"
            )
        return np.ascontiguousarray(source[:, :, ::-1]) if colour == "bgr" else source
    if hasattr(source, "getexif") and hasattr(source, "mode"):
        from fakeface_jax.images import from_pillow

        return from_pillow(source)
    if not isinstance(source, str | os.PathLike | bytes):
        raise ConfigError(
            f"a {type(source).__name__} cannot be scored; give a path, the bytes of a file, an array or a Pillow image"
        )
    return source
