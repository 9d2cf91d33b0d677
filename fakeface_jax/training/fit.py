"""Fits a detector on cached features and writes a calibrated bundle, with thresholds from held-out sources.

The detector is a fusion of two experts, whose logits are added: a linear head on a frozen backbone's features, and a
small network trained end to end that sees finer detail.

The recipe is judged, and everything that follows from scores is fitted, on the logits that leaving sources out gives
(`fakeface_jax.evaluation.leave_source_out`): each face is scored by a head that saw neither its source nor its method.
What is scored so are frames of clips, as the detector is one for videos; pictures are fitted on and have no say in
thresholds. Neither have sources that the small network was trained on, as that network is the same in every fold.

Example:
    >>> config = FitConfig(output=Path("runs/detector"))
    >>> result = fit_detector(table, config, load_backbone(BACKBONE), load_bundle(DETAIL))
    >>> result.bundle.spec.bands.fake_from
    0.83
"""

from __future__ import annotations

import dataclasses
import platform
import re
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fakeface_jax.backbones import STATISTICS, Backbone
from fakeface_jax.bundle import Bundle, BundleSpec, Normalization, save_bundle
from fakeface_jax.decision import Calibration, OperatingPoint, VerdictBands, VideoDecision
from fakeface_jax.errors import ConfigError
from fakeface_jax.evaluation.calibration import (
    balanced_weights,
    choose_bands,
    choose_operating_points,
    fit_calibration,
)
from fakeface_jax.evaluation.leave_source_out import FALSE_ALARMS, LeaveSourceOut, leave_source_out, merged_sources
from fakeface_jax.evaluation.weighted_metrics import weighted_metrics
from fakeface_jax.features.extractor import TAPS
from fakeface_jax.features.fit_config import FitConfig
from fakeface_jax.features.head import Design, Head, within_source_weights
from fakeface_jax.features.table import FeatureTable
from fakeface_jax.labels import Label
from fakeface_jax.training.card import model_card

SPLIT = "sources left out"
"""Name, in calibration and operating points, of the faces on which they were fitted."""

RATES = (0.01, FALSE_ALARMS, 0.05)
"""Error rates of the thresholds in a bundle; the verdict `fake` begins at the middle one."""

VIDEO_RULE = "worst_person"
"""Rule that combines the scores of a video's faces: the mean logit of the person with the highest one."""

_CLIP = re.compile(r"(.+)_\d{6}\.png")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """Result of a fit.

    Attributes:
        bundle: the bundle as written.
        judged: results of leaving sources out.
    """

    bundle: Bundle
    judged: LeaveSourceOut


@dataclasses.dataclass(frozen=True, eq=False)
class Fused:
    """The experts' logits as one: factors that make both spread alike over reals, and a shift that centres them.

    Attributes:
        head: the head, with its factor.
        detail: multiplies the small network's logits.
        shift: is added.
    """

    head: Head
    detail: float
    shift: float


class Recipe:
    """A recipe that can be fitted on some rows to score others.

    Args:
        table: all rows.
        config: settings of the fit.
        detail: the bundle of the small network.
    """

    def __init__(self, table: FeatureTable, config: FitConfig, detail: Bundle) -> None:
        self.table, self.config = table, config
        self.design = Design.of(table, config.head)
        kernel, bias = (detail.weights[f"classifier.{part}"].astype(np.float64) for part in ("kernel", "bias"))
        self.detail = table.detail.astype(np.float64) @ kernel[:, 0] + bias[0]
        shown = np.isin(table.views, config.head.fitted_views)
        self._weights = within_source_weights(table, shown)

    def __call__(self, fitted: Bool[np.ndarray, "k n"]) -> Float[np.ndarray, "k n"]:
        """Returns logits of all rows by recipes that were fitted on some of them each."""
        fused = self.fit(fitted)
        return np.stack([self.design.scores(one.head) + one.detail * self.detail + one.shift for one in fused])

    def fit(self, fitted: Bool[np.ndarray, "k n"]) -> list[Fused]:
        """Fits the recipe on some rows each."""
        heads = self.design.fit(self._weights * fitted)
        return [self._fuse(head, rows) for head, rows in zip(heads, fitted, strict=True)]

    def _fuse(self, head: Head, fitted: Bool[np.ndarray, " n"]) -> Fused:
        # Over the reals that were fitted on, as the head weighs them: fakes of one kind are many, or strange.
        weights = self._weights * fitted * ~self.table.fakes
        weights = weights / weights.sum()

        def factor(logits: Float[np.ndarray, " n"], share: float) -> tuple[float, float]:
            mean = float(weights @ logits)
            spread = float(np.sqrt(weights @ (logits - mean) ** 2))
            return share / max(spread, 1e-6), mean

        first, first_mean = factor(self.design.scores(head), self.config.head_share)
        second, second_mean = factor(self.detail, self.config.detail)
        scaled = Head((first * head.weights).astype(np.float32), first * head.bias)
        return Fused(scaled, second, -(first * first_mean + second * second_mean))


