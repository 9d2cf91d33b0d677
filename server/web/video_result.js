/* The result of a video: the job while it runs, with scores as they come, then its report beside the player. */

import { json, mediaUrl, token } from "./api.js";
import { announce, focusOn, h, named, put, show } from "./dom.js";
import { cropsSection } from "./crops.js";
import { follow } from "./event_stream.js";
import { clock, moment, words } from "./format.js";
import { jobFiles } from "./job_files.js";
import { ownCopy } from "./own_copy.js";
import { Player } from "./player.js";
import { problemBox } from "./problems.js";
import { downloads, evidence, meaning, peopleTable, provenance, section, table, verdictBox } from "./report.js";
import { RunningJob } from "./running_job.js";
import { Timeline } from "./timeline.js";
import { HEADLINES, inForce } from "./wording.js";

const DRAW_EVERY = 150; // ms; many frames a second need not each be drawn
const ROWS = 200; // of the table of all scores that are shown at a time

export class VideoResult {
  /** file: the user's copy, or null; info: of /v1/info; onCopy is told of a copy that is chosen later. */
  constructor(job, file, { info, again, onCopy = () => {} }) {
    Object.assign(this, { job, file, info, again, onCopy });
    this.frames = [];
    this.stopping = new AbortController();
    this.timeline = new Timeline(info.bands, (time) => this.player.seek(time));
    this.player = new Player((time) => this.timeline.at(time));
    this.head = h("div");
    this.below = h("div");
    this.problems = h("div");
    this.over = section("Over time", h("p", {}, OVER_TIME), this.timeline.node);
    this.over.hidden = true;
    this.node = h("article", { class: "result" }, this.head, this.problems, this.player.node, this.over, this.below);
  }

  get path() {
    return `/v1/jobs/${encodeURIComponent(this.job.id)}`;
  }

  async run() {
    if (this.file) this.#own(this.file);
    try {
      if (this.job.state === "queued" || this.job.state === "running") await this.#follow();
      if (this.job.state === "failed") this.#failed();
      else await this.#show();
    } catch (error) {
      if (error.name !== "AbortError")
        put(
          this.problems,
          problemBox("The result could not be fetched", error, () => this.#retry()),
        );
    }
  }

  close() {
    this.stopping.abort();
    this.player.close();
  }

  async #retry() {
    put(this.problems);
    try {
      this.job = await json(this.path, { signal: this.stopping.signal });
    } catch {
      // run() meets the same problem again, and shows it.
    }
    await this.run();
  }

  async #follow() {
    const ended = new AbortController();
    const onStopped = (error) => {
      if (error) return put(this.problems, problemBox("It could not be stopped", error));
      this.stopping.abort();
      return put(this.node, h("p", { role: "status" }, "Stopped and deleted: nothing of it is kept."));
    };
    const onEnded = (job) => {
      this.job = job;
      ended.abort();
    };
    const running = new RunningJob(this.job, this.path, this.stopping.signal, { onStopped, onEnded });
    put(this.head, running.node);
    const seen = new Set();
    let drawing = null;
    const draw = () => {
      drawing = null;
      this.over.hidden = !this.frames.length;
      this.timeline.show(this.frames, null, this.#duration(), null);
      this.player.show(this.frames, null, null);
    };
    const onEvent = (type, data) => {
      if (type === "frame" && !seen.has(data.index)) {
        seen.add(data.index); // frames come again after a connection broke or an attempt failed
        this.frames.push(data);
        this.frames.sort((one, other) => one.time - other.time);
        drawing ??= setTimeout(draw, DRAW_EVERY);
      } else if (type === "end") this.job = data;
      running.on(type, data);
      if (type === "verdict") announce(`The model's answer: ${HEADLINES[data.verdict] ?? words(data.verdict)}`);
    };
    try {
      await follow(`${this.path}/events`, onEvent, {
        until: "end",
        signal: AbortSignal.any([this.stopping.signal, ended.signal]),
        onTrouble: (failures) => running.trouble(failures),
      });
    } catch (error) {
      if (!ended.signal.aborted || this.stopping.signal.aborted) throw error;
    } finally {
      clearTimeout(drawing);
      running.close();
    }
  }

  #failed() {
    put(this.head, this.#title());
    this.over.hidden = true;
    this.player.node.hidden = true;
    put(
      this.problems,
      problemBox(
        "The video could not be checked",
        { message: this.job.error ?? "The service gives no reason." },
        this.again,
      ),
      this.job.retry_until ? this.#runAgainBox() : null,
    );
  }

  #runAgainBox() {
    const button = h("button", { type: "button", on: { click: () => this.#runAgain() } }, "Run it again");
    return h("p", {}, button, ` The service keeps the video until ${moment(this.job.retry_until)}.`);
  }

  /** With the copy that the service keeps of a failed job: nothing is sent again. */
  async #runAgain() {
    try {
      this.job = await json(`${this.path}/retry`, { method: "POST", signal: this.stopping.signal });
    } catch (error) {
      if (error.name !== "AbortError") put(this.problems, problemBox("It could not be run again", error, this.again));
      return;
    }
    put(this.problems);
    this.frames = [];
    this.player.node.hidden = false;
    await this.run();
  }

  #title() {
    return h("p", { class: "file" }, "Video ", h("b", {}, named(this.job.name)));
  }

