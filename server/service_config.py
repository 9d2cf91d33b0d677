"""What an operator sets of the service; light, so that `fakeface serve --help` imports nothing heavy.

Example:
    >>> ServiceConfig(limits=Limits(video_bytes=2 * 2**30), streams=("entrance=rtsp://camera.local/live",))
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.url_policy import AllowList
from fakeface_jax.video.live.redaction import display_address

_STREAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


_MAY_BE_ZERO = (
    "images_waiting",
    "batch_wait",
    "streams_at_once",
    "live_sessions",
    "free_bytes",
    "body_rate",
    "decoders_memory",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may cost, and how much may wait.

    Attributes:
        image_bytes: of one picture, as it is received.
        frame_bytes: of one picture of a browser's camera.
        video_bytes: of one video, as it is received.
        pixels: of one picture or frame.
        video_seconds: of one video.
        video_frames: sampled of one video.
        job_seconds: that the work on one video may take, from decoding to drawing.
        faces: in one picture or frame.
        images_at_once: pictures that are decoded and scored at the same time; their faces share batches.
        images_waiting: more that may wait; beyond, requests are refused at once with 503.
        batch_wait: seconds that a face waits for others to share its batch.
        image_wait: seconds within which a picture that is let in is to be answered; where pictures take so long that
            fewer than `images_waiting` can be, fewer may wait.
        image_deadline: seconds until a picture that is not scored is given up.
        jobs_waiting: videos that may wait; beyond, requests are refused at once with 503.
        streams_at_once: live sources that are watched at once.
        live_sessions: browser cameras scored at once.
        connections: that may be open at once; where there are more, one that asks nothing makes room.
        connections_per_address: of these, from one address. A proxy is one address.
        uploads: videos that are received at once; one token, or one address without a token, has half of the places.
        image_uploads: pictures that are received at once, shared in the same way.
        upload_memory: bytes of pictures that are being received.
        decoder_memory: bytes that one decoder may take.
        decoders_memory: bytes that all decoders may take together; 0 for three quarters of what the machine, or its
            container, has. Beyond, new ones wait, and are refused with 503.
        free_bytes: of the disk, that uploads leave.
        event_readers: connections that follow the events of jobs and streams.
        idle: seconds without a byte of a request's body until it is given up.
        body_rate: bytes a second that the body of an upload has to bring; one that is slower for `idle` seconds is
            given up.
        upload: seconds that a whole upload may take.
    """

    image_bytes: int = 32 * 2**20
    frame_bytes: int = 4 * 2**20
    video_bytes: int = 2 * 2**30
    pixels: int = 64_000_000
    video_seconds: float = 4 * 3600.0
    video_frames: int = 20_000
    job_seconds: float = 2 * 3600.0
    faces: int = 200
    images_at_once: int = 8
    images_waiting: int = 32
    batch_wait: float = 0.004
    image_wait: float = 4.0
    image_deadline: float = 30.0
    jobs_waiting: int = 200
    streams_at_once: int = 2
    live_sessions: int = 4
    connections: int = 1024
    connections_per_address: int = 512
    uploads: int = 128
    image_uploads: int = 256
    upload_memory: int = 512 * 2**20
    decoder_memory: int = 2 * 2**30
    decoders_memory: int = 0
    free_bytes: int = 512 * 2**20
    event_readers: int = 100
    idle: float = 10.0
    body_rate: float = 4096.0
    upload: float = 3600.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in _MAY_BE_ZERO else 1e-3
            if not least <= value < float("inf"):
                raise ConfigError(f"{field.name} {value} is too small, or no number")
        if self.decoder_memory < 2**30:
            raise ConfigError(f"decoder_memory {self.decoder_memory} is below 1 GiB, which a decoder itself needs")
        if 0 < self.decoders_memory < 2 * self.decoder_memory:
            raise ConfigError(
                f"decoders_memory {self.decoders_memory} is less than two decoders need, {2 * self.decoder_memory}; "
                "set more, or 0 for three quarters of the machine's memory"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """The service.

    Attributes:
        limits: of requests and queues.
        host: the address to listen on. Beyond this machine, requests need a token.
        port: 0 for any free one.
        health_port: one more port at the same address that answers /healthz, /readyz and /metrics alone, also where
            the other port has no room for more connections; 0 for any free one, no such port if not given.
        streams: live sources that clients may have watched, each NAME=SOURCE; clients see and say the name alone.
        url_hosts: hosts that videos may be fetched from, exact or as `*.example.org`; none, so that clients cannot
            make the service open addresses, if not given.
        require_isolation: does not start, and is not ready, where something that should isolate decoders is missing.
        keep_reports: days until a job and its report are deleted.
        keep_failed: days that the video of a failed job stays, so that the job can be retried; 0 deletes it at once.
        attempts: failures of its own (its decoder crashed, its scoring raised an error) after which a job fails. Deaths
            of the service, and what is short for a while, are not among them.
        grace: seconds that requests have to end in when the service is stopped; a video goes back into the queue.
    """

    limits: Limits = Limits()
    host: str = "127.0.0.1"
    port: int = 8000
    health_port: int | None = None
    streams: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    url_hosts: tuple[str, ...] = ()
    require_isolation: bool = False
    keep_reports: float = 30.0
    keep_failed: float = 1.0
    attempts: int = 3
    grace: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"port {self.port} is not in 0 to 65535")
        if self.health_port is not None and not 0 <= self.health_port < 2**16:
            raise ConfigError(f"health_port {self.health_port} is not in 0 to 65535")
        if not 0 < self.keep_reports <= 36500 or self.attempts < 1 or not 0 <= self.grace <= 3600:
            raise ConfigError("keep_reports must be above 0 days, attempts at least 1, grace 0 to 3600 s")
        if not 0 <= self.keep_failed <= 36500:
            raise ConfigError(f"keep_failed {self.keep_failed} is not in 0 to 36500 days")
        self.named_streams()
        if self.url_hosts:
            AllowList(hosts=self.url_hosts)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def named_streams(self) -> dict[str, str]:
        """Sources by name.

        Raises:
            ConfigError: no name, or one that is given twice.
        """
        named: dict[str, str] = {}
        for text in self.streams:
            name, equals, source = text.partition("=")
            if not equals or not source or not _STREAM_NAME.fullmatch(name):
                # The source may hold a password.
                raise ConfigError(
                    f"--streams {display_address(text)}: write NAME=SOURCE; names have letters, digits, . _ -"
                )
            if name in named:
                raise ConfigError(f"--streams: the name {name} is given twice")
            named[name] = source
        return named