def fit_detector(
    table: FeatureTable,
    config: FitConfig,
    backbone: Backbone,
    detail: Bundle,
) -> FitResult:
    """Fits, judges, calibrates and writes a bundle.

    Args:
        table: development data without the test split.
        config: settings of the fit.
        backbone: the backbone whose features are in the table.
        detail: the small network whose pooled features are in the table.

    Raises:
        DataError: there are too few sources, or one class only.
    """
    started = time.monotonic()
    # Other views in the cache have no say, in the principal components either.
    table = table.select(np.isin(table.views, (*config.head.fitted_views, config.scored_view)))
    recipe = Recipe(table, config, detail)
    pictures = np.unique(table.sources[clip_names(table) == ""]).tolist()
    judged = leave_source_out(table, recipe, view=config.scored_view, without=[*trained_sources(detail), *pictures])
    (fused,) = recipe.fit(np.ones((1, len(table)), bool))
    kernel, bias = recipe.design.folded(Head(fused.head.weights, fused.head.bias + fused.shift))
    weights = {"experts.0.classifier.kernel": kernel, "experts.0.classifier.bias": bias}
    for name, value in detail.weights.items():
        scaled = value * np.float32(fused.detail) if name.startswith("classifier.") else value
        weights[f"experts.1.{name}"] = scaled
    sources = merged_sources(table, view=config.scored_view)
    faces, clips = _faces(table, judged.logits, sources), _clips(table, judged.logits, sources)
    calibration, points, bands = faces.decisions()
    metrics = {"faces": faces.figures(calibration)}
    video = None
    if len(set(clips.labels.tolist())) == 2:
        # A video's score is made of calibrated logits.
        clips = dataclasses.replace(clips, logits=calibration.logit(clips.logits))
        video = _video_decision(clips)
        metrics["clips"] = clips.figures(video.calibration)
    spec = BundleSpec(
        name=config.output.name,
        model=_model(config, backbone, detail),
        crop=detail.spec.crop,
        detector=detail.spec.detector,
        normalization=Normalization(),
        calibration=calibration,
        operating_points=points,
        bands=bands,
        video=video,
        metrics={"sources_left_out": metrics},
        provenance=_provenance(table, config, backbone, detail, judged, time.monotonic() - started),
    )
    bundle = save_bundle(config.output / "bundle", spec, weights, card=model_card(spec))
    return FitResult(bundle=bundle, judged=judged)


def _model(config: FitConfig, backbone: Backbone, detail: Bundle) -> dict[str, Any]:
    """Returns the configuration of the fusion for `fakeface_jax.models.create_model`."""
    probe = {
        "name": "feature_probe",
        "backbone": backbone.name,
        "backbone_sha256": backbone.sha256,
        "taps": [TAPS[place] for place in config.head.taps],
        "statistics": [STATISTICS[place] for place in config.head.statistics],
    }
    return {"name": "experts", "size": detail.spec.crop.size, "experts": [probe, dict(detail.spec.model)]}


def _video_decision(clips: _Scored) -> VideoDecision:
    calibration, points, bands = clips.decisions()
    return VideoDecision(
        rule=VIDEO_RULE,
        calibration=calibration,
        operating_points=points,
        bands=bands,
        fitted_on=f"{len(clips.labels)} labelled clips ({int(clips.labels.sum())} fake), each by the largest "
        "face of up to six frames, and by a detector whose head saw neither its source nor "
        "its method",
    )


