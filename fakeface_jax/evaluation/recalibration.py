"""Fits a bundle's probabilities and thresholds to pictures like those it will score, without changing its weights.

With real and fake faces, everything is fitted again. With real faces alone, which are easier to collect, only those
values change that reals determine: the thresholds at false-positive rates, and so where the verdict `fake` begins.
Exact copies count once, and near duplicates share a group: many shots of one scene prove little more than one.

Example:
    >>> faces = read_faces(reals_of("holiday-photos"), classifier, detector)
    >>> done = recalibrate(classifier, faces)
    >>> print(done.table())
    >>> save_recalibrated(classifier.bundle, done, "bundles/holiday")
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fakeface_jax.bundle import Bundle, BundleSpec, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.duplicates import group_samples
from fakeface_jax.data.files import list_files
from fakeface_jax.data.image_metadata import FileFacts, inspect_file
from fakeface_jax.data.manifest import CONFLICT, EXACT
from fakeface_jax.data.samples import Sample
from fakeface_jax.data.sources import read_sample, read_source
from fakeface_jax.decision import OperatingPoint, VerdictBands
from fakeface_jax.errors import ConfigError, DataError, MediaError
from fakeface_jax.evaluation.calibration import (
    FAKE_AT_FPR,
    _rate_interval,
    choose_bands,
    choose_operating_points,
    fit_calibration,
)
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.faces import Face, FaceDetector, crop_face, whole_image_box
from fakeface_jax.images import EXTENSIONS, decode_image
from fakeface_jax.labels import Label
from fakeface_jax.training.card import model_card

LEAST = 20
"""Smallest number of faces of a class: even if none of 20 is wrong, the true rate may be 17 %."""

SPLIT = "own pictures"
"""Name of the split in operating points that were chosen on own pictures."""

_FAKE_FOLDERS = ("fake", "training_fake")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class OwnFaces:
    """Scored faces from the user's own pictures.

    Attributes:
        predictions: one row per picture whose largest face was scored.
        hashes: SHA-256 of each picture's bytes, in the order of the rows.
        rejected: (picture, reason) of every picture that was not used.
    """

    predictions: Predictions
    hashes: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]

    def fingerprint(self) -> str:
        """Returns the SHA-256 over the pictures' hashes and labels, in sorted order."""
        lines = sorted(f"{one} {label}" for one, label in zip(self.hashes, self.predictions.labels, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One error rate before and after recalibration.

    Attributes:
        kind: `fpr` for reals at or above the threshold, `fnr` for fakes below it.
        rate: error rate for which the thresholds were chosen.
        old: threshold of the old bundle; None if it had none.
        old_rate: share of these faces that it misclassifies, with the ends of its 95 % interval; None without it.
        new: the new operating point.
    """

    kind: str
    rate: float
    old: float | None
    old_rate: tuple[float, float, float] | None
    new: OperatingPoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recalibration:
    """The changes that own pictures make.

    Attributes:
        spec: specification of the new bundle.
        changes: the changes, for each error rate that these pictures determine.
        old_bands: the old verdict bands.
    """

    spec: BundleSpec
    changes: tuple[Change, ...]
    old_bands: VerdictBands

    def table(self) -> str:
        """Returns the old and new thresholds, and the errors of the old ones on these pictures, as Markdown."""
        what = {"fpr": "reals called fake", "fnr": "fakes called real"}
        lines = ["| threshold for | old | on these pictures | new | true rate of the new |", "| --- " * 5 + "|"]
        for change in self.changes:
            old = "–" if change.old is None else f"{change.old:.4f}"
            rate, low, high = change.old_rate or (None, None, None)
            shown = "–" if rate is None else f"{rate:.1%} [{low:.1%}, {high:.1%}]"
            point = change.new
            lines.append(
                f"| {change.rate:.0%} {what[change.kind]} | {old} | {shown} | {point.threshold:.4f} | "
                f"{point.rate_low:.1%} to {point.rate_high:.1%} |"
            )
        old_bands, bands = self.old_bands, self.spec.bands
        for name, old_value, new_value in (
            ("fake from", old_bands.fake_from, bands.fake_from),
            ("real below", old_bands.real_below, bands.real_below),
        ):
            lines.append(f"| verdict: {name} | {old_value:.4f} | | {new_value:.4f} | |")
        return "\n".join(lines)


def labelled(spec: str) -> list[Sample]:
    """Reads a source in the form of `fakeface data merge`, or a folder that contains real/ and fake/.

    Raises:
        ConfigError: the text names neither a source nor a folder.
        DataError: no picture there has a label; if all are real, use `reals_of`.
    """
    if not Path(spec).is_dir():
        return read_source(spec)
    try:
        return read_source(f"folder:{spec}")
    except DataError as error:
        raise DataError(
            f"{spec}: contains no folder named real or fake; if all its pictures show real faces, name it with --reals"
        ) from error


def reals_of(root: str | os.PathLike[str]) -> list[Sample]:
    """Lists every picture in a folder or a zip archive as one of a real face.

    Raises:
        DataError: there are no pictures, or a folder's name says that its pictures are fakes.
    """
    samples = []
    for name in list_files(str(root)):
        path = PurePosixPath(name)
        hidden = "__MACOSX" in path.parts or any(part.startswith(".") for part in path.parts)
        if path.suffix.lower() not in EXTENSIONS or hidden:
            continue
        if any(part.lower() in _FAKE_FOLDERS for part in path.parts[:-1]):
            raise DataError(f"{root}: {name} lies in a folder of fakes; use --data instead of --reals")
        samples.append(Sample(root=str(root), name=name, label=Label.REAL, source=Path(root).resolve().name))
    if not samples:
        raise DataError(f"{root}: contains no pictures; supported are {', '.join(sorted(EXTENSIONS))}")
    return samples


def read_faces(
    samples: Sequence[Sample],
    classifier: FaceClassifier,
    detector: FaceDetector | None,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> OwnFaces:
    """Finds, crops and scores the largest face of each picture; an unusable picture does not stop the others.

    Args:
        samples: the pictures to read.
        classifier: the model, which also determines the crops.
        detector: the bundle's detector; None for pictures that are already face crops.
        workers: number of reading threads; None uses one per processor.
        progress: called with (pictures read, all pictures).

    Raises:
        DataError: none of the pictures can be used.
    """

    def look(sample: Sample) -> tuple[FileFacts, UInt8[np.ndarray, "s s 3"] | None, float, str]:
        name = f"{sample.root}/{sample.name}"
        try:
            data = read_sample(sample)
            facts = inspect_file(data, name)
            image = decode_image(data, source=name)
            if detector is None:
                face, spec = whole_face(image), dataclasses.replace(classifier.spec.crop, margin=1.0)
            else:
                faces = detector.detect(image)
                if not faces:
                    return facts, None, np.nan, "no face found"
                face, spec = faces[0], classifier.spec.crop
            return facts, crop_face(image, face.box, spec), face.size, ""
        except MediaError as error:
            return FileFacts(), None, np.nan, error.problem

    found = []
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for result in pool.map(look, samples):
            found.append(result)
            if progress is not None:
                progress(len(found), len(samples))
    facts = [fact for fact, *_ in found]
    groups = group_samples(samples, facts)
    reasons = _without_copies(samples, facts, [reason for *_, reason in found])
    kept = [index for index, reason in enumerate(reasons) if not reason]
    rejected = tuple(
        (f"{sample.root}/{sample.name}", reason) for sample, reason in zip(samples, reasons, strict=True) if reason
    )
    if not kept:
        why = f"{rejected[0][0]}: {rejected[0][1]}" if rejected else "there are none"
        raise DataError(f"none of {len(samples)} pictures can be used ({why}); name other pictures")
    crops = np.stack([crop for index in kept if (crop := found[index][1]) is not None])
    predictions = Predictions(
        ids=np.array([f"{samples[index].root}/{samples[index].name}" for index in kept]),
        sources=np.array([samples[index].source for index in kept]),
        groups=np.array([groups[index] for index in kept]),
        labels=np.array([samples[index].label for index in kept], np.int8),
        logits=classifier.logits(crops).astype(np.float32),
        methods=np.array([samples[index].method for index in kept], np.str_),
        sizes=np.array([found[index][2] for index in kept], np.float32),
    )
    return OwnFaces(predictions=predictions, hashes=tuple(facts[index].sha256 for index in kept), rejected=rejected)


def whole_face(image: UInt8[np.ndarray, "h w 3"]) -> Face:
    """Returns the face of a picture that is itself a face crop."""
    return Face(box=whole_image_box(image), confidence=1.0)


def _without_copies(samples: Sequence[Sample], facts: Sequence[FileFacts], reasons: Sequence[str]) -> list[str]:
    """Returns why each picture is not used; of equal bytes one is used, and none if their labels differ."""
    labels: dict[str, set[Label]] = {}
    for sample, fact in zip(samples, facts, strict=True):
        labels.setdefault(fact.sha256, set()).add(sample.label)
    seen: set[str] = set()
    found = []
    for fact, reason in zip(facts, reasons, strict=True):
        if not reason and len(labels[fact.sha256]) > 1:
            reason = CONFLICT
        elif not reason and fact.sha256 in seen:
            reason = EXACT
        seen.add(fact.sha256)
        found.append(reason)
    return found


def recalibrate(classifier: FaceClassifier, faces: OwnFaces) -> Recalibration:
    """Fits the bundle's specification to these faces.

    With both classes, probabilities, operating points and bands are fitted to them. With reals alone, the probabilities
    stay, the false-positive points and `fake_from` are fitted, and the false-negative points and `real_below` stay
    (lowered to `fake_from` if that falls below it). Earlier measurements no longer hold: `metrics` is emptied, and so
    are the fits on videos, which then use the thresholds of faces.

    Raises:
        DataError: there are fewer than `LEAST` reals, or some fakes but fewer than that.
    """
    spec, own = classifier.spec, faces.predictions
    reals, fakes = (int((own.labels == label).sum()) for label in (Label.REAL, Label.FAKE))
    if reals < LEAST:
        raise DataError(
            f"{reals} real faces are too few to choose a threshold ({len(faces.rejected)} pictures were excluded); "
            f"name at least {LEAST}, preferably a few hundred"
        )
    if 0 < fakes < LEAST:
        raise DataError(f"{fakes} fakes are too few; name at least {LEAST}, or only the reals with --reals")
    logits = own.logits.astype(np.float64)
    if fakes:
        calibration = fit_calibration(own.labels, logits, split=SPLIT, groups=own.groups)
        points = choose_operating_points(own.labels, calibration(logits), split=SPLIT, groups=own.groups)
        bands = choose_bands(points)
    else:
        calibration = spec.calibration
        points = (*_false_positive_points(calibration(logits), own), *_of_kind(spec.operating_points, "fnr"))
        bands = _bands_of_reals(spec.bands, points, reals)
    before = {"reals": reals, "fakes": fakes, "pictures_sha256": faces.fingerprint(), "from": classifier.bundle.id}
    new = dataclasses.replace(
        spec,
        calibration=calibration,
        operating_points=points,
        bands=bands,
        provenance={**spec.provenance, "recalibration": before},
        metrics={},
        video=None,
    )
    changes = _changes(spec, own, [point for point in points if point.split == SPLIT])
    return Recalibration(spec=new, changes=changes, old_bands=spec.bands)


def save_recalibrated(old: Bundle, done: Recalibration, directory: str | os.PathLike[str]) -> Bundle:
    """Writes the recalibrated bundle with exactly the old one's weights.

    Raises:
        ConfigError: the directory is that of the old bundle.
        BundleError: as in `save_bundle`.
    """
    if Path(directory).resolve() == old.path.resolve():
        raise ConfigError(f"{directory}: is the bundle to recalibrate, which is kept; name another directory")
    # Bundles are stored in half precision, or wider if that was requested.
    half = all(np.array_equal(one.astype(np.float16).astype(np.float32), one) for one in old.weights.values())
    dtype = np.float16 if half else np.float32
    return save_bundle(directory, done.spec, old.weights, card=model_card(done.spec), dtype=dtype)


def _of_kind(points: Sequence[OperatingPoint], kind: str) -> list[OperatingPoint]:
    return [point for point in points if point.kind == kind]


def _false_positive_points(p_fake: Float[np.ndarray, " n"], own: Predictions) -> list[OperatingPoint]:
    # The function needs both classes; a fake at P(fake) = 1, the end of the scale, moves no threshold of the reals.
    points = choose_operating_points(
        np.append(own.labels, np.int8(Label.FAKE)),
        np.append(p_fake, 1.0),
        split=SPLIT,
        groups=np.append(own.groups, "no group of these"),
    )
    return _of_kind(points, "fpr")


def _bands_of_reals(old: VerdictBands, points: Sequence[OperatingPoint], reals: int) -> VerdictBands:
    fake_from = next(point.threshold for point in points if (point.kind, point.rate) == ("fpr", FAKE_AT_FPR))
    real_below = min(old.real_below, fake_from)
    lowered = ", lowered to where fake begins" if real_below < old.real_below else ""
    reason = (
        f"fake from the threshold at {FAKE_AT_FPR:.0%} false positives on {reals} real faces of the user's; no fakes "
        f"were given, so real below the threshold as it was{lowered}: {old.reason}"
    )
    return VerdictBands(real_below=real_below, fake_from=fake_from, reason=reason)


def _changes(spec: BundleSpec, own: Predictions, points: Sequence[OperatingPoint]) -> tuple[Change, ...]:
    p_fake = spec.calibration(own.logits.astype(np.float64))
    changes = []
    for point in points:
        old = next(
            (one.threshold for one in spec.operating_points if (one.kind, one.rate) == (point.kind, point.rate)), None
        )
        rate = None
        if old is not None:
            mine = own.labels == (Label.REAL if point.kind == "fpr" else Label.FAKE)
            wrong = p_fake[mine] >= old if point.kind == "fpr" else p_fake[mine] < old
            rate = _share(wrong, own.groups[mine])
        changes.append(Change(kind=point.kind, rate=point.rate, old=old, old_rate=rate, new=point))
    return tuple(changes)


def _share(wrong: Bool[np.ndarray, " n"], groups: np.ndarray) -> tuple[float, float, float]:
    numbers = np.unique(groups, return_inverse=True)[1]
    low, high = _rate_interval(wrong, np.ones(len(wrong)), numbers)
    return float(wrong.mean()), low, high
