/* The parts of a result that pictures and videos share: verdict, its scale, its meaning, and what to check it with. */

import { facts, h, named, printable } from "./dom.js";
import { clock, percent, score, tone, words } from "./format.js";
import { HEADLINES, inForce, wording } from "./wording.js";

/** The verdict with its score and reason. The heading has the focus when a result appears. */
export function verdictBox(verdict, p_fake, reason, bands) {
  const heading = h("h2", { class: "headline" }, HEADLINES[verdict] ?? words(verdict));
  const node = h(
    "div",
    { class: `verdict ${tone(verdict)}` },
    h("p", { class: "label" }, "The model's answer"),
    heading,
    p_fake === null ? null : h("p", {}, h("b", {}, score(p_fake))),
    p_fake === null || !bands ? null : scale(p_fake, bands),
    reason ? h("p", {}, named(reason)) : null,
  );
  return { node, heading };
}

/** Where the score lies between the thresholds: in shapes for the eye, in words for the rest. */
function scale(p_fake, bands) {
  const where = `real below ${bands.real_below.toFixed(3)}, fake from ${bands.fake_from.toFixed(3)}`;
  const says = `${score(p_fake, 3)} on a scale from 0 to 1: ${where}`;
  const part = (kind, from, to) => {
    const node = h("span", { class: `part ${kind}` }, to - from > 0.05 ? h("span", {}, kind) : null);
    node.style.left = `${100 * from}%`;
    node.style.width = `${100 * (to - from)}%`;
    return node;
  };
  const marker = h("i", { class: "marker" });
  marker.style.left = `${100 * p_fake}%`;
  const { real_below: low, fake_from: high } = bands;
  return h(
    "div",
    { class: "scale", role: "img", "aria-label": says },
    part("real", 0, low),
    part("inconclusive", low, high),
    part("fake", high, 1),
    marker,
  );
}

/** What it means, and what it does not. */
export function meaning(report) {
  const says = wording(report);
  const list = (title, lines) =>
    h(
      "section",
      {},
      h("h3", {}, title),
      h(
        "ul",
        {},
        lines.map((line) => h("li", {}, printable(line))),
      ),
    );
  return h("div", { class: "says" }, list("What this means", says.means), list("What it does not mean", says.meansNot));
}

/** What a video's verdict rests on. */
export function evidence(report) {
  const { evidence: rests, people } = report;
  return section(
    "What it rests on",
    facts([
      ["Faces scored", `${rests.faces_scored}, over ${rests.seconds.toFixed(1)} s`],
      ["Frames with a scored face", `${rests.frames_with_face} of ${rests.frames_sampled} sampled`],
      ["Of these, sharp", rests.frames_sharp],
      ["Faces too small to score", rests.faces_too_small],
      ["Frames that could not be read", rests.frames_dropped],
      ["People", people.length || "not told apart"],
    ]),
  );
}

/** A table of people; suspicious stretches are buttons that seek. */
export function peopleTable(people, onSeek) {
  if (!people.length) return null;
  const stretch = (one) =>
    h(
      "button",
      { type: "button", class: "small", on: { click: () => onSeek(one.start) } },
      `${clock(one.start)} – ${clock(one.end)} (${one.p_fake.toFixed(2)} ${words(one.verdict)})`,
    );
  const order = [...people].sort(
    (one, other) => (one.role !== "main") - (other.role !== "main") || one.number - other.number,
  );
  const rows = order.map((person) => [
    person.number,
    person.role,
    h("b", { class: tone(person.verdict) }, words(person.verdict)),
    person.p_fake === null ? "–" : person.p_fake.toFixed(3),
    `${clock(person.start)} – ${clock(person.end)}`,
    person.evidence.faces_scored,
    person.face_pixels.toFixed(0),
    person.segments.length ? h("span", { class: "buttons" }, person.segments.map(stretch)) : "–",
    named(person.reason || "–"),
  ]);
  const header = ["Person", "role", "verdict", "P(fake)", "seen", "faces", "pixels", "suspicious stretches", "why"];
  return section("People", table("People", header, rows));
}

/** A table with a caption for screen readers, that scrolls by itself where it is too wide. */
export function table(caption, header, rows) {
  return h(
    "div",
    { class: "wide", role: "region", tabindex: "0", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          header.map((cell) => h("th", { scope: "col" }, cell)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((cells) =>
          h(
            "tr",
            {},
            cells.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell))),
          ),
        ),
      ),
    ),
  );
}

/** Hashes, thresholds and settings, folded: with these somebody else can check the result. */
export function provenance(report) {
  const { model, media } = report;
  const rules = inForce(report);
  const { bands } = rules;
  const points = rules.points.map((point) => {
    const rate = `${percent(point.rate)} (${percent(point.rate_low)} to ${percent(point.rate_high)})`;
    return [
      point.kind === "fpr" ? "False positives" : "False negatives",
      `${rate} at ${point.threshold.toFixed(4)}, from ${point.samples} of ${point.split}`,
    ];
  });
  const of = rules.ofVideos ? "videos" : "single faces";
  const how = [
    ["Detector", report.detector],
    ["Calibration", model.calibration],
  ];
  if (report.kind === "video") {
    const chosen = Object.entries(report.sampling).filter(([, value]) => value !== null);
    how.push(["Sampling", chosen.map(([name, value]) => `${name} ${value}`).join(", ") || "default"]);
    how.push(["Aggregation", report.aggregation]);
    how.push(["Frames in the file", `${media.frames}, times from ${media.times_from ?? "the container"}`]);
  } else how.push(["Whole picture taken for a face", report.whole_image ? "yes" : "no"]);
  how.push(["Seconds it took", report.seconds.total.toFixed(2)]);
  const command =
    report.kind === "video" ? "fakeface verify report.json VIDEO" : "fakeface classify PICTURE --format json";
  return h(
    "details",
    { class: "fold" },
    h("summary", {}, "To check it again"),
    h(
      "p",
      {},
      "With the JSON report and the model named here, ",
      h("code", {}, command),
      " gives the same scores on any machine.",
    ),
    facts(
      [
        ["File, sha256", media.sha256 ?? "unknown"],
        ["Model", model.name],
        ["Model, sha256", model.id],
        [
          "Real below, fake from",
          `${bands.real_below.toFixed(4)}, ${bands.fake_from.toFixed(4)}, of ${of}; ${bands.reason}`,
        ],
        ...points,
        ...how,
      ].map(([key, value]) => [key, named(value)]),
    ),
  );
}

export function section(title, ...content) {
  return h("section", {}, h("h3", {}, title), ...content);
}

/** A row of buttons that keep the result: [text, action] each; an action may take its time. */
export function downloads(entries, onError) {
  const button = ([text, act]) => {
    const node = h("button", { type: "button" }, text);
    node.addEventListener("click", async () => {
      node.disabled = true;
      try {
        await act();
      } catch (error) {
        onError(error);
      } finally {
        node.disabled = false;
      }
    });
    return node;
  };
  return h("div", { class: "buttons downloads", role: "group", "aria-label": "Keep the result" }, entries.map(button));
}

/** A name to save under: that of the file, without what a file system or a reader could be misled by. */
export function savedAs(name, ending) {
  const stem = printable(name)
    .replace(/\.[^.]{1,5}$/, "")
    .replace(/[^\p{L}\p{N} ._-]+/gu, "_")
    .slice(0, 80);
  return `${stem.replace(/^\.+/, "") || "report"}${ending}`;
}
