"""What goes over the wire besides reports: jobs, crops, streams, facts about the service; with examples for OpenAPI.

Reports have a JSON Schema of their own, `video/report/report.schema.json`; `report_schemas` brings it into OpenAPI.
"""

from __future__ import annotations

import importlib.resources
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fakeface_jax.server.logs import utc
from fakeface_jax.server.storage.job_records import Job


class Progress(BaseModel):
    """How far a job is."""

    done: int = Field(examples=[12], description="Frames that were looked at.")
    total: int = Field(examples=[32], description="Frames to look at, about.")


class MediaFacts(BaseModel):
    """The file of a job."""

    sha256: str = Field(examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])
    bytes: int = Field(examples=[1048576])


class Has(BaseModel):
    """What there is to be had of a job."""

    report: bool
    page: bool
    crops: bool
    annotated: bool
    media: bool


class JobData(BaseModel):
    """A video to be scored, or scored."""

    id: str = Field(examples=["0f8fad5bd9cb469fa16570867728950e"])
    name: str = Field(examples=["clip.mp4"], description="As the client called it.")
    state: Literal["queued", "running", "done", "failed"]
    created: str = Field(examples=["2026-01-31T12:00:00.000Z"])
    started: str | None = None
    finished: str | None = None
    progress: Progress | None = None
    position: int | None = Field(default=None, description="In the queue, from 1.")
    attempt: int = Field(examples=[1], description="How often it was begun, whatever ended those runs.")
    verdict: Literal["real", "fake", "inconclusive", "no_face"] | None = None
    p_fake: float | None = Field(default=None, ge=0, le=1, examples=[0.12])
    reason: str | None = Field(default=None, description="The verdict in words.")
    error: str | None = Field(default=None, description="Why it failed, in one line.")
    retry_until: str | None = Field(
        default=None, description="Until when a failed job can be retried: its video is deleted then."
    )
    media: MediaFacts
    settings: dict[str, Any] = Field(examples=[{"frames": 32, "crops": True}])
    model_id: str
    has: Has
    cached: bool = Field(description="Answered from the report of the same media, settings and model.")
    expires: str | None = Field(default=None, description="When it will be deleted.")


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobData]
    next: str | None = Field(default=None, description="Give it as `before` for more.")


class Crop(BaseModel):
    """A face as the model saw it, and where its score comes from."""

    kind: Literal["most", "least", "face"]
    frame: int | None = None
    time: float | None = None
    person: int | None = None
    box: list[float] = Field(min_length=4, max_length=4)
    p_fake: float
    verdict: str
    crop: str = Field(examples=["data:image/jpeg;base64,..."])
    heat: str = Field(examples=["data:image/jpeg;base64,..."])


class Crops(BaseModel):
    """Faces of a video."""

    crops: list[Crop]


class VideoFields(BaseModel):
    """What is asked for of a video, from query, form or JSON."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, description="Of a file that is the body itself; a long one is cut.")
    frames: int | None = None
    fps: float | None = None
    every: int | None = None
    faces: int | None = None
    start: float | None = None
    end: float | None = None
    rule: str | None = None
    annotate: bool = False
    crops: bool = True
    keep_media: bool = False


class VideoByUrl(VideoFields):
    """A video that the service fetches; its operator names the hosts."""

    url: str = Field(max_length=4096, examples=["https://media.example.org/clip.mp4"])


class StreamRequest(BaseModel):
    """Which live source is to be watched."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(max_length=64, examples=["entrance"], description="A name from `sources` of /v1/streams.")


class StreamData(BaseModel):
    """A live source being watched."""

    id: str
    source: str
    state: Literal["connecting", "live", "stalled", "backoff", "ended"]
    verdict: Literal["real", "fake", "inconclusive", "no_face"]
    p_fake: float | None = None
    reason: str
    people: list[dict[str, Any]]
    counters: dict[str, Any] | None = None
    started: str
    ended: str | None = None
    error: str | None = None


class StreamList(BaseModel):
    """Live sources that are or were watched, and those that may be."""

    streams: list[StreamData]
    sources: list[str] = Field(examples=[["entrance"]], description="Names that the operator gave.")


class Info(BaseModel):
    """What this service is, and what it takes."""

    version: str
    model: dict[str, str] = Field(description="Name and id of the model that scores pictures and live sources.")
    video_model: dict[str, str] = Field(description="Name and id of the model that scores videos.")
    auth_required: bool
    limits: dict[str, float]
    bands: dict[str, Any] = Field(description="Thresholds of single faces.")
    operating_points: list[dict[str, Any]]
    video: dict[str, Any] | None = Field(default=None, description="Rule and thresholds of videos.")
    urls: bool = Field(description="Whether videos may be named by address.")


def describe_job(
    job: Job, *, progress: tuple[int, int] | None, position: int | None, has: dict[str, bool]
) -> dict[str, Any]:
    """A job as clients see it."""
    return {
        "id": job.id,
        "name": job.name,
        "state": str(job.state),
        "created": utc(job.created),
        "started": utc(job.started),
        "finished": utc(job.finished),
        "progress": None if progress is None else {"done": progress[0], "total": progress[1]},
        "position": position,
        "attempt": job.attempt,
        "verdict": job.verdict,
        "p_fake": job.p_fake,
        "reason": job.reason,
        "error": job.error,
        "retry_until": utc(job.retry_until),
        "media": {"sha256": job.media_sha256, "bytes": job.media_bytes},
        "settings": dict(job.settings),
        "model_id": job.model_id,
        "has": has,
        "cached": job.cached,
        "expires": utc(job.expires),
    }


def report_schemas() -> dict[str, Any]:
    """The schema of reports as components of OpenAPI: `ImageReport`, `VideoReport`, and what they refer to."""
    text = (
        importlib.resources.files("fakeface_jax.video.report")
        .joinpath("report.schema.json")
        .read_text(encoding="utf-8")
    )
    schema = json.loads(text.replace('"#/$defs/', '"#/components/schemas/Report.'))
    return {f"Report.{name}": part for name, part in schema["$defs"].items()}
