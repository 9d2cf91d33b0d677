/* The camera of the tab Live: its pictures go to the service one at a time, and what it says of each is shown. */

import { authorized, token } from "./api.js";
import { drawFaces, fitted, prepared } from "./boxes.js";
import { announce, h, named, put } from "./dom.js";
import { score, tone, words } from "./format.js";
import { LivePlot } from "./live_plot.js";
import { problemBox } from "./problems.js";
import { verdictBox } from "./report.js";
import { HEADLINES } from "./wording.js";

const LONGER_SIDE = 640; // pixels of what is sent: faces of half the picture keep more than the model sees
const LATE = 250; // ms; by then a face that moves has left its box
const QUALITY = 0.92; // of the JPEG: strong compression can look fake to a model

const byId = (id) => document.getElementById(id);

export class Live {
  constructor(info) {
    this.info = info;
    this.bands = info.video?.bands ?? info.bands;
    this.place = byId("live");
    this.session = null;
    byId("camera-start").addEventListener("click", () => this.start());
    byId("camera-stop").addEventListener("click", () => {
      this.stop();
      byId("camera-start").focus();
    });
    byId("camera-choice").addEventListener("change", () => this.session && this.start());
  }

  async start() {
    this.stop();
    const session = (this.session = { number: 0, sent: 0 });
    try {
      session.camera = await openCamera(byId("camera-choice").value);
    } catch (error) {
      this.session = null;
      return put(
        this.place,
        problemBox("The camera cannot be used", error, () => this.start()),
      );
    }
    if (this.session !== session) return stopCamera(session.camera); // stopped while the browser asked
    this.#build();
    this.video.srcObject = session.camera;
    await this.video.play().catch(() => {}); // a browser that wants a click first shows its own button
    this.#buttons(true);
    await this.#cameras();
    this.#connect(session);
    return undefined;
  }

  /** Ends it; the last verdict stays to be read. */
  stop(text = "Stopped") {
    const { session } = this;
    if (!session) return;
    this.session = null;
    session.socket?.close();
    if (session.camera) stopCamera(session.camera);
    this.#buttons(false);
    if (this.status) this.status.textContent = `${text}.`;
    if (this.canvas) prepared(this.canvas);
    announce(text);
  }

