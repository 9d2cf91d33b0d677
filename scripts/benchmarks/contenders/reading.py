"""A video file, decoded alone or scored: what decoding costs of scoring.

    reading.py CLIP KIND [BUNDLE]

KIND is `score` (our `score_video`, with the model that ships or BUNDLE), `walk` (our reader alone, same frames) or
`opencv` (the decoder alone: OpenCV grabs every frame and converts every `step`-th).
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

from serving import serve


def make() -> Any:
    """The program's answers."""
    import cv2

    from fakeface_jax.classifier import FaceClassifier
    from fakeface_jax.detectors import create_detector
    from fakeface_jax.video.reading.opencv import open_video
    from fakeface_jax.video.reading.sampling import Sampling
    from fakeface_jax.video.scoring import score_video

    clip, kind, *bundle = sys.argv[1:]
    classifier = FaceClassifier.load(*bundle)
    detector = create_detector(classifier.spec.detector)

    def score(sampling: Sampling) -> dict[str, Any]:
        report = score_video(classifier, detector, clip, sampling)
        faces = sum(len(frame.faces) for frame in report.frames)
        parts = {name: value for name, value in dataclasses.asdict(report.seconds).items() if value}
        return {"frames": len(report.frames), "faces": faces, "parts": parts}

    def walk(sampling: Sampling) -> dict[str, Any]:
        with open_video(clip) as video:
            return {"frames": sum(1 for _ in video.frames(sampling))}

    def opencv(step: int) -> dict[str, Any]:
        capture, count, taken = cv2.VideoCapture(clip, cv2.CAP_FFMPEG), 0, 0
        while capture.grab():
            if count % step == 0:
                taken += capture.retrieve()[0]
            count += 1
        capture.release()
        return {"frames": taken}

    def answer(every: int | None = None, fps: float | None = None, step: int = 1) -> dict[str, Any]:
        sampling = Sampling(every=every, fps=fps)
        started = time.perf_counter()
        if kind == "score":
            told = score(sampling)
        elif kind == "walk":
            told = walk(sampling)
        else:
            told = opencv(step)
        return told | {"seconds": time.perf_counter() - started}

    return answer


if __name__ == "__main__":
    serve(make)