  async #show() {
    const signal = this.stopping.signal;
    const report = await json(`${this.path}/report`, { signal });
    const { node, heading } = verdictBox(report.verdict, report.p_fake, report.reason, inForce(report).bands);
    const { media, people } = report;
    this.frames = report.frames;
    this.timeline.bands = report.bands;
    const title = this.#title();
    title.append(`${media.duration ? `, ${clock(media.duration)}` : ""}, ${media.width} × ${media.height}`);
    const hadFocus = this.head.contains(document.activeElement) || document.activeElement === document.body;
    const keep = downloads(jobFiles(this.job), (error) =>
      put(this.problems, problemBox("It could not be saved", error)),
    );
    put(this.head, title, node, this.job.cached ? h("p", { class: "soft" }, CACHED) : null, keep);
    put(this.problems);
    this.over.hidden = !this.frames.length;
    this.timeline.show(this.frames, people, media.duration, media.fps);
    this.player.show(this.frames, media, people);
    const seek = (time) => this.#seek(time);
    const crops = h("div");
    put(
      this.below,
      meaning(report),
      evidence(report),
      peopleTable(people, seek),
      crops,
      allScores(report, seek),
      provenance(report),
    );
    if (hadFocus) focusOn(heading);
    announce(`The model's answer: ${heading.textContent}. The report is complete.`);
    if (!this.player.shown) await this.#stored(report);
    if (this.job.has.crops) put(crops, cropsSection((await json(`${this.path}/crops`, { signal })).crops, seek));
  }

  #seek(time) {
    this.player.seek(time);
    show(this.player.shown ? this.player.node : this.timeline.node, "nearest");
  }

  #duration() {
    const seconds = this.player.shown ? this.player.video.duration : null;
    return Number.isFinite(seconds) ? seconds : null;
  }

  async #own(file) {
    const playable = await this.player.load(URL.createObjectURL(file));
    this.player.says(playable ? "" : this.job.settings?.annotate ? COPY_COMES : CANNOT_PLAY);
  }

  /** Whether a video of the service plays: as a stream, where its address is enough. */
  async #play(place) {
    if (!token() && (await this.player.load(this.path + place))) return true;
    return this.player.load(await mediaUrl(this.path + place, this.stopping.signal));
  }

  /** Without a copy that plays: what the service kept, else the user is asked for theirs. */
  async #stored({ media, people }) {
    const { has } = this.job;
    if (has.media && (await this.#play("/media"))) return this.player.says("Shown is the copy that the service keeps.");
    if (has.annotated && (await this.#play("/annotated"))) {
      this.player.show([], null, []); // its boxes are in the picture
      return this.player.says(
        `${this.file ? "This browser cannot play this video. " : ""}Shown is the service's annotated copy.`,
      );
    }
    if (this.file) return undefined; // it was tried, and what is said of it stands
    const chosen = async (file) => {
      this.file = file;
      this.onCopy(this.job.id, file);
      await this.#own(file);
      this.player.show(this.frames, media, people);
    };
    return this.player.says(ownCopy(media.sha256, this.job.media?.bytes, chosen));
  }
}

const OVER_TIME =
  "Each dot is one face of a sampled frame; higher is more suspicious. Dashed lines: the thresholds for single " +
  "faces. Averages of many faces are steadier than these. Click, drag or use the arrow keys to move through the video.";

const CANNOT_PLAY =
  "This browser cannot play this video; its scores do not depend on that. An annotated copy plays: see the options.";
const COPY_COMES =
  "This browser cannot play this video; its scores do not depend on that. The service makes a copy that plays.";

const CACHED = "The service had scored these very bytes before, with the same model and settings: this is that report.";

/** Every score as text: what the plot shows, for those who do not see it. */
function allScores(report, onSeek) {
  const rows = report.frames.flatMap((frame) => {
    const moment = () =>
      h("button", { type: "button", class: "small", on: { click: () => onSeek(frame.time) } }, clock(frame.time));
    if (!frame.faces.length) return [[moment, "–", "–", "no face"]];
    return frame.faces.map((face) => [
      moment,
      face.person ?? "–",
      face.p_fake === null ? "–" : face.p_fake.toFixed(3),
      face.p_fake === null ? "too small to be scored" : words(face.verdict),
    ]);
  });
  if (!rows.length) return null;
  const body = h("div");
  let shown = 0;
  const more = () => {
    shown += ROWS;
    const some = rows.slice(0, shown).map(([moment, ...cells]) => [moment(), ...cells]);
    const rest = rows.length - some.length;
    put(
      body,
      table("All scores", ["Time", "person", "P(fake)", "verdict"], some),
      rest > 0 ? h("button", { type: "button", on: { click: more } }, `Show more of ${rest}`) : null,
    );
  };
  const fold = h("details", { class: "fold" }, h("summary", {}, `All ${rows.length} scores as a table`), body);
  // Built when it is opened: a long video has thousands.
  fold.addEventListener("toggle", () => fold.open && !shown && more());
  return fold;
}
