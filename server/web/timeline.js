/* The timeline of a video: a lane per person, drawn as in reports, each a slider that moves the player.

   Click or drag seeks; arrow keys go from sample to sample, Page Up and Page Down a tenth, Home and End to the ends.
   The whole is redrawn while a job runs; only the cursor moves with the player. */

import { h, put, svg } from "./dom.js";
import { clock, tone, words } from "./format.js";
import { described, lanesOf, span } from "./lanes.js";

const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200];
const MAX_TICKS = 6;

export class Timeline {
  /** bands: thresholds of single faces, for the dashed lines; onSeek gets seconds. */
  constructor(bands, onSeek) {
    this.bands = bands;
    this.onSeek = onSeek;
    this.time = 0;
    this.length = 1;
    this.sliders = [];
    this.readout = h("p", { class: "readout" });
    this.body = h("div", { class: "lanes" });
    this.node = h("div", { class: "timeline" }, key(), this.body, this.readout);
  }

  /** Draws frames; people as in a report, or null while they are not settled. */
  show(frames, people, duration, fps) {
    const held = this.sliders.findIndex((one) => one.node === document.activeElement);
    this.length = span(frames, duration);
    const { lanes, leftOut } = lanesOf(frames, people, duration, fps);
    this.sliders = lanes.map((lane) => this.#lane(lane));
    const counts = ({ lane }) => (lane.person?.role ?? "main") === "main";
    const [main, others] = [this.sliders.filter(counts), this.sliders.filter((one) => !counts(one))];
    const figures = (sliders) => sliders.map((slider) => slider.figure);
    const about = `${others.length} ${others.length === 1 ? "person" : "people"} whose score does not count`;
    this.body.classList.toggle("many", main.length > 3);
    put(
      this.body,
      figures(main),
      others.length ? h("details", { class: "fold" }, h("summary", {}, about), figures(others)) : null,
      leftOut ? h("p", {}, `${leftOut} more people are in the table.`) : null,
      lanes.length ? null : h("p", { class: "soft" }, "No scored face yet."),
    );
    if (held >= 0) this.sliders[held]?.node.focus();
    this.at(this.time);
  }

  /** Moves the cursor. */
  at(time) {
    this.time = Math.min(Math.max(time, 0), this.length);
    for (const { node, cursor, lane } of this.sliders) {
      cursor.style.left = `${(100 * this.time) / this.length}%`;
      node.setAttribute("aria-valuenow", this.time.toFixed(2));
      node.setAttribute("aria-valuetext", `${clock(this.time)}: ${saysAt(lane, this.time)}`);
    }
    const there = this.sliders.filter(({ lane }) => stretchAt(lane, this.time));
    const says = there.map(({ lane }) => `${lane.title.toLowerCase()} ${saysAt(lane, this.time)}`);
    put(this.readout, h("b", {}, clock(this.time)), ` ${says.join("; ") || "nobody is seen, or nothing was sampled"}`);
  }

  #lane(lane) {
    const cursor = h("div", { class: "cursor" });
    const node = h(
      "div",
      {
        class: "plot",
        role: "slider",
        tabindex: "0",
        "aria-label": described(lane),
        "aria-valuemin": "0",
        "aria-valuemax": this.length.toFixed(2),
        "aria-orientation": "horizontal",
        on: {
          keydown: (event) => this.#key(event, lane),
          pointerdown: (event) => this.#drag(event, node),
        },
      },
      this.#drawn(lane),
      this.#limits(),
      cursor,
    );
    const title = h("figcaption", {}, h("b", {}, lane.title), lane.says ? `, ${lane.says}` : "");
    return { lane, node, cursor, figure: h("figure", { class: "lane" }, title, node, this.#ticks()) };
  }

  #drawn(lane) {
    const x = (time) => (1000 * Math.min(Math.max(time / this.length, 0), 1)).toFixed(2);
    const box = (kind, start, end) =>
      svg("rect", { class: kind, x: x(start), y: 0, width: Math.max(2, x(end) - x(start)), height: 100 });
    const still = { "vector-effect": "non-scaling-stroke" };
    return svg(
      "svg",
      { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" },
      lane.runs.map((run) => box("seen", run[0].start, run.at(-1).end)),
      lane.segments.map((segment) => box("segment", segment.start, segment.end)),
      this.#levels().map(([, p]) =>
        svg("line", { class: "limit", x1: 0, x2: 1000, y1: height(p), y2: height(p), ...still }),
      ),
      lane.runs.map((run) =>
        svg("polyline", {
          class: "way",
          points: run.map((one) => `${x(one.time)},${height(one.face.p_fake)}`).join(" "),
          ...still,
        }),
      ),
      lane.stretches.map(({ time, face }) =>
        svg("path", { class: `dot ${tone(face.verdict)}`, d: `M${x(time)} ${height(face.p_fake)}h0`, ...still }),
      ),
    );
  }

  #levels() {
    if (!this.bands) return [];
    return [
      ["fake from", this.bands.fake_from],
      ["real below", this.bands.real_below],
    ];
  }

