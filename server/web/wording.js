/* A verdict in words: the same sentences as video/report/explanations.py, which the reports are written with. A test compares them.

   Example: wording(report).headline */

import { percent } from "./format.js";

export const HEADLINES = { fake: "Fake", real: "Real", inconclusive: "Inconclusive", no_face: "No face" };

const UNSEEN = "Only faces are looked at: sound, captions, cuts, background and context are not judged.";

/** The thresholds that made a verdict: those of videos where the model has some for the report's rule. */
export function inForce(report) {
  const video = report.kind === "video" ? report.video_decision : null;
  if (video && video.rule === report.aggregation)
    return { bands: video.bands, points: video.operating_points, ofVideos: true, fittedOn: video.fitted_on };
  return { bands: report.bands, points: report.operating_points, ofVideos: false, fittedOn: "" };
}

export function decide(bands, p_fake) {
  if (p_fake >= bands.fake_from) return "fake";
  return p_fake < bands.real_below ? "real" : "inconclusive";
}

/** Headline, what the verdict rests on and how often that errs, and what must not be read into it. */
export function wording(report) {
  const what = report.kind === "video" ? "video" : "picture";
  const headline = HEADLINES[report.verdict];
  if (report.p_fake === null)
    return {
      headline,
      means: [`No face was scored, so nothing was judged: ${report.reason || "no face was found"}.`],
      meansNot: [`It is not “real”: a ${what} without a usable face may be real or fake.`, UNSEEN],
    };
  const rules = inForce(report);
  const means = [threshold(report, rules)];
  if (rules.ofVideos)
    means.push(`The thresholds were fitted on scores of whole videos${rules.fittedOn ? ` (${rules.fittedOn})` : ""}.`);
  else if (report.kind === "video")
    means.push(
      "The thresholds were fitted on single faces. A video's score is made of many, so its error rates are " +
        "others, which were not measured.",
    );
  means.push(
    report.model.calibration === "none"
      ? "P(fake) was never calibrated for this model: it puts faces in an order and is no probability."
      : "P(fake) was calibrated where about half of what is scored is fake. Where fakes are rarer, the same score " +
          "means less; on material unlike the training data it means little.",
  );
  return { headline, means, meansNot: MEANS_NOT[report.verdict] };
}

const MEANS_NOT = {
  fake: [
    "It is no proof, and does not say who made a fake, how, or why.",
    "Strong compression, filters, blur and cameras unlike those of the training data can look fake to the " +
      "model. Look at the crops below, and at the source of the material.",
  ],
  real: ["It is no certificate: kinds of fakes that the model never saw may pass, newer generators above all.", UNSEEN],
  inconclusive: [
    "It is neither a weak “fake” nor a weak “real”: the model does not know.",
    "More or larger faces may settle it; for material like this, thresholds of its own may too.",
  ],
  no_face: [UNSEEN],
};

/** Where the score lies, and how often that is wrong. */
function threshold(report, rules) {
  const bands = rules.bands;
  const score = `The score, P(fake) ${report.p_fake.toFixed(3)},`;
  const low = bands.real_below.toFixed(3);
  const high = bands.fake_from.toFixed(3);
  if (report.verdict === "fake")
    return `${score} reaches ${high}. ${error(rules, "fpr", bands.fake_from, "real", "reach that too")}`;
  if (report.verdict === "real")
    return `${score} is below ${low}. ${error(rules, "fnr", bands.real_below, "fake", "stay below it too")}`;
  const would = decide(bands, report.p_fake);
  if (would === "inconclusive")
    return (
      `${score} lies between ${low}, below which the answer is “real”, and ` +
      `${high}, from which it is “fake”. Between them the model errs too often to claim either.`
    );
  return `${score} would be “${would}”, and rests on too little: ${report.reason}.`;
}

function error(rules, kind, at, label, does) {
  const point = pointAt(rules, kind, at);
  if (!point)
    return `How often that is wrong is not stated; the thresholds: ${rules.bands.reason || "chosen by hand"}.`;
  const things = rules.ofVideos ? "videos" : "faces";
  return (
    `About ${percent(point.rate)} of the ${label} ${things} set aside to choose it ${does} ` +
    `(95 % interval ${percent(point.rate_low)} to ${percent(point.rate_high)}, from ${point.samples} ${things}).`
  );
}

/** The operating point that a threshold is; undefined where it was chosen otherwise. */
export function pointAt(rules, kind, at) {
  return (rules.points ?? []).find((one) => one.kind === kind && Math.abs(one.threshold - at) < 1e-9);
}
