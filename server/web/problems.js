/* Errors as people need them: what happened, and what to do now. */

import { h, named } from "./dom.js";
import { wait } from "./format.js";

const HINTS = {
  0: "",
  401: "An access token is needed; the operator of this service gives them out.",
  403: "This access token may not do that. Ask the operator of this service.",
  404: "It may have been deleted, or have expired.",
  410: "It has expired. Send the file again.",
  413: "Choose a smaller file, or a shorter part of it.",
  415: "Choose a picture (JPEG, PNG, WebP) or a video (MP4, MOV, WebM, Matroska, AVI).",
  429: "Too much was asked for at once.",
  500: "This is a fault of the service. Its operator finds it in the logs.",
  503: "The service is busy or being restarted.",
};

/** A box that is read out at once. `again` is called by its button, which names the time to wait where one is known. */
export function problemBox(title, error, again = null) {
  const later = error.retryAfter ?? null;
  const hint = HINTS[error.status] ?? "";
  const when = later === null ? "" : `Try again in ${wait(later)}${at(later)}.`;
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("h3", {}, title),
    h("p", {}, named(error.message || "Something unexpected happened.")),
    hint || when ? h("p", {}, [hint, when].filter(Boolean).join(" ")) : null,
    again ? h("p", {}, h("button", { type: "button", on: { click: again } }, "Try again")) : null,
  );
}

function at(seconds) {
  if (seconds < 20) return "";
  return `, at ${new Date(Date.now() + 1000 * seconds).toLocaleTimeString()}`;
}
