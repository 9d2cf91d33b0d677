/* Scores over time, person by person, as data: what video/render/timeline.py and video/render/page.py draw in reports.

   A stretch is the time for which one sampled face stands: half way to the neighbouring samples. */

import { clock, score, words } from "./format.js";

const MAX_LANES = 12; // people with a timeline of their own; more are in the table alone

/** Seconds that a timeline spans: the video's length, and never less than its last sample; positive. */
export function span(frames, duration) {
  return Math.max(duration || 0, frames.length ? frames.at(-1).time : 0, 1e-3);
}

/** Lanes of a report, or with people null of the frames that a running job has sent so far. */
export function lanesOf(frames, people, duration, fps) {
  const edges = edgesOf(frames, span(frames, duration), fps);
  const known = people ?? seen(frames);
  const order = [...known].sort(
    (one, other) => (one.role !== "main") - (other.role !== "main") || one.number - other.number,
  );
  const lanes = (order.length ? order : [null]).map((person) => lane(frames, edges, person));
  const drawn = lanes.filter((one) => one.stretches.length);
  return { lanes: drawn.slice(0, MAX_LANES), leftOut: Math.max(0, drawn.length - MAX_LANES) };
}

function lane(frames, edges, person) {
  const stretches = [];
  frames.forEach((frame, number) => {
    const mine = frame.faces.filter((face) => face.p_fake !== null && (!person || face.person === person.number));
    if (!mine.length) return;
    const face = mine.reduce((most, one) => (one.p_fake > most.p_fake ? one : most));
    stretches.push({ start: edges[number], end: edges[number + 1], time: frame.time, face });
  });
  return {
    person,
    stretches,
    runs: runsOf(stretches),
    segments: person?.segments ?? [],
    title: person ? `Person ${person.number}` : "All faces",
    says: person?.verdict ? `${person.role}: ${words(person.verdict)}, ${score(person.p_fake)}` : "",
  };
}

/** Stretches that touch belong together; between runs nobody is seen. */
function runsOf(stretches) {
  const runs = [];
  for (const stretch of stretches) {
    if (!runs.length || stretch.start - runs.at(-1).at(-1).end > 1e-6) runs.push([]);
    runs.at(-1).push(stretch);
  }
  return runs;
}

/** Between which times each frame stands for its surroundings: one more than there are frames. */
function edgesOf(frames, length, fps) {
  const times = frames.map((frame) => frame.time);
  if (!times.length) return [];
  if (times.length === 1) return [times[0], times[0] + 1 / (fps || 25)];
  const middles = times.slice(1).map((time, i) => (times[i] + time) / 2);
  const last = Math.min(2 * times.at(-1) - middles.at(-1), length);
  return [Math.max(0, 2 * times[0] - middles[0]), ...middles, Math.max(last, times.at(-1))];
}

function seen(frames) {
  const numbers = new Set();
  for (const frame of frames) for (const face of frame.faces) if (face.person !== null) numbers.add(face.person);
  return [...numbers].map((number) => ({ number, role: "main" }));
}

/** A sentence for those who do not see the plot. */
export function described(lane) {
  const scores = lane.stretches.map((stretch) => stretch.face.p_fake);
  const [first, last] = [lane.stretches[0].time, lane.stretches.at(-1).time];
  const low = Math.min(...scores).toFixed(2);
  const high = Math.max(...scores).toFixed(2);
  const when = `from ${clock(first)} to ${clock(last)}`;
  return `${lane.title}, P(fake) of ${scores.length} faces ${when}, from ${low} to ${high}`;
}