  #limits() {
    return this.#levels().map(([text, p]) => {
      const label = h(
        "span",
        { class: `name${height(p) < 20 ? " below" : ""}`, "aria-hidden": "true" },
        `${text} ${p.toFixed(2)}`,
      );
      label.style.top = `${height(p)}%`;
      return label;
    });
  }

  #ticks() {
    const step = TICKS.find((one) => this.length / one <= MAX_TICKS) ?? this.length / MAX_TICKS;
    const count = Math.floor(this.length / step + 1e-6) + 1;
    const ticks = Array.from({ length: count }, (_, i) => {
      const left = (100 * i * step) / this.length;
      const tick = h("span", { class: left > 92 ? "last" : left < 1 ? "first" : "" }, clock(i * step));
      tick.style.left = `${left}%`;
      return tick;
    });
    return h("div", { class: "ticks", "aria-hidden": "true" }, ticks);
  }

  #key(event, lane) {
    const times = lane.stretches.map((stretch) => stretch.time);
    const moves = {
      ArrowRight: () => times.find((time) => time > this.time + 0.01) ?? this.time,
      ArrowLeft: () => times.findLast((time) => time < this.time - 0.01) ?? this.time,
      PageUp: () => this.time + this.length / 10,
      PageDown: () => this.time - this.length / 10,
      Home: () => 0,
      End: () => this.length,
    };
    moves.ArrowUp = moves.ArrowRight;
    moves.ArrowDown = moves.ArrowLeft;
    const move = moves[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.#seek(move());
  }

  #drag(event, node) {
    if (event.button !== 0) return;
    const area = node.getBoundingClientRect();
    const seek = (at) => this.#seek(((at.clientX - area.left) / area.width) * this.length);
    node.setPointerCapture(event.pointerId);
    node.addEventListener("pointermove", seek);
    const end = () => node.removeEventListener("pointermove", seek);
    for (const over of ["pointerup", "pointercancel"]) node.addEventListener(over, end, { once: true });
    seek(event);
  }

  #seek(time) {
    this.at(time);
    this.onSeek(this.time);
  }
}

/** Height in the plot, in per cent from its upper edge; its margins keep dots inside. */
function height(p_fake) {
  return Number((5 + 90 * (1 - p_fake)).toFixed(2));
}

function stretchAt(lane, time) {
  return lane.stretches.find((one) => one.start - 1e-6 <= time && time <= one.end + 1e-6);
}

/** What is known of a lane at a time. */
function saysAt(lane, time) {
  const there = stretchAt(lane, time);
  if (!there) return "not seen, or not sampled";
  const suspicious = lane.segments.some((one) => one.start <= time && time <= one.end);
  const { p_fake, verdict } = there.face;
  return `P(fake) ${p_fake.toFixed(2)}, ${words(verdict)}${suspicious ? ", suspicious stretch" : ""}`;
}

function key() {
  const entries = [
    ["fake", "mark fake"],
    ["inconclusive", "mark inconclusive"],
    ["real", "mark real"],
    ["suspicious stretch", "mark box segment"],
    ["not seen, or not sampled", "mark box unseen"],
  ];
  return h(
    "ul",
    { class: "key", "aria-label": "Key" },
    entries.map(([text, kind]) => h("li", {}, h("i", { class: kind }), text)),
  );
}
