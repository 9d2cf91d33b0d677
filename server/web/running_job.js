/* What is known of a job while it runs: its place in the queue, its progress, and its verdict once there is one. */

import { json, request } from "./api.js";
import { announce, h, named, put } from "./dom.js";
import { verdictBox } from "./report.js";

const LOOK_EVERY = 4000; // ms; the place in the queue is no event
const QUIET = 10_000; // ms without an event after which the job is asked for: some proxies hold events back

export class RunningJob {
  /** onStopped: called once the user has stopped the job, or with the error that kept it from being stopped.
      onEnded: called with a job that has ended without an event that said so. */
  constructor(job, path, signal, { onStopped, onEnded }) {
    Object.assign(this, { path, signal, onEnded });
    this.heard = performance.now();
    this.bar = h("progress", { "aria-label": "Frames scored", max: 1 });
    this.status = h("p"); // no live region: it would be read out at every frame
    this.connection = h("p", { class: "soft", role: "status" });
    this.verdict = h("div");
    const stop = h("button", { type: "button" }, "Stop and delete");
    stop.addEventListener("click", async () => {
      stop.disabled = true;
      try {
        await request(path, { method: "DELETE" });
        onStopped(null);
      } catch (error) {
        stop.disabled = false;
        onStopped(error);
      }
    });
    this.node = h(
      "div",
      { class: "running" },
      h("h2", { class: "checking" }, "Checking ", named(job.name)),
      this.verdict,
      this.bar,
      this.status,
      this.connection,
      stop,
    );
    this.state = "";
    this.on("state", { state: job.state, attempt: job.attempt });
    this.timer = setInterval(() => this.#look(), LOOK_EVERY);
    this.#look();
  }

  on(type, data) {
    this.heard = performance.now();
    if (type === "state") this.#state(data);
    else if (type === "progress") this.#progress(data);
    else if (type === "verdict") {
      put(this.verdict, verdictBox(data.verdict, data.p_fake, data.reason, null).node);
      this.bar.removeAttribute("value");
      this.#says("The report with its crops is being made");
    }
  }

  trouble(failures) {
    this.connection.textContent =
      failures === null ? "" : "The connection is lost; trying again. The service goes on meanwhile.";
  }

  close() {
    clearInterval(this.timer);
  }

  #state({ state, attempt }) {
    this.state = state;
    this.bar.removeAttribute("value");
    const reading = attempt > 1 ? `Reading the video again (attempt ${attempt})` : "Reading the video";
    const text = { queued: "Waiting for its turn", running: reading }[state];
    if (!text) return;
    this.#says(text);
    announce(text);
  }

  #progress({ done, total }) {
    if (!total) return;
    this.bar.max = total;
    this.bar.value = done;
    this.#says(`${done} of ${total} frames`);
  }

  async #look() {
    if (this.state !== "queued" && performance.now() - this.heard < QUIET) return;
    try {
      const job = await json(this.path, { signal: this.signal });
      if (job.state === "done" || job.state === "failed") this.onEnded(job);
      else if (job.progress) this.#progress(job.progress);
      else if (this.state === "queued" && job.position)
        this.#says(job.position === 1 ? "Next in the queue" : `Number ${job.position} in the queue`);
    } catch {
      // The events say what matters, and say it again; this is for when they do not come.
    }
  }

  #says(text) {
    if (this.status.textContent !== text) this.status.textContent = text;
  }
}
