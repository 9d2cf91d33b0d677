/* The operator's streams in the tab Live: start, stop, and how each stands, second by second. */

import { json, post, request } from "./api.js";
import { announce, h, named, printable, put } from "./dom.js";
import { follow } from "./event_stream.js";
import { clock, score, tone, words } from "./format.js";
import { problemBox } from "./problems.js";
import { HEADLINES } from "./wording.js";

const byId = (id) => document.getElementById(id);

export class Streams {
  constructor() {
    this.cards = new Map();
  }

  /** Finds out which there are, and which are running. */
  async show() {
    try {
      const answer = await json("/v1/streams");
      const fresh = answer.sources.filter((name) => !this.cards.has(name));
      for (const name of fresh) this.cards.set(name, new Card(name));
      byId("stream-list").append(...fresh.map((name) => this.cards.get(name).node));
      byId("streams").hidden = !this.cards.size;
      for (const stream of answer.streams) if (!stream.ended) this.cards.get(stream.source)?.running(stream);
    } catch (error) {
      for (const card of this.cards.values()) card.problem("It is not known whether it runs", error, () => this.show());
    }
  }
}

class Card {
  constructor(name) {
    this.name = name;
    this.id = null;
    this.following = null;
    this.verdict = null;
    this.status = h("p", {}, "Not running");
    this.people = h("ul", { class: "people" });
    this.counters = h("p", { class: "soft" });
    this.problems = h("div");
    const title = h("h3", { id: `stream-${printable(name).replace(/[^\w-]/g, "_")}` }, named(name));
    this.button = h(
      "button",
      { type: "button", "aria-describedby": title.id, on: { click: () => this.#toggle() } },
      "Start",
    );
    this.node = h(
      "li",
      {},
      title,
      this.status,
      this.people,
      this.counters,
      h("div", { class: "buttons" }, this.button),
      this.problems,
    );
  }

  problem(title, error, again = null) {
    put(this.problems, problemBox(title, error, again));
  }

  /** Follows a stream that runs. */
  async running(stream) {
    if (this.id === stream.id) return;
    this.id = stream.id;
    this.button.textContent = "Stop";
    put(this.problems);
    this.#stands(stream);
    this.following = new AbortController();
    const { signal } = this.following;
    try {
      const path = `/v1/streams/${encodeURIComponent(stream.id)}/events`;
      const onTrouble = (failures) => failures !== null && put(this.counters, "The connection is lost; trying again.");
      let last = {};
      const onEvent = (type, data) => (type === "end" ? (last = data) : this.#event(type, data));
      await follow(path, onEvent, { until: "end", signal, onTrouble });
      this.#ended("It has ended");
      if (last.error) this.problem("The stream ended with an error", { message: last.error });
    } catch (error) {
      if (signal.aborted) return;
      this.#ended("It has ended");
      this.problem("The stream cannot be followed", error);
    }
  }

  async #toggle() {
    this.button.disabled = true;
    put(this.problems);
    try {
      if (this.id === null) this.running(await post("/v1/streams", { source: this.name }));
      else {
        await request(`/v1/streams/${encodeURIComponent(this.id)}`, { method: "DELETE" });
        this.following?.abort();
        this.#ended("Stopped");
      }
    } catch (error) {
      this.problem(this.id === null ? "It could not be started" : "It could not be stopped", error);
    } finally {
      this.button.disabled = false;
    }
  }

  #event(type, data) {
    if (type === "second" || type === "summary") this.#stands(data);
    else if (type === "state")
      put(this.counters, `Connection: ${words(data.state)}`, data.reason ? [" (", named(data.reason), ")"] : "");
    else if (type === "verdict" && data.person === null)
      announce(`${printable(this.name)}: the model's answer is now ${HEADLINES[data.verdict] ?? words(data.verdict)}`);
  }

  #stands({ state, verdict, p_fake, reason, people, counters, scored_fps: rate }) {
    const answer = verdict
      ? [h("b", { class: tone(verdict) }, HEADLINES[verdict] ?? words(verdict)), `, ${score(p_fake)}`]
      : ["No answer yet"];
    put(this.status, answer, reason ? [" (", named(reason), ")"] : "");
    put(
      this.people,
      (people ?? []).map((person) =>
        h(
          "li",
          {},
          `Person ${person.number}: `,
          h("b", { class: tone(person.verdict) }, words(person.verdict)),
          `, ${score(person.p_fake)}`,
        ),
      ),
    );
    if (!counters) return;
    const parts = [words(state), `${counters.read} pictures read, ${counters.scored} scored`];
    if (rate !== undefined) parts.push(`${rate.toFixed(1)} a second`);
    if (counters.reconnects) parts.push(`connected again ${counters.reconnects} times`);
    if (counters.lag !== null && counters.lag !== undefined) parts.push(`${clock(counters.lag)} behind`);
    put(this.counters, parts.join(", "));
  }

  #ended(text) {
    this.id = null;
    this.following = null;
    this.button.textContent = "Start";
    put(this.status, text);
    put(this.people);
    put(this.counters);
    announce(`${printable(this.name)}: ${text}`);
  }
}
