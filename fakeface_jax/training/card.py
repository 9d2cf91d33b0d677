"""Writes the model card: what a bundle is, what it was made from, how good it is, and where it must not be trusted.

Example:
    >>> print(model_card(bundle.spec))
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fakeface_jax.bundle import BundleSpec
from fakeface_jax.decision import OperatingPoint
from fakeface_jax.evaluation.tables import ProtocolResult

_VIDEOS, _TRAINING = "## Videos", "## Training"

_LONG_TABLE = 24
"""Rows above which a table shows only the results of all sources together; the report has them per source."""

_UNSEEN = {"unseen-method", "leave-one-source-out", "leave-source-out"}
"""Protocols that test a model on data that it was not trained on."""

_LICENCE = """\
The code is Apache-2.0. The training pictures carry non-commercial or restricted terms (ciplab, FFHQ and therefore the
real half of 140k, DFDC), or state no licence; so these weights are for research and other non-commercial use only."""


_BACKBONE_LICENCE = """ The faces and clips of FaceForensics++, LFW, CelebV-Text, MEAD and others that
were fitted on carry terms of their own, or state none.

The backbone's weights are OpenAI's CLIP ViT-B/16 (MIT), by the word of the Python package that carries them. CLIP's
model card calls any deployed use, and face recognition or surveillance, out of scope."""


def model_card(spec: BundleSpec, *, table: str = "", sections: Sequence[ProtocolResult] = ()) -> str:
    """Returns the card in Markdown. It calls everything unmeasured that is not in `table` or `sections`.

    Args:
        spec: the bundle's specification.
        table: results per source on the test split, as a Markdown table.
        sections: results of the protocols, in this order; long tables show only the rows of all sources together.
    """
    provenance = spec.provenance
    data = provenance.get("data", {})
    parts = [
        f"# {spec.name}",
        f"A fake-face detector: network `{spec.model.get('name')}`, {spec.crop.size} x {spec.crop.size} pixel face "
        f"crops with margin {spec.crop.margin} found by `{spec.detector}`. Output: P(fake) in [0, 1].",
        *_results(table, provenance),
        *(text for section in sections for text in _protocol(section)),
        "## Calibration and verdicts",
        f"- calibration: {spec.calibration.method}, fitted on {spec.calibration.samples} faces of the "
        f"{spec.calibration.split or '(no)'} split",
        "\n".join(_operating_points(spec.operating_points)),
        f"- verdict `fake` from {spec.bands.fake_from:.4f} on, `real` below {spec.bands.real_below:.4f}, between them "
        f"`inconclusive` ({spec.bands.reason})",
        "- thresholds hold for the mix of sources that they were chosen on; on other pictures the error rates differ",
        _videos(spec),
        _TRAINING,
        _training(provenance, data),
        "## Limits",
        "\n".join(_limits(sections, bool(_judged(provenance)))),
        "## Licence and data",
        _LICENCE + (_BACKBONE_LICENCE if "backbone" in provenance else ""),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _judged(provenance: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    """Returns title, caption and table of each part of what leaving sources out said of a fitted detector."""
    return provenance.get("judge", {}).get("tables", [])


def with_videos(card: str, spec: BundleSpec) -> str:
    """Returns a card with what was fitted for videos since it was written."""
    before, heading, after = card.partition(_TRAINING)
    return f"{before.partition(_VIDEOS)[0]}{_videos(spec)}\n\n{heading}{after}"


def _videos(spec: BundleSpec) -> str:
    if spec.video is None:
        return ""
    video = spec.video
    lines = [
        f"- score of a person: rule `{video.rule}`, then {video.calibration.method}, fitted on {video.fitted_on}",
        *_operating_points(video.operating_points, what="videos"),
        f"- verdict `fake` from {video.bands.fake_from:.4f} on, `real` below {video.bands.real_below:.4f} "
        f"({video.bands.reason})",
    ]
    return "\n\n".join([_VIDEOS, "\n".join(lines)])


def _protocol(section: ProtocolResult) -> list[str]:
    shown, note = section, ""
    if len(section.rows) > _LONG_TABLE:
        overall = section.only(source="all sources")
        if overall.rows:
            shown, note = overall, " Here of all sources together; the report has the table per source."
    return [f"### {section.title}", section.caption + note, shown.table()] if section.rows else []


def _limits(sections: Sequence[ProtocolResult], judged: bool = False) -> list[str]:
    """Lists the limits of the model; a question that a table above answers is not called unmeasured."""
    measured = {section.protocol for section in sections if section.rows}
    if judged:
        measured.add("leave-source-out")
    unseen = (
        "Generators, cameras and editing that it has not seen were not measured: expect it to be close to guessing "
        "there."
    )
    if measured & _UNSEEN:
        unseen = (
            "What this training makes of sources or generators that it was not shown is in a table above; other "
            "generators, cameras and editing were not measured, and it may do worse there."
        )
    answers = {
        "blurred, noisy, shrunk and compressed faces": "robustness" in measured,
        "small faces": any(_has_small_faces(section) for section in sections),
    }
    questions = {
        "small": not answers["small faces"],
        "blurred, heavily compressed": "robustness" not in measured,
        "masked or profile": True,
    }
    answered = " and ".join(name for name, yes in answers.items() if yes)
    asked = ", ".join(name for name, yes in questions.items() if yes)
    lines = [
        f"It answers for single faces that look like its training data; see the table per source. {unseen}",
        "Probabilities assume the share of fakes that they were fitted with: half, where `fakeface train` fitted them. "
        "Where fakes are rarer, a score means less.",
        "A score is evidence, not proof. `inconclusive` is the honest answer for most difficult faces.",
        f"What it makes of {answered} is in a table above." if answered else "",
        f"What {asked} faces do to it was not measured.",
        "It must not be the only ground for an accusation, a removal or a hiring decision.",
        "Ages, skin tones and sexes are not labelled in the training data, so differences between them were not "
        "measured.",
    ]
    return [f"- {line}" for line in lines if line]


def _has_small_faces(section: ProtocolResult) -> bool:
    """Tells if the smallest bin of face sizes has both classes: a bin without faces says nothing."""
    return any(
        row.names.get("face size", "").startswith("<") and row.counts["reals"] and row.counts["fakes"]
        for row in section.rows
    )


def _operating_points(points: Sequence[OperatingPoint], *, what: str = "faces") -> list[str]:
    errors = {"fpr": f"real {what} called fake", "fnr": f"fake {what} called real"}
    return [
        f"- threshold {point.threshold:.4f}: {point.rate:.0%} {errors[point.kind]} on {point.samples} {what} of the "
        f"{point.split} split (95 % interval {point.rate_low:.1%} to {point.rate_high:.1%})"
        for point in points
    ]


def _training(provenance: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    if not provenance:
        return "Not recorded."
    if "backbone" in provenance:
        return _fitting(provenance)
    best = provenance.get("best_epoch", {})
    lines = [
        f"- samples: {json.dumps(data.get('sizes', {}))}, manifest sha256 `{data.get('manifest_sha256', '')}`",
        f"- weights of epoch {best.get('epoch', 0):.0f} of {provenance.get('epochs_run', 0)}, chosen by "
        f"{provenance.get('chosen_by', '')} ({best.get('val_loss', 0):.4f})"
        + ("; more epochs might have lowered it further" if best.get("epoch") == provenance.get("epochs_run") else ""),
        f"- {provenance.get('training_seconds', 0) / 60:.0f} minutes on {provenance.get('device', '')}, "
        f"{json.dumps(provenance.get('versions', {}))}",
        "- `fakeface train` with this configuration, on data of that manifest, makes it again:",
        "",
        "```json",
        json.dumps(provenance.get("config", {}), indent=2),
        "```",
    ]
    if (start := provenance.get("start")) is not None:
        earlier = start["provenance"]
        lines += ["", f"### Before that: {start['name']}, bundle `{start['id'][:12]}`, which it started from", ""]
        lines.append(_training(earlier, earlier.get("data", {})))
    return "\n".join(lines)


def _results(table: str, provenance: Mapping[str, Any]) -> list[str]:
    """Lists the results on the test split, or on sources that were left out, or says that there are none."""
    judged = _judged(provenance)
    if judged and not table:
        shown = [text for title, caption, part in judged for text in (f"### {title}", caption, part)]
        return ["## Results on sources that were left out", *shown]
    none = "Not measured yet: run `fakeface evaluate --bundle BUNDLE --data DATA --card`."
    return ["## Results on the test split", table or none]


def _fitting(provenance: Mapping[str, Any]) -> str:
    """Describes how heads on cached features were fitted."""
    judged, backbone = provenance["judge"], provenance["backbone"]
    lines = [
        f"- a linear head on features of `{backbone['name']}` (sha256 `{backbone['sha256'][:12]}`), and the network of "
        f"`{provenance['detail']['name']}`; their logits are added",
        f"- chosen by {provenance['chosen_by']}: mean AUC over methods {judged['mean_auc']:.3f}, worst source's false "
        f"alarms {judged['worst_false_alarms']:.1%}, objective {judged['objective']:.3f}",
        f"- {provenance['data']['views']:,} views of these pictures: {json.dumps(provenance['data']['pictures'])}",
        f"- fitted in {provenance['training_seconds']:.0f} seconds, {json.dumps(provenance['versions'])}",
        "- `fakeface fit` with this configuration, on such features, makes it again:",
        "",
        "```json",
        json.dumps(provenance["config"], indent=2),
        "```",
    ]
    return "\n".join(lines)
