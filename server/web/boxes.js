/* Boxes and labels of faces on a canvas that lies over a picture; the colours are those of annotated videos. */

import { words } from "./format.js";

// Okabe and Ito (2008): colour-blind people can tell them apart; the label says the verdict too.
const COLOURS = { fake: "#d55e00", real: "#0072b2", inconclusive: "#f0e442", no_face: "#c8c8c8" };
const LIGHT = new Set(["inconclusive", "no_face"]); // black text is read on these

/** Makes a canvas as large as its element on this screen; its context, in CSS pixels. */
export function prepared(canvas) {
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Where a picture lies that is fitted into an area without being cut: left, top, and CSS pixels per pixel. */
export function fitted(area, size) {
  const scale = Math.min(area.width / size.width, area.height / size.height);
  return { left: (area.width - size.width * scale) / 2, top: (area.height - size.height * scale) / 2, scale };
}

/** Draws faces, the smallest first, so that the label of a large one is not hidden.

   place: of `fitted`; roles: Map from number to role; near: whether the boxes are of this very moment. */
export function drawFaces(context, faces, place, { roles = new Map(), near = true } = {}) {
  for (const face of [...faces].sort((one, other) => area(one) - area(other)))
    drawFace(context, face, place, roles, near);
}

function drawFace(context, face, place, roles, near) {
  const counts = face.p_fake !== null && (roles.get(face.person) ?? "main") === "main";
  const verdict = counts ? face.verdict : "no_face";
  const [x0, y0, x1, y1] = face.box.map((value, i) => (i % 2 ? place.top : place.left) + value * place.scale);
  context.setLineDash(near ? [] : [6, 5]);
  // A dark line below keeps a light one visible on a light picture.
  for (const [width, colour] of [
    [counts ? 5 : 3, "rgba(0, 0, 0, .65)"],
    [counts ? 3 : 1.5, COLOURS[verdict]],
  ]) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  label(context, labelOf(face), x0, y0, verdict);
}

function labelOf(face) {
  const number = face.person === null || face.person === undefined ? "" : `${face.person}: `;
  return face.p_fake === null
    ? `${number}too small`
    : `${number}${words(face.verdict).toUpperCase()} ${face.p_fake.toFixed(2)}`;
}

function label(context, text, x, y, verdict) {
  context.font = "600 13px system-ui, sans-serif";
  const width = context.measureText(text).width + 10;
  const left = Math.max(0, Math.min(x - 2, context.canvas.clientWidth - width));
  const top = Math.max(0, y - 21);
  context.fillStyle = COLOURS[verdict];
  context.fillRect(left, top, width, 19);
  context.fillStyle = LIGHT.has(verdict) ? "#000" : "#fff";
  context.textBaseline = "middle";
  context.fillText(text, left + 5, top + 10);
}

function area(face) {
  return (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]);
}
