/* The video with boxes over it. It plays the user's own copy where there is one: nothing has to come back from the
   service. Without any it keeps the time alone, so that the timeline still works. */

import { h, put } from "./dom.js";
import { drawFaces, fitted, prepared } from "./boxes.js";

const NEAR = 0.15; // s from a sample within which its boxes are drawn as of this moment; farther away they are dashed

export class Player {
  /** onTime gets seconds, whenever the moment shown changes. */
  constructor(onTime) {
    this.onTime = onTime;
    this.frames = [];
    this.roles = new Map();
    this.size = null;
    this.time = 0;
    this.video = h("video", {
      controls: true,
      playsinline: true,
      preload: "auto",
      "aria-label": "The video that was checked",
    });
    this.canvas = h("canvas", { class: "over", "aria-hidden": "true" });
    this.screen = h("div", { class: "screen", hidden: true }, this.video, this.canvas);
    this.note = h("div", { class: "note" });
    this.node = h("div", { class: "player" }, this.screen, this.note);
    this.url = null;
    for (const event of ["timeupdate", "seeking", "seeked", "loadedmetadata"])
      this.video.addEventListener(event, () => this.#moved());
    this.video.addEventListener("play", () => this.#playing());
    this.watcher = new ResizeObserver(() => this.#draw());
    this.watcher.observe(this.video);
  }

  /** Shows a video; whether the browser can play it. */
  async load(url) {
    this.#release();
    this.url = url;
    const playable = await playsIn(this.video, url);
    this.screen.hidden = !playable;
    if (playable && this.time) this.seek(this.time); // a moment that was chosen while there was no video
    return playable;
  }

  get shown() {
    return !this.screen.hidden;
  }

  /** Faces per sampled frame, the size of the pictures that their boxes are of, and who counts. */
  show(frames, size, people) {
    this.frames = frames;
    this.size = size;
    this.roles = new Map((people ?? []).map((person) => [person.number, person.role]));
    this.#draw();
  }

  /** Text below the picture; null for none. */
  says(...content) {
    put(this.note, ...content);
  }

  seek(time) {
    this.time = time;
    if (this.shown) {
      // A hair later: a time that lies exactly between two frames would show the one before.
      const end = Number.isFinite(this.video.duration) ? this.video.duration : Infinity;
      this.video.currentTime = Math.min(time + 0.001, end);
    }
    this.#draw();
    this.onTime(time);
  }

  close() {
    this.watcher.disconnect();
    this.#release();
  }

  #release() {
    unload(this.video, this.url);
    this.url = null;
  }

  #moved() {
    if (!this.shown) return;
    this.time = this.video.currentTime;
    this.#draw();
    this.onTime(this.time);
  }

  /** `timeupdate` comes four times a second; boxes follow every frame. */
  #playing() {
    const step = () => {
      if (this.video.paused || this.video.ended || !this.video.isConnected) return;
      this.#moved();
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  #draw() {
    if (!this.shown) return;
    const context = prepared(this.canvas);
    const at = nearest(this.frames, this.time);
    const size = this.size ?? { width: this.video.videoWidth, height: this.video.videoHeight };
    if (!at || !size.width) return;
    const place = fitted({ width: this.canvas.clientWidth, height: this.canvas.clientHeight }, size);
    drawFaces(context, at.frame.faces, place, { roles: this.roles, near: at.away <= NEAR });
  }
}

/** Takes a video out of its element, which would else go on reading from an address that is no more. */
export function unload(video, url) {
  video.pause();
  video.removeAttribute("src");
  video.load();
  if (url?.startsWith("blob:")) URL.revokeObjectURL(url);
}

/** Loads a video into its element; whether the browser can play it. */
export function playsIn(video, url) {
  return new Promise((resolve) => {
    // A file with sound alone, or with pictures of a kind that the browser does not know, has no width.
    video.addEventListener("loadeddata", () => resolve(video.videoWidth > 0), { once: true });
    video.addEventListener("error", () => resolve(false), { once: true });
    video.preload = "auto";
    video.src = url;
  });
}

/** The sampled frame that stands for a moment: within half the gap to its neighbours; undefined where none does. */
export function nearest(frames, time) {
  let best = -1;
  frames.forEach((frame, i) => {
    if (best < 0 || Math.abs(frame.time - time) < Math.abs(frames[best].time - time)) best = i;
  });
  if (best < 0) return undefined;
  const frame = frames[best];
  const neighbour = frames[frame.time > time ? best - 1 : best + 1];
  // Before the first and after the last sample, the usual gap says how long a box stands.
  const usual = frames.length > 1 ? (frames.at(-1).time - frames[0].time) / (frames.length - 1) : 0.5;
  const gap = neighbour ? Math.abs(neighbour.time - frame.time) : usual;
  const away = Math.abs(frame.time - time);
  return away <= gap / 2 + 0.002 ? { frame, away } : undefined;
}