def trained_sources(bundle: Bundle) -> tuple[str, ...]:
    """Returns the sources that a bundle was trained on: those in its metrics on the test split.

    Raises:
        ConfigError: the bundle does not list them.
    """
    found = tuple(bundle.spec.metrics.get("sources", {}))
    if not found:
        raise ConfigError(
            f"{bundle.path}: does not list the sources it was trained on; run fakeface evaluate --card on it"
        )
    return found


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """Faces or clips with scores of heads that had not seen their source, ready for calibration.

    Attributes:
        labels: 0 for real, 1 for fake.
        logits: the logit of a face, or the mean over a clip's faces.
        groups: entries of one group must stay together.
        sources: names of the sources, merged as they were held out.
    """

    labels: np.ndarray
    logits: np.ndarray
    groups: np.ndarray
    sources: np.ndarray

    def decisions(self) -> tuple[Calibration, tuple[OperatingPoint, ...], VerdictBands]:
        """Fits probabilities, thresholds and bands with equal weights of classes, and of the sources within a class."""
        weights = balanced_weights(self.labels, self.sources)
        calibration = fit_calibration(self.labels, self.logits, split=SPLIT, groups=self.groups, weights=weights)
        p_fake = calibration(self.logits)
        points = choose_operating_points(
            self.labels, p_fake, split=SPLIT, groups=self.groups, weights=weights, rates=RATES
        )
        bands = choose_bands(points, fpr=FALSE_ALARMS)
        reason = f"{bands.reason}: each scored by heads that saw neither its source nor its method, sources alike"
        return calibration, points, dataclasses.replace(bands, reason=reason)

    def _verdicts(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns masks of what is called fake and real, each source by thresholds that were chosen on all others."""
        called_fake, called_real = np.zeros(len(self.labels), bool), np.zeros(len(self.labels), bool)
        for source in np.unique(self.sources):
            mine = self.sources == source
            rest = _Scored(**{name: getattr(self, name)[~mine] for name in ("labels", "logits", "groups", "sources")})
            calibration, _, bands = rest.decisions()
            p_fake = calibration(self.logits[mine])
            called_fake[mine], called_real[mine] = p_fake >= bands.fake_from, p_fake < bands.real_below
        return called_fake, called_real

    def figures(self, calibration: Calibration) -> dict[str, float]:
        """Measures verdicts on sources that neither heads nor thresholds have seen; each face or clip counts once."""
        p_fake, called_fake, called_real = calibration(self.logits), *self._verdicts()
        fakes = self.labels == 1
        decided = called_fake | called_real
        right = np.where(fakes, called_fake, called_real)
        metrics = weighted_metrics(self.labels.astype(np.int64), p_fake, np.ones((1, len(p_fake))))
        return {
            "reals": int((~fakes).sum()),
            "fakes": int(fakes.sum()),
            "auc": float(metrics["auc"][0]),
            "decided": float(decided.mean()),
            "right_of_decided": float(right[decided].mean()) if decided.any() else 0.0,
            "reals_called_fake": float(called_fake[~fakes].mean()),
            "fakes_called_fake": float(called_fake[fakes].mean()),
            "fakes_called_real": float(called_real[fakes].mean()),
        }


def _faces(table: FeatureTable, logits: Float[np.ndarray, " n"], sources: np.ndarray) -> _Scored:
    known = np.isfinite(logits)
    return _Scored(
        labels=table.labels[known],
        logits=logits[known],
        groups=table.groups[known],
        sources=sources[known],
    )


def clip_names(table: FeatureTable) -> np.ndarray:
    """Returns the clip that each row is a frame of; an empty name for pictures."""
    found = (_CLIP.fullmatch(str(name)) for name in table.ids)
    return np.array(["" if one is None else one[1] for one in found], dtype=str)


def _clips(table: FeatureTable, logits: Float[np.ndarray, " n"], sources: np.ndarray) -> _Scored:
    """Scores the clips among the faces, each by the mean of its logits."""
    known, names = np.isfinite(logits), clip_names(table)
    rows = [np.flatnonzero(known & (names == clip)) for clip in np.unique(names[known & (names != "")])]
    first = np.array([mine[0] for mine in rows], np.int64)
    return _Scored(
        labels=table.labels[first],
        logits=np.array([logits[mine].mean() for mine in rows]),
        groups=table.groups[first],
        sources=sources[first],
    )


def _provenance(
    table: FeatureTable,
    config: FitConfig,
    backbone: Backbone,
    detail: Bundle,
    judged: LeaveSourceOut,
    seconds: float,
) -> Mapping[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    plain = table.aligned == ""
    pictures = {}
    for source, label, picture in zip(table.sources[plain], table.labels[plain], table.pictures[plain], strict=True):
        pictures[picture] = (source, label)
    for source, label in pictures.values():
        counts.setdefault(str(source), {"real": 0, "fake": 0})[str(Label(int(label)))] += 1
    return {
        "config": {
            "head": dataclasses.asdict(config.head),
            **{name: getattr(config, name) for name in ("head_share", "detail", "scored_view")},
        },
        "data": {"pictures": counts, "views": len(table)},
        "backbone": {"name": backbone.name, "sha256": backbone.sha256},
        "detail": {"name": detail.spec.name, "id": detail.id},
        "judge": {
            "objective": judged.objective,
            "mean_auc": judged.mean_auc,
            "worst_false_alarms": judged.worst_false_alarms,
            "tables": [[part.title, part.caption, part.table()] for part in (judged.methods, judged.sources)],
        },
        "chosen_by": "leaving sources and methods out",
        "training_seconds": seconds,
        "machine": platform.machine(),
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "fakeface-jax")},
    }
