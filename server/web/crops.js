/* The faces as the model saw them, each beside a map of where its score came from. */

import { h } from "./dom.js";
import { clock, tone, words } from "./format.js";
import { section } from "./report.js";

const SAYS =
  "Left what the model saw, right where its score came from: the stronger the orange, the more that place moved the " +
  "score, up or down. It shows where this model looked, which is no proof that the place was manipulated.";

/** Crops of the service in their groups; onSeek gets seconds, and is null for pictures. */
export function cropsSection(crops, onSeek = null) {
  if (!crops.length) return null;
  const groups = [
    ["Most suspicious", "most"],
    ["Least suspicious", "least"],
    ["", "face"],
  ];
  const parts = groups.flatMap(([title, kind]) => {
    const some = crops.filter((crop) => crop.kind === kind);
    if (!some.length) return [];
    return [
      title ? h("h4", {}, title) : null,
      h(
        "ul",
        { class: "crops" },
        some.map((crop) => card(crop, onSeek)),
      ),
    ];
  });
  return section(onSeek ? "The most and the least suspicious faces" : "The faces", h("p", {}, SAYS), ...parts);
}

function card(crop, onSeek) {
  const [x0, y0, x1, y1] = crop.box;
  const says = [words(crop.verdict)];
  if (crop.person !== null) says.push(`person ${crop.person}`);
  if (crop.time !== null) says.push(`at ${clock(crop.time)}`);
  says.push(`${Math.max(x1 - x0, y1 - y0).toFixed(0)} pixels`);
  const text = says.join(", ");
  return h(
    "li",
    {},
    h("div", {}, picture(crop.crop, `Face, ${text}`), picture(crop.heat, "Where its score came from")),
    h("p", {}, h("b", { class: tone(crop.verdict) }, `P(fake) ${crop.p_fake.toFixed(3)}`), `, ${text}`),
    onSeek && crop.time !== null
      ? h(
          "button",
          { type: "button", class: "small", on: { click: () => onSeek(crop.time) } },
          `Show at ${clock(crop.time)}`,
        )
      : null,
  );
}

/** Only pictures that are part of the answer itself: nothing is fetched because an answer names it. */
function picture(source, alt) {
  const own = typeof source === "string" && source.startsWith("data:image/");
  return own ? h("img", { src: source, alt, width: 224, height: 224 }) : h("span", { class: "soft" }, "no picture");
}
