/* The tab History: jobs, newest first, to open, keep or delete. */

import { json, request } from "./api.js";
import { announce, h, named, put } from "./dom.js";
import { moment, score, tone, words } from "./format.js";
import { jobFiles } from "./job_files.js";
import { problemBox } from "./problems.js";
import { downloads } from "./report.js";
import { HEADLINES } from "./wording.js";

const PAGE = 20;
const byId = (id) => document.getElementById(id);

export class History {
  /** onOpen gets a job's id; onDeleted too. */
  constructor({ onOpen, onDeleted }) {
    Object.assign(this, { onOpen, onDeleted });
    this.list = byId("jobs");
    this.problems = byId("history-problem");
    this.next = null;
    byId("older").addEventListener("click", () => this.#older());
    byId("reload").addEventListener("click", () => this.show());
  }

  /** The newest jobs, anew. */
  async show() {
    await this.#fetch("", () => put(this.list));
    announce(this.list.children.length ? `${this.list.children.length} videos listed` : "No videos were checked yet");
  }

  async #older() {
    const before = this.list.children.length;
    await this.#fetch(`&before=${encodeURIComponent(this.next)}`, () => {});
    // The button may have gone; the first of the new ones is where reading goes on.
    this.list.children[before]?.querySelector("h3").focus();
  }

  async #fetch(cursor, prepare) {
    put(this.problems);
    this.list.setAttribute("aria-busy", "true");
    try {
      const { jobs, next } = await json(`/v1/jobs?limit=${PAGE}${cursor}`);
      prepare();
      this.next = next;
      this.list.append(...jobs.map((job) => this.#item(job)));
      byId("older").hidden = !next;
      byId("history-empty").hidden = this.list.children.length > 0;
    } catch (error) {
      put(
        this.problems,
        problemBox("The list could not be fetched", error, () => this.show()),
      );
    } finally {
      this.list.removeAttribute("aria-busy");
    }
  }

  #item(job) {
    const title = h("h3", { tabindex: "-1", id: `job-${job.id}` }, named(job.name));
    const problems = h("div");
    const openIt = h("button", { type: "button", class: "primary" }, job.state === "done" ? "Open" : "Look at it");
    openIt.addEventListener("click", () => this.onOpen(job.id));
    const remove = h("button", { type: "button", class: "danger" }, "Delete");
    // Buttons of the same name are told apart by the title of their job.
    for (const button of [openIt, remove]) button.setAttribute("aria-describedby", title.id);
    const item = h(
      "li",
      {},
      title,
      h("p", {}, ...answer(job)),
      h(
        "p",
        { class: "soft" },
        [moment(job.created), job.expires ? `kept until ${moment(job.expires)}` : ""].filter(Boolean).join(", "),
      ),
      h(
        "div",
        { class: "buttons" },
        openIt,
        downloads(jobFiles(job), (error) => put(problems, problemBox("It could not be saved", error))),
        remove,
      ),
      problems,
    );
    remove.addEventListener("click", () => this.#delete(job, item, problems));
    return item;
  }

  async #delete(job, item, problems) {
    if (!(await confirmed(job))) return;
    try {
      await request(`/v1/jobs/${encodeURIComponent(job.id)}`, { method: "DELETE" });
    } catch (error) {
      // What is gone already need not be deleted.
      if (error.status !== 404) return put(problems, problemBox("It could not be deleted", error));
    }
    const neighbour = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    (neighbour?.querySelector("h3") ?? byId("history-title")).focus();
    byId("history-empty").hidden = this.list.children.length > 0;
    announce("Deleted");
    this.onDeleted(job.id);
  }
}

function answer(job) {
  if (job.state === "failed") return [h("b", {}, "Could not be checked: "), named(job.error ?? "no reason is given")];
  if (job.state === "queued") return ["Waiting", job.position ? `, number ${job.position} in the queue` : ""];
  if (job.state === "running")
    return ["Being checked", job.progress ? `, ${job.progress.done} of ${job.progress.total} frames` : ""];
  const verdict = h("b", { class: tone(job.verdict) }, HEADLINES[job.verdict] ?? words(job.verdict));
  return [
    verdict,
    job.p_fake === null ? "" : `, ${score(job.p_fake)}`,
    job.reason ? h("span", { class: "soft" }, " (", named(job.reason), ")") : "",
  ];
}

/** Asks whether a job shall go. */
function confirmed(job) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "delete-title" },
      h("h2", { id: "delete-title" }, "Delete it?"),
      h(
        "p",
        {},
        "The report of ",
        h("b", {}, named(job.name)),
        ", its crops and all media that are kept will be gone. This cannot be undone.",
      ),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", class: "danger", on: { click: () => dialog.close("delete") } }, "Delete it"),
        h("button", { type: "button", autofocus: true, on: { click: () => dialog.close() } }, "Keep it"),
      ),
    );
    document.body.append(dialog);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "delete");
    });
    dialog.showModal();
  });
}
