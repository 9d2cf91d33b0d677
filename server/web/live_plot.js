/* The score of the last minute, as a line; dots are single faces. */

import { h, put, svg } from "./dom.js";
import { clock, tone } from "./format.js";

const SECONDS = 60;

export class LivePlot {
  /** bands: the thresholds of the line, for the dashed lines. */
  constructor(bands) {
    this.bands = bands;
    this.points = [];
    this.area = h("div", { class: "plot", role: "img", "aria-label": "P(fake) of the last minute: nothing yet" });
    this.node = h(
      "figure",
      { class: "lane" },
      h("figcaption", {}, h("b", {}, "P(fake) of the last minute"), ", dots are single faces"),
      this.area,
    );
  }

  /** time in seconds; p_fake of the stream, or null; faces of the picture. */
  add(time, p_fake, faces) {
    this.points.push({ time, p_fake, faces: faces.filter((face) => face.p_fake !== null) });
    while (this.points[0].time < time - SECONDS) this.points.shift();
    this.#draw(time);
  }

  #draw(now) {
    const from = Math.max(0, now - SECONDS);
    const x = (time) => ((1000 * (time - from)) / SECONDS).toFixed(1);
    const still = { "vector-effect": "non-scaling-stroke" };
    const levels = [
      ["fake from", this.bands.fake_from],
      ["real below", this.bands.real_below],
    ];
    const labels = levels.map(([text, p]) => {
      const label = h(
        "span",
        { class: `name${height(p) < 20 ? " below" : ""}`, "aria-hidden": "true" },
        `${text} ${p.toFixed(2)}`,
      );
      label.style.top = `${height(p)}%`;
      return label;
    });
    put(
      this.area,
      svg(
        "svg",
        { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("rect", { class: "seen", x: 0, y: 0, width: x(now), height: 100 }),
        levels.map(([, p]) => svg("line", { class: "limit", x1: 0, x2: 1000, y1: height(p), y2: height(p), ...still })),
        this.points.flatMap(({ time, faces }) =>
          faces.map((face) =>
            svg("path", { class: `dot ${tone(face.verdict)}`, d: `M${x(time)} ${height(face.p_fake)}h0`, ...still }),
          ),
        ),
        // The line is broken where there was no score: it must not bridge what was not known.
        runs(this.points).map((run) =>
          svg("polyline", {
            class: "way strong",
            points: run.map((one) => `${x(one.time)},${height(one.p_fake)}`).join(" "),
            ...still,
          }),
        ),
      ),
      labels,
    );
    this.area.setAttribute("aria-label", described(this.points));
  }
}

function runs(points) {
  const found = [[]];
  for (const point of points) {
    if (point.p_fake === null) found.push([]);
    else found.at(-1).push(point);
  }
  return found.filter((run) => run.length);
}

function described(points) {
  const scores = points.map((point) => point.p_fake).filter((p) => p !== null);
  const seconds = clock(points.at(-1).time - points[0].time);
  if (!scores.length) return `P(fake) of the last ${seconds}: no score`;
  const [now, low, high] = [scores.at(-1), Math.min(...scores), Math.max(...scores)].map((p) => p.toFixed(2));
  return `P(fake) of the last ${seconds}: now ${now}, from ${low} to ${high}`;
}

function height(p_fake) {
  return 5 + 90 * (1 - p_fake);
}
