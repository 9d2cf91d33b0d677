"""Computes the features of a manifest's faces: decodes every picture once, finds its face, renders and reads its views.

Example:
    >>> extract_features(load_manifest("manifest.parquet"), extractor, cache, views=("web", "drawn-0"), most=450)
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fakeface_jax.data.manifest import Manifest, Row
from fakeface_jax.data.sources import read_sample
from fakeface_jax.errors import MediaError
from fakeface_jax.faces import CropSpec, FaceDetector, landmarks_in_crop, sharpness
from fakeface_jax.features.aligned import Maker
from fakeface_jax.features.cache import FeatureCache
from fakeface_jax.features.extractor import FeatureExtractor
from fakeface_jax.features.views import face_square, render_view
from fakeface_jax.images import decode_image
from fakeface_jax.labels import Label

SHARD = 256
"""Rows that are written together; an interruption loses at most this many."""

_TOGETHER = 32
"""Views that the networks read in one go, so few that the next ones are decoded meanwhile."""


def extract_features(
    manifest: Manifest,
    extractor: FeatureExtractor,
    cache: FeatureCache,
    detector: FaceDetector,
    *,
    views: Sequence[str],
    splits: Sequence[str] = ("train", "validation", "calibration"),
    most: int | None = None,
    aligned: tuple[str, Maker] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Fills the cache with the rows that are missing, and returns how many were added.

    Args:
        manifest: the pictures.
        extractor: computes the features of the views.
        cache: the cache to fill; one for each backbone.
        detector: finds the faces; the largest face of a picture is used.
        views: names of `fakeface_jax.features.views`.
        splits: splits of the manifest to read.
        most: largest number of pictures per source and class, chosen by the order of their checksums, so that a larger
            number extends a smaller one.
        aligned: name and function of a kind of `fakeface_jax.features.aligned`; if given, real faces are altered with
            it and stored as fakes.
        progress: called with (rows done, all rows).
    """
    rows = choose_rows(manifest, splits=splits, most=most)
    there = cache.keys()
    kind = "" if aligned is None else aligned[0]
    wanted = []
    for row in rows:
        if aligned is not None and row.sample.label is not Label.REAL:
            continue
        missing = [view for view in views if (row.facts.sha256, view, kind) not in there]
        if missing:
            wanted.append((row, missing))
    total, done = sum(len(missing) for _, missing in wanted), 0
    pending: list[tuple[dict[str, Any], np.ndarray]] = []
    read: list[tuple[list[dict[str, Any]], dict[str, np.ndarray]]] = []

    def read_pending() -> None:
        if pending:
            crops = np.stack([crop for _, crop in pending])
            read.append(([record for record, _ in pending], extractor(crops)))
            pending.clear()

    def flush() -> None:
        read_pending()
        if not read:
            return
        arrays = {name: np.concatenate([part[name] for _, part in read]) for name in read[0][1]}
        cache.append([record for records, _ in read for record in records], arrays)
        read.clear()

    def render(item: tuple[Row, list[str]]) -> list[tuple[dict[str, Any], np.ndarray]]:
        row, missing = item
        return list(_render(row, missing, detector, aligned, extractor.size))

    with ThreadPoolExecutor(1) as pool:
        for rendered in _ahead(pool, render, wanted):
            pending.extend(rendered)
            done += len(rendered)
            if len(pending) >= _TOGETHER:
                read_pending()
            if sum(len(records) for records, _ in read) >= SHARD:
                flush()
                if progress is not None:
                    progress(done, total)
    flush()
    return done


def choose_rows(manifest: Manifest, *, splits: Sequence[str], most: int | None) -> list[Row]:
    """Sorts rows by a checksum, so that any prefix of the list contains all sources in proportion."""
    rows = [row for row in manifest.used() if row.split in splits]
    rows.sort(key=lambda row: hashlib.sha256(row.facts.sha256.encode()).hexdigest())
    taken: collections.Counter[tuple[str, Label]] = collections.Counter()
    chosen = []
    for row in rows:
        key = (row.sample.source, row.sample.label)
        if most is None or taken[key] < most:
            taken[key] += 1
            chosen.append(row)
    return chosen


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Sequence[Any], ahead: int = 64
) -> Iterator[Any]:
    """Yields results in order and computes some of them in advance."""
    queue: collections.deque[Any] = collections.deque()
    for item in items:
        queue.append(pool.submit(work, item))
        if len(queue) > ahead:
            yield queue.popleft().result()
    while queue:
        yield queue.popleft().result()


def _render(
    row: Row,
    views: Sequence[str],
    detector: FaceDetector,
    aligned: tuple[str, Maker] | None,
    size: int,
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    try:
        image = decode_image(read_sample(row.sample), source=f"{row.sample.root}/{row.sample.name}")
    except MediaError:
        return
    faces = detector.detect(image)
    if not faces:
        return
    square = face_square(image, faces[0].box)
    kind = ""
    if aligned is not None:
        kind, maker = aligned
        digest = hashlib.sha256(f"{row.facts.sha256}/{kind}".encode()).digest()
        landmarks = landmarks_in_crop(image.shape[:2], faces[0], CropSpec(size=len(square)))
        square = maker(square, landmarks, np.random.default_rng(int.from_bytes(digest[:8], "big")))
    for name in views:
        view = render_view(square, name, seed=row.facts.sha256, size=size)
        yield (
            {
                "sha256": row.facts.sha256,
                "view": name,
                "aligned": kind,
                "label": str(Label.FAKE if kind else row.sample.label),
                "source": row.sample.source,
                "method": kind or row.sample.method,
                "group": row.group,
                "split": row.split,
                "id": row.id,
                "face_side": float(faces[0].size),
                "picture_width": row.facts.width,
                "picture_height": row.facts.height,
                "picture_bytes": row.facts.bytes,
                "jpeg_tables": row.facts.jpeg_tables,
                "side": view.side,
                "bytes_per_pixel": view.bytes_per_pixel,
                "sharpness": sharpness(view.crop),
            },
            view.crop,
        )