  #build() {
    this.video = h("video", { muted: true, playsinline: true, "aria-label": "Your camera" });
    this.video.muted = true;
    this.canvas = h("canvas", { class: "over", "aria-hidden": "true" });
    this.verdict = h("div");
    this.people = h("ul", { class: "people" });
    this.status = h("p", { class: "soft" }, "Connecting");
    this.plot = new LivePlot(this.bands);
    this.said = null;
    put(
      this.place,
      h(
        "div",
        { class: "beside" },
        h("div", { class: "screen" }, this.video, this.canvas),
        h("div", {}, this.verdict, this.people, this.status),
      ),
      this.plot.node,
      h(
        "p",
        { class: "soft" },
        "A verdict is of the last seconds, and changes only when a new one has held. It is a hint, no proof.",
      ),
    );
    this.#says("inconclusive", null, "no picture yet");
  }

  #connect(session) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = (session.socket = new WebSocket(`${scheme}://${location.host}/v1/live`));
    const used = token();
    socket.addEventListener("open", () => socket.send(JSON.stringify({ token: used })));
    socket.addEventListener("message", (event) => {
      if (this.session !== session) return;
      const said = JSON.parse(event.data);
      if (said.type === "ready") session.ready = true;
      else if (!session.ready || said.status)
        return void (session.refusal = said); // the connection is closed next
      else this.#answer(session, said);
      this.#send(session);
    });
    socket.addEventListener("close", async (event) => {
      if (this.session !== session) return undefined;
      const { status = -1, detail } = session.refusal ?? {};
      session.refusal = null;
      if (status === 401 && (await authorized(used)) && this.session === session) return this.#connect(session);
      this.stop("The connection has ended");
      const message = detail || event.reason || "The service closed the connection, or it broke.";
      return this.place.prepend(problemBox("The live check has ended", { status, message }, () => this.start()));
    });
  }

  /** The next picture, once the answer to the last one is there: what waits would only grow old. */
  async #send(session) {
    const picture = await snapshot(this.video);
    if (this.session !== session || session.socket.readyState !== WebSocket.OPEN) return;
    // A hidden tab gives no pictures; ask again when it may be seen.
    if (!picture) return void setTimeout(() => this.session === session && this.#send(session), 300);
    session.sentAt = performance.now();
    session.picture = picture.canvas;
    session.socket.send(picture.blob);
  }

  #answer(session, said) {
    if (said.type === "frame") {
      const away = performance.now() - session.sentAt;
      session.rate = session.rate ? 0.8 * session.rate + 0.2 * (1000 / away) : 1000 / away;
      this.status.textContent = `${session.rate.toFixed(1)} pictures a second`;
      this.#says(said.verdict, said.p_fake, said.reason);
      this.plot.add(said.time, said.p_fake, said.faces);
      this.#boxes(session.picture, said.faces, away > LATE);
      put(
        this.people,
        said.people.map((person) => h("li", {}, ...aboutPerson(person))),
      );
    } else if (said.type === "error") this.status.textContent = `A picture could not be read: ${said.detail}`;
  }

  /** Only a change of the verdict is announced: the score changes several times a second. */
  #says(verdict, p_fake, reason) {
    put(this.verdict, verdictBox(verdict, p_fake, reason, p_fake === null ? null : this.bands).node);
    if (verdict === this.said) return;
    if (this.said !== null) announce(`The model's answer is now: ${HEADLINES[verdict] ?? words(verdict)}`);
    this.said = verdict;
  }

  /** Boxes of a late answer are shown on the picture that they are of: on the current one they would lie wrong. */
  #boxes(picture, faces, late) {
    const place = fitted({ width: this.canvas.clientWidth, height: this.canvas.clientHeight }, picture);
    const context = prepared(this.canvas);
    const [width, height] = [picture.width * place.scale, picture.height * place.scale];
    if (late) context.drawImage(picture, place.left, place.top, width, height);
    drawFaces(context, faces, place);
  }

  #buttons(running) {
    // The focus goes with the button that takes the other one's place.
    const held = [byId("camera-start"), byId("camera-stop")].includes(document.activeElement);
    byId("camera-start").hidden = running;
    byId("camera-stop").hidden = !running;
    if (held) byId(running ? "camera-stop" : "camera-start").focus();
  }

  /** Names of cameras are known once one is open. */
  async #cameras() {
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
    const choice = byId("camera-choice");
    const before = choice.value;
    put(
      choice,
      cameras.map((one, i) => h("option", { value: one.deviceId }, one.label || `Camera ${i + 1}`)),
    );
    if (before) choice.value = before;
    const several = cameras.length > 1;
    choice.hidden = !several;
    choice.labels[0].hidden = !several;
  }
}

function aboutPerson(person) {
  const verdict = h("b", { class: tone(person.verdict) }, words(person.verdict));
  const reason = person.reason ? [": ", named(person.reason)] : [];
  return [`Person ${person.number}: `, verdict, `, ${score(person.p_fake)}`, ...reason];
}

async function openCamera(id) {
  if (!navigator.mediaDevices) {
    const message = "The browser gives cameras only to pages that come over HTTPS, or from this very machine.";
    throw Object.assign(new Error(message), { status: -1 });
  }
  const wanted = id ? { deviceId: { exact: id } } : { facingMode: "user" };
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: false,
      video: { ...wanted, width: { ideal: 1280 }, height: { ideal: 720 } },
    });
  } catch (error) {
    const said = {
      NotAllowedError: "The camera was not allowed. Allow it in the browser's settings for this page.",
      NotFoundError: "No camera was found.",
      NotReadableError: "The camera is in use by another program.",
    }[error.name];
    throw Object.assign(new Error(said ?? error.message), { status: -1 });
  }
}

function stopCamera(camera) {
  for (const track of camera.getTracks()) track.stop();
}

/** The picture that a video shows, as a canvas and as a JPEG; null where it shows none. */
async function snapshot(video) {
  const [width, height] = [video.videoWidth, video.videoHeight];
  if (!width || document.hidden) return null;
  const scale = Math.min(1, LONGER_SIDE / Math.max(width, height));
  const canvas = h("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  return blob && { blob, canvas };
}
