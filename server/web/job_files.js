/* What can be kept of a job, each fetched with the token and handed to the browser as a file. */

import { request } from "./api.js";
import { save } from "./dom.js";
import { savedAs } from "./report.js";

/** Entries for `downloads`: the report as JSON and as a page, the annotated video; only those that the job has. */
export function jobFiles(job) {
  const path = `/v1/jobs/${encodeURIComponent(job.id)}`;
  const get = (place, accept, ending) => async () => {
    const response = await request(path + place, { headers: { Accept: accept } });
    save(await response.blob(), savedAs(job.name, ending));
  };
  const entries = [];
  if (job.has.report) entries.push(["Save as JSON", get("/report", "application/json", ".json")]);
  if (job.has.page) entries.push(["Save as a page (HTML)", get("/report", "text/html", ".html")]);
  if (job.has.annotated) entries.push(["Save the annotated video", get("/annotated", "video/mp4", "-annotated.mp4")]);
  return entries;
}
