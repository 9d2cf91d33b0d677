"""A TFDS builder that writes the face crops of a manifest as ArrayRecord, without TensorFlow.

Every picture is decoded, its largest face is found and cut with the `crop_face` that scoring uses, and the crop is
encoded with one set of JPEG tables, so that all classes have the same file history. Use `fakeface data build`, or:

Example:
    >>> builder = Builder(manifest="manifest.parquet", data_dir="data", file_format="array_record")
    >>> builder.download_and_prepare()
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from fakeface_jax.data.manifest import SPLITS, Manifest, Row, load_manifest
from fakeface_jax.data.sources import read_sample
from fakeface_jax.detectors import create_detector
from fakeface_jax.errors import DataError, FakeFaceError, MediaError
from fakeface_jax.faces import CropSpec, Face, FaceDetector, crop_face, landmarks_in_crop, whole_image_box
from fakeface_jax.images import decode_image

JPEG_QUALITY = 95
"""Quality of the one encoding that all crops go through; with 4:4:4 chroma, so that colour keeps its resolution."""


SAMPLE_VERSION = "1.1.0"
"""Version of the features that a stored sample has."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """A builder of face crops with label, source, method, group, and their position in the picture.

    Args:
        manifest: path of a manifest.
        crop: geometry of the crops; `size` is also the side of the stored pictures.
        whole_images: store the largest centred square of the picture instead of a face, as the report did.
        detector: name of a detector for `create_detector`.
    """

    VERSION = tfds.core.Version(SAMPLE_VERSION)
    RELEASE_NOTES = {SAMPLE_VERSION: "Landmarks.", "1.0.0": "First release."}  # noqa: RUF012 - TFDS reads it as it is
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Sources are listed in a manifest: see docs/data.md."

    def __init__(
        self,
        *,
        manifest: str | os.PathLike[str] | None = None,
        crop: CropSpec = CropSpec(),
        whole_images: bool = False,
        detector: str = "centerface",
        **settings: Any,
    ) -> None:
        self._manifest_path = manifest
        self._crop = crop
        self._whole_images = whole_images
        self._detector_spec = detector
        self._rejected: list[dict[str, str]] = []
        kind = "whole" if whole_images else "faces"
        settings.setdefault("config", tfds.core.BuilderConfig(name=f"{kind}-{crop.size}", version=SAMPLE_VERSION))
        super().__init__(**settings)

    @property
    def rejected(self) -> list[dict[str, str]]:
        """Returns `id` and `reason` of the pictures that could not be used."""
        return list(self._rejected)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._crop.size
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=["real", "fake"]),
                "id": tfds.features.Text(),
                "source": tfds.features.Text(),
                "method": tfds.features.Text(),
                "group": tfds.features.Text(),
                "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
                "landmarks": tfds.features.Tensor(shape=(5, 2), dtype=np.float32),
                "picture_size": tfds.features.Tensor(shape=(2,), dtype=np.int32),
            }
        )
        self._metadata = tfds.core.MetadataDict()
        return tfds.core.DatasetInfo(builder=self, features=features, metadata=self._metadata)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        if self._manifest_path is None:
            raise DataError("fake_faces is written from a manifest: run fakeface data merge, then fakeface data build")
        manifest = load_manifest(self._manifest_path)
        for row in manifest.left_out():
            self._rejected.append({"id": row.id, "reason": row.left_out})
        self._fill_metadata(manifest)
        splits = {}
        for split in SPLITS:
            examples = self._generate_examples(manifest.used(split))
            # TFDS fails on a split without examples, and only reading tells if there is one.
            for first in examples:
                splits[split] = itertools.chain([first], examples)
                break
        if not splits:
            why = f"{self._rejected[0]['id']}: {self._rejected[0]['reason']}" if self._rejected else "it is empty"
            raise DataError(f"{self._manifest_path}: none of its pictures can be used ({why}); merge other sources")
        return splits

    def _fill_metadata(self, manifest: Manifest) -> None:
        self._metadata.update(
            crop=dataclasses.asdict(self._crop),
            kind="whole_images" if self._whole_images else "faces",
            detector=self._detector_spec,
            manifest_sha256=manifest.fingerprint(),
            jpeg_quality=JPEG_QUALITY,
            # The same list object: it is filled while examples are generated, and written with the info afterwards.
            rejected=self._rejected,
        )

    def _generate_examples(self, rows: list[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
        detector = None if self._whole_images else create_detector(self._detector_spec)
        seen: Counter[str] = Counter()
        for row in rows:
            try:
                example = self._example(row, detector)
            except FakeFaceError as error:
                reason = error.problem if isinstance(error, MediaError) else str(error)
                self._rejected.append({"id": row.id, "reason": reason})
                continue
            seen[row.id] += 1
            # TFDS needs unique keys; two roots of one source may contain the same name.
            yield f"{row.id}#{seen[row.id]}", example

    def _example(self, row: Row, detector: FaceDetector | None) -> dict[str, Any]:
        name = f"{row.sample.root}/{row.sample.name}"
        image = decode_image(read_sample(row.sample), source=name)
        if detector is None:
            face, spec = Face(box=whole_image_box(image), confidence=1.0), dataclasses.replace(self._crop, margin=1.0)
        else:
            faces = detector.detect(image)
            if not faces:
                raise MediaError(name, "no face found")
            face, spec = faces[0], self._crop
        return {
            "image": io.BytesIO(encode_crop(crop_face(image, face.box, spec))),
            "label": str(row.sample.label),
            "id": row.id,
            "source": row.sample.source,
            "method": row.sample.method,
            "group": row.group,
            "box": np.asarray(face.box, np.float32),
            # In pixels of the stored crop: pseudo-fakes are cut along the landmarks.
            "landmarks": landmarks_in_crop(image.shape[:2], face, spec),
            "picture_size": np.asarray([image.shape[1], image.shape[0]], np.int32),
        }


def encode_crop(crop: np.ndarray) -> bytes:
    """Encodes one crop as JPEG with the tables that all crops share."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), options)[1].tobytes()
