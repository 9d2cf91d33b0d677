/* The tab Check: takes a file by choosing, dropping, pasting or a phone's camera, and shows its result below. */

import { Problem, json, post } from "./api.js";
import { announce, h, named, printable, put, show } from "./dom.js";
import { bytes, roughly } from "./format.js";
import { PictureResult } from "./picture_result.js";
import { playsIn, unload } from "./player.js";
import { problemBox } from "./problems.js";
import { submissionKey, upload } from "./upload.js";
import { VideoResult } from "./video_result.js";

const COPIED = 100e6; // bytes of a video up to which one that the browser cannot play is shown as annotated copy

const byId = (id) => document.getElementById(id);

export class Check {
  /** info: of /v1/info; onJob is told of a new job's id. */
  constructor(info, onJob) {
    Object.assign(this, { info, onJob });
    this.place = byId("result");
    this.current = null;
    this.copies = new Map(); // files of this page's jobs, so that their videos play without being sent back
    this.#limits();
    for (const field of [byId("file"), byId("camera")]) {
      const chosen = () => {
        const [file] = field.files;
        if (file) this.take(file);
        field.value = ""; // the same file may be chosen again
      };
      field.addEventListener("change", chosen);
      queueMicrotask(chosen); // somebody was faster than this script
    }
    this.#dropping();
    document.addEventListener("paste", (event) => this.#pasted(event));
    byId("settings").addEventListener("submit", (event) => event.preventDefault());
    byId("address").hidden = !info.urls;
    byId("address").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#address(byId("url").value);
    });
  }

  /** Checks a file: pictures are answered at once, all else goes where videos go, which says if it is none. */
  take(file) {
    const isPicture = file.type.startsWith("image/");
    const limit = this.info.limits?.[isPicture ? "image_bytes" : "video_bytes"];
    if (limit && file.size > limit) {
      const kind = isPicture ? "pictures" : "videos";
      const detail = `It has ${bytes(file.size)}; this service takes ${kind} of up to ${bytes(limit)}.`;
      return this.#replace(problemBox("The file is too large", new Problem(413, "", detail)));
    }
    if (file.size === 0)
      return this.#replace(
        problemBox("The file is empty", { message: `${printable(file.name)}: there is nothing in it` }),
      );
    return isPicture ? this.#picture(file) : this.#video(file, submissionKey());
  }

  /** Shows a job: a new one, or one of the history. */
  async open(id) {
    if (this.current instanceof VideoResult && this.current.job.id === id) return;
    const loading = h("p", { role: "status" }, "Loading");
    this.#replace(loading);
    try {
      const job = await json(`/v1/jobs/${encodeURIComponent(id)}`);
      if (loading.isConnected) this.#job(job);
    } catch (error) {
      if (loading.isConnected) this.#replace(problemBox("The result could not be fetched", error, () => this.open(id)));
    }
  }

  /** The id of the job that is shown; null for none. */
  shownJob() {
    return this.current instanceof VideoResult ? this.current.job.id : null;
  }

  /** A job is deleted: it is shown no more. */
  forget(id) {
    this.copies.delete(id);
    if (this.shownJob() === id) this.#replace(h("p", { role: "status" }, "This result was deleted."));
  }

  #picture(file) {
    const options = { wholeImage: byId("whole").checked, again: () => this.take(file) };
    const result = new PictureResult(file, options);
    this.#replace(result.node, result);
    history.replaceState(null, "", "#/check");
    return result.run();
  }

  async #video(file, key) {
    const stopping = new AbortController();
    const bar = h("progress", { "aria-label": "Sent", max: 1, value: 0 });
    const status = h("p", {}, "Sending");
    const says = h("p", { class: "file" }, "Sending ", h("b", {}, named(file.name)), `, ${bytes(file.size)}`);
    const stop = h("button", { type: "button", on: { click: () => stopping.abort() } }, "Stop");
    const box = h("div", { class: "running" }, says, bar, status, stop);
    this.#replace(box, { close: () => stopping.abort() });
    announce("Sending the video");
    const data = new FormData();
    const fields = { ...videoFields(), ...((await needsCopy(file)) ? { annotate: "true" } : {}) };
    for (const [name, value] of Object.entries(fields)) data.append(name, value);
    data.append("file", file, file.name);
    const onProgress = (share) => {
      bar.value = share;
      status.textContent = share < 1 ? `${Math.floor(100 * share)} % sent` : "Sent; the service is looking at it";
    };
    try {
      const job = await upload("/v1/videos", data, {
        headers: { "Idempotency-Key": key },
        onProgress,
        signal: stopping.signal,
      });
      this.copies.set(job.id, file);
      if (box.isConnected) this.#job(job);
    } catch (error) {
      if (!box.isConnected) return;
      if (error.name === "AbortError") this.#replace(h("p", { role: "status" }, "Stopped. Nothing is kept."));
      // The same key: if the first attempt did arrive, the service answers with its job instead of making another.
      else this.#replace(problemBox("The video could not be checked", error, () => this.#video(file, key)));
    }
  }

  async #address(url, key = submissionKey()) {
    const box = h("p", { role: "status" }, "The service fetches the video");
    this.#replace(box);
    try {
      const job = await post("/v1/videos", { url, ...typed(videoFields()) }, { headers: { "Idempotency-Key": key } });
      if (box.isConnected) this.#job(job);
    } catch (error) {
      if (box.isConnected)
        this.#replace(problemBox("The video could not be checked", error, () => this.#address(url, key)));
    }
  }

  #job(job) {
    const file = this.copies.get(job.id) ?? null;
    const again = file ? () => this.take(file) : null;
    const result = new VideoResult(job, file, {
      info: this.info,
      again,
      onCopy: (id, copy) => this.copies.set(id, copy),
    });
    this.#replace(result.node, result);
    this.onJob(job.id);
    return result.run();
  }

  #replace(node, result = null) {
    this.current?.close();
    this.current = result;
    byId("intro").hidden = true;
    byId("drop").classList.add("slim");
    byId("options").open = false;
    put(this.place, node);
    show(this.place);
    return node;
  }

  #limits() {
    const { image_bytes: image, video_bytes: video, video_seconds: seconds } = this.info.limits ?? {};
    const parts = [
      image && `pictures up to ${bytes(image)}`,
      video && `videos up to ${bytes(video)}`,
      seconds && `and ${roughly(seconds)} long`,
    ];
    const text = parts.filter(Boolean).join(", ").replace(", and", " and");
    byId("limits").textContent = text && `${text[0].toUpperCase()}${text.slice(1)}.`;
  }

  #dropping() {
    const drop = byId("drop");
    const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    // The whole window takes files: one that misses the field would else replace the page.
    document.addEventListener("dragover", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      drop.classList.add("over");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && drop.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      drop.classList.remove("over");
      if (!files(event)) return;
      event.preventDefault();
      const [file, ...rest] = event.dataTransfer.files;
      if (!file || byId("panel-check").hidden) return;
      if (rest.length) announce(`One file at a time: ${printable(file.name)} is checked, the others are not.`);
      this.take(file);
    });
  }

  #pasted(event) {
    const [file] = event.clipboardData?.files ?? [];
    if (!file || byId("panel-check").hidden) return;
    event.preventDefault();
    this.take(file);
  }
}

/** The fields of POST /v1/videos that were chosen; the service's defaults are left out. */
function videoFields() {
  const fields = {};
  const [name, value] = byId("sampling").value.split("=");
  if (name) fields[name] = value;
  for (const id of ["start", "end"]) if (byId(id).value !== "") fields[id] = byId(id).value;
  if (byId("rule").value) fields.rule = byId("rule").value;
  if (byId("annotate").checked) fields.annotate = "true";
  if (byId("keep").checked) fields.keep_media = "true";
  return fields;
}

/** Whether the browser cannot play a video, which is small enough to have the service make a copy that it can. */
async function needsCopy(file) {
  if (file.size > COPIED || !file.type.startsWith("video/")) return false;
  const url = URL.createObjectURL(file);
  const video = document.createElement("video");
  const playable = await playsIn(video, url);
  unload(video, url);
  return !playable;
}

/** The same as JSON has them. */
function typed(fields) {
  const value = (text) => (text === "true" ? true : text !== "" && Number.isFinite(Number(text)) ? Number(text) : text);
  return Object.fromEntries(Object.entries(fields).map(([name, text]) => [name, value(text)]));
}
