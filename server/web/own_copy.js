/* Asks for the user's own copy of a video that the service did not keep, and makes sure that it is the same one. */

import { h, put } from "./dom.js";

const HASHED = 300e6; // bytes; a browser can only hash what is in memory as a whole

/** A field for the file; onChosen gets it once it is known, as far as can be, to be the one that was scored. */
export function ownCopy(sha256, size, onChosen) {
  const says = h("p", { role: "status" });
  const field = h("input", { type: "file", id: "own-copy", accept: "video/*" });
  field.addEventListener("change", async () => {
    const [file] = field.files;
    if (!file) return;
    if (size && file.size !== size)
      return put(says, "This is another file: its size is not that of the video that was scored.");
    if (sha256 && crypto.subtle && file.size <= HASHED) {
      put(says, "Comparing");
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()));
      const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      if (found !== sha256)
        return put(says, "This is another file: its sha256 is not that of the video that was scored.");
    }
    return onChosen(file);
  });
  return h(
    "div",
    { class: "own" },
    h(
      "label",
      { for: "own-copy" },
      "The service did not keep the video. Choose your copy to see it beside its scores; it is not sent.",
    ),
    field,
    says,
  );
}
