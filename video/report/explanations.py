"""A verdict in words: what it means, and what it does not mean.

Example:
    >>> words = wording(report)
    >>> words.headline, words.means[0]
    ('Real', 'The score, P(fake) 0.121, is below 0.244. ...')
"""

from __future__ import annotations

import dataclasses

from fakeface_jax.decision import OperatingPoint, VerdictBands
from fakeface_jax.labels import Verdict
from fakeface_jax.video.report.video_report import ImageReport, VideoReport

HEADLINES = {
    Verdict.FAKE: "Fake",
    Verdict.REAL: "Real",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.NO_FACE: "No face",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wording:
    """What is said about a verdict.

    Attributes:
        headline: the verdict in a word or two.
        means: what it rests on, and how often that errs; sentences.
        means_not: what must not be read into it.
    """

    headline: str
    means: tuple[str, ...]
    means_not: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InForce:
    """The thresholds that made a verdict.

    Attributes:
        bands: on P(fake).
        points: operating points that they were chosen from.
        of_videos: whether they were fitted on videos scored by the report's rule, or on single faces.
        fitted_on: in words; empty where unknown.
    """

    bands: VerdictBands
    points: tuple[OperatingPoint, ...]
    of_videos: bool
    fitted_on: str = ""

    def point(self, kind: str, threshold: float) -> OperatingPoint | None:
        """The operating point that a threshold is; None where it was chosen otherwise."""
        close = [one for one in self.points if one.kind == kind and abs(one.threshold - threshold) < 1e-9]
        return close[0] if close else None


def in_force(report: ImageReport | VideoReport) -> InForce:
    """The thresholds that a report's verdict was made by."""
    model = report.model
    video = model.video
    if isinstance(report, VideoReport) and video is not None and video.rule == report.aggregation:
        return InForce(bands=video.bands, points=video.operating_points, of_videos=True, fitted_on=video.fitted_on)
    return InForce(bands=model.bands, points=model.operating_points, of_videos=False)


def wording(report: ImageReport | VideoReport) -> Wording:
    """The verdict of a report in words."""
    what = "video" if isinstance(report, VideoReport) else "picture"
    means: list[str] = []
    if report.p_fake is None:
        means.append(f"No face was scored, so nothing was judged: {report.reason or 'no face was found'}.")
        not_real = f"It is not “real”: a {what} without a usable face may be real or fake."
        return Wording(headline=HEADLINES[report.verdict], means=tuple(means), means_not=(not_real, _UNSEEN_BY_IT))
    rules = in_force(report)
    means.append(_threshold(report, rules))
    if rules.of_videos:
        means.append(f"The thresholds were fitted on scores of whole videos{_of(rules.fitted_on)}.")
    elif isinstance(report, VideoReport):
        means.append(
            "The thresholds were fitted on single faces. A video's score is made of many, so its error rates are "
            "others, which were not measured."
        )
    means.append(
        "P(fake) was never calibrated for this model: it puts faces in an order and is no probability."
        if report.model.calibration == "none"
        else "P(fake) was calibrated where about half of what is scored is fake. Where fakes are rarer, the same score "
        "means less; on material unlike the training data it means little."
    )
    means_not: tuple[str, ...] = {
        Verdict.FAKE: (
            "It is no proof, and does not say who made a fake, how, or why.",
            "Strong compression, filters, blur and cameras unlike those of the training data can look fake to the "
            "model. Look at the crops below, and at the source of the material.",
        ),
        Verdict.REAL: (
            "It is no certificate: kinds of fakes that the model never saw may pass, newer generators above all.",
            _UNSEEN_BY_IT,
        ),
        Verdict.INCONCLUSIVE: (
            "It is neither a weak “fake” nor a weak “real”: the model does not know.",
            "More or larger faces may settle it; for material like this, thresholds of its own may too.",
        ),
        Verdict.NO_FACE: (_UNSEEN_BY_IT,),
    }[report.verdict]
    return Wording(headline=HEADLINES[report.verdict], means=tuple(means), means_not=means_not)


_UNSEEN_BY_IT = "Only faces are looked at: sound, captions, cuts, background and context are not judged."


def _of(fitted_on: str) -> str:
    return f" ({fitted_on})" if fitted_on else ""


def _threshold(report: ImageReport | VideoReport, rules: InForce) -> str:
    """Where the score lies, and how often that is wrong."""
    assert report.p_fake is not None
    bands, score = rules.bands, f"The score, P(fake) {report.p_fake:.3f},"
    if report.verdict is Verdict.FAKE:
        error = _error(rules, "fpr", bands.fake_from, "real", "reach that too")
        return f"{score} reaches {bands.fake_from:.3f}. {error}"
    if report.verdict is Verdict.REAL:
        error = _error(rules, "fnr", bands.real_below, "fake", "stay below it too")
        return f"{score} is below {bands.real_below:.3f}. {error}"
    if bands.decide(report.p_fake) is Verdict.INCONCLUSIVE:
        return (
            f"{score} lies between {bands.real_below:.3f}, below which the answer is “real”, and "
            f"{bands.fake_from:.3f}, from which it is “fake”. Between them the model errs too often to claim either."
        )
    return f"{score} would be “{bands.decide(report.p_fake)}”, and rests on too little: {report.reason}."


def _error(rules: InForce, kind: str, threshold: float, label: str, do: str) -> str:
    point = rules.point(kind, threshold)
    if point is None:
        return f"How often that is wrong is not stated; the thresholds: {rules.bands.reason or 'chosen by hand'}."
    things = "videos" if rules.of_videos else "faces"
    return (
        f"About {percent(point.rate)} of the {label} {things} set aside to choose it {do} "
        f"(95 % interval {percent(point.rate_low)} to {percent(point.rate_high)}, from {point.samples} {things})."
    )


def percent(share: float) -> str:
    """`0.8 %`, `25 %`."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
