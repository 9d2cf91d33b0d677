/* The result of a picture: the picture with boxes, its faces, their crops, and the report to keep. */

import { request } from "./api.js";
import { announce, focusOn, h, named, put, save } from "./dom.js";
import { drawFaces, fitted, prepared } from "./boxes.js";
import { cropsSection } from "./crops.js";
import { bytes, tone, words } from "./format.js";
import { problemBox } from "./problems.js";
import { downloads, meaning, provenance, savedAs, section, table, verdictBox } from "./report.js";
import { upload } from "./upload.js";

export class PictureResult {
  /** again: called to send the same file once more; wholeImage: the picture is itself a face crop. */
  constructor(file, { wholeImage, again }) {
    Object.assign(this, { file, wholeImage, again });
    this.stopping = new AbortController();
    this.node = h("article", { class: "result" });
    this.url = null;
  }

  get query() {
    return this.wholeImage ? "?whole_image=true" : "";
  }

  async run() {
    const bar = h("progress", { "aria-label": "Sent", max: 1, value: 0 });
    const status = h("p", { role: "status" }, "Sending the picture");
    const stop = h("button", { type: "button", on: { click: () => this.stopping.abort() } }, "Stop");
    put(
      this.node,
      h("p", { class: "file" }, "Picture ", h("b", {}, named(this.file.name)), `, ${bytes(this.file.size)}`),
      bar,
      status,
      stop,
    );
    try {
      const answer = await upload(`/v1/images/crops${this.query}`, form(this.file), {
        signal: this.stopping.signal,
        onProgress: (share) => {
          if (share < 1) bar.value = share;
          else bar.removeAttribute("value"); // how long scoring takes is not known
          status.textContent = share < 1 ? "Sending the picture" : "Looking for faces and scoring them";
        },
      });
      this.#show(answer.report, answer.crops);
    } catch (error) {
      if (error.name === "AbortError") put(this.node, h("p", { role: "status" }, "Stopped. Nothing is kept."));
      else put(this.node, problemBox("The picture could not be checked", error, this.again));
    }
  }

  close() {
    this.stopping.abort();
    this.watcher?.disconnect();
    if (this.url) URL.revokeObjectURL(this.url);
  }

  #show(report, crops) {
    const { node, heading } = verdictBox(report.verdict, report.p_fake, report.reason, report.bands);
    const problems = h("div");
    const name = this.file.name;
    put(
      this.node,
      h(
        "p",
        { class: "file" },
        "Picture ",
        h("b", {}, named(name)),
        `, ${report.media.width} × ${report.media.height}`,
      ),
      node,
      downloads(
        [
          [
            "Save as JSON",
            () =>
              save(new Blob([JSON.stringify(report, null, 2)], { type: "application/json" }), savedAs(name, ".json")),
          ],
          ["Save as a page (HTML)", () => this.#page()],
        ],
        (error) => put(problems, problemBox("It could not be saved", error)),
      ),
      problems,
      this.#picture(report),
      meaning(report),
      this.#faces(report),
      cropsSection(crops),
      provenance(report),
    );
    announce(`The model's answer: ${heading.textContent}`);
    focusOn(heading);
  }

  /** The user's own copy with boxes over it; browsers turn pictures by their EXIF as the service does. */
  #picture(report) {
    this.url = URL.createObjectURL(this.file);
    const count = report.faces.length;
    const alt = count
      ? `The picture, with boxes around ${count === 1 ? "the face" : `${count} faces`}`
      : "The picture; no face was found in it";
    const canvas = h("canvas", { class: "over", "aria-hidden": "true" });
    const image = h("img", { src: this.url, alt });
    const screen = h("figure", { class: "screen still" }, image, canvas);
    const draw = () => {
      if (!image.complete || !canvas.clientWidth) return;
      const area = { width: canvas.clientWidth, height: canvas.clientHeight };
      const faces = report.faces.map((face, i) => ({ ...face, person: i + 1 }));
      drawFaces(prepared(canvas), faces, fitted(area, report.media));
    };
    image.addEventListener("load", draw);
    image.addEventListener("error", () =>
      put(
        screen,
        h("p", { class: "note" }, "This browser cannot show pictures of this kind; the service could read it."),
      ),
    );
    this.watcher = new ResizeObserver(draw);
    this.watcher.observe(image);
    return screen;
  }

  #faces(report) {
    if (!report.faces.length) return null;
    const rows = report.faces.map((face, i) => {
      const [x0, y0, x1, y1] = face.box;
      return [
        i + 1,
        face.p_fake === null ? "too small to be scored" : h("b", { class: tone(face.verdict) }, words(face.verdict)),
        face.p_fake === null ? "–" : face.p_fake.toFixed(3),
        `${Math.max(x1 - x0, y1 - y0).toFixed(0)} pixels`,
        face.confidence.toFixed(2),
      ];
    });
    return section(
      "Faces, largest first",
      table("Faces", ["Face", "verdict", "P(fake)", "longer side", "sure that it is a face"], rows),
    );
  }

  /** Pictures are not stored: their page is made by scoring the picture once more. */
  async #page() {
    const headers = { Accept: "text/html" };
    const response = await request(`/v1/images${this.query}`, {
      method: "POST",
      headers,
      body: form(this.file),
      signal: this.stopping.signal,
    });
    save(await response.blob(), savedAs(this.file.name, ".html"));
  }
}

function form(file) {
  const data = new FormData();
  data.append("file", file, file.name);
  return data;
}
