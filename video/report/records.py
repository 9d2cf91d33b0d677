"""What one face, one frame, one person, one file contribute to a report: plain records, without behaviour.

Example:
    >>> Segment(start=12.0, end=15.0, p_fake=0.97, verdict=Verdict.FAKE).seconds
    3.0
"""

from __future__ import annotations

import dataclasses
import enum

from fakeface_jax.decision import OperatingPoint, VerdictBands, VideoDecision
from fakeface_jax.faces import Box
from fakeface_jax.labels import Verdict


class Role(enum.StrEnum):
    """Whether a person's score counts for the video."""

    MAIN = "main"
    BACKGROUND = "background"
    """Much smaller than the largest person, or seen for a small part of the time."""
    STILL = "still"
    """Does not move at all while others do: a poster, a photograph, a paused picture in the picture."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FaceRecord:
    """One face.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the original frame.
        p_fake: calibrated probability in [0, 1]; None for a face too small to be scored.
        verdict: by the bundle's bands; `inconclusive` for a face too small to be scored.
        confidence: the detector's, in [0, 1]: that it is a face at all.
        logit: calibrated; `p_fake` is its sigmoid. What videos average.
        person: number of the person in this video, from 1; None in pictures.
        sharpness: of the crop, see `fakeface_jax.faces.sharpness`; None for a face too small to be scored.
        carried: the box lies between two detections and was not itself detected.
    """

    box: Box
    p_fake: float | None
    verdict: Verdict
    confidence: float
    logit: float | None = None
    person: int | None = None
    sharpness: float | None = None
    carried: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FrameRecord:
    """One sampled frame of a video.

    Attributes:
        index: number of the frame in the video, from 0.
        time: seconds from the first frame, by the container's timestamps.
        faces: largest first; empty when none was found.
    """

    index: int
    time: float
    faces: tuple[FaceRecord, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Media:
    """The file that was scored.

    Attributes:
        sha256: of the file's bytes; None for arrays.
        width: pixels, upright.
        height: pixels.
        fps: nominal frame rate; None for images and where unknown.
        frames: how many frames the file holds, counted; 1 for images.
        frames_stated: how many its header claims.
        duration: seconds; None for images and where unknown.
        times_from: `container` timestamps, or the `frame rate` where there are none.
    """

    sha256: str | None
    width: int
    height: int
    fps: float | None = None
    frames: int = 1
    frames_stated: int | None = None
    duration: float | None = None
    times_from: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """What scored, and by which thresholds.

    Attributes:
        name: of the bundle.
        id: sha256 over the bundle's specification and weights.
        calibration: `none`, `temperature` or `platt`.
        detector: the face detector used.
        trained_with_detector: the face detector the model's training crops were found with.
        bands: what turns P(fake) into a verdict.
        operating_points: the thresholds behind the bands, with the error rates they were chosen for.
        video: how a video's score becomes P(fake) and a verdict; None for a model that was calibrated on faces alone,
            whose thresholds then serve for videos too.
    """

    name: str
    id: str
    calibration: str
    detector: str
    trained_with_detector: str
    bands: VerdictBands
    operating_points: tuple[OperatingPoint, ...] = ()
    video: VideoDecision | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """How much a verdict rests on.

    Attributes:
        faces_scored: how many faces.
        frames_sampled: how many frames were looked at.
        frames_with_face: of those, how many have a scored face.
        seconds: from the first to the last of these, the latter's own duration included.
        faces_too_small: found and not scored.
        frames_dropped: frames that the file states or holds and that could not be read: damaged, or cut off.
        frames_sharp: frames with a scored face that is no blur.
    """

    faces_scored: int
    frames_sampled: int
    frames_with_face: int
    seconds: float
    faces_too_small: int
    frames_dropped: int
    frames_sharp: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of time in which one person looks fake.

    Attributes:
        start: seconds from the first frame.
        end: seconds.
        p_fake: of the faces in it, in [0, 1].
        verdict: by the bands for videos.
    """

    start: float
    end: float
    p_fake: float
    verdict: Verdict

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersonRecord:
    """One person in one video: a face followed over time.

    Attributes:
        number: from 1, in order of appearance; the same as in `FaceRecord.person`.
        role: `main` where the score counts for the video.
        p_fake: of this person, in [0, 1]; None where no face was large enough to be scored.
        verdict: `no_face` without a scored face, `inconclusive` on little evidence, else by the bands for videos.
        reason: the verdict in words.
        start: seconds from the first frame when first seen.
        end: seconds when last seen.
        evidence: what it rests on.
        face_pixels: median of the longer side of the face, in pixels.
        segments: where this person looks fake, in order of time.
    """

    number: int
    role: Role
    p_fake: float | None
    verdict: Verdict
    reason: str
    start: float
    end: float
    evidence: Evidence
    face_pixels: float
    segments: tuple[Segment, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Wall-clock seconds of each stage.

    Attributes:
        open: checking, counting and hashing the file.
        decode: waiting for frames: decoding goes on during the other stages.
        detect: finding faces and cutting crops.
        classify: scoring them.
        track: telling people apart.
        aggregate: from face scores to the verdict.
    """

    open: float = 0.0
    decode: float = 0.0
    detect: float = 0.0
    classify: float = 0.0
    track: float = 0.0
    aggregate: float = 0.0

    @property
    def total(self) -> float:
        """Of all stages."""
        return self.open + self.decode + self.detect + self.classify + self.track + self.aggregate
