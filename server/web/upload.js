/* Sends a file and says how much of it has gone out. fetch cannot tell that yet, so this is an XMLHttpRequest. */

import { authorization, authorized, problemOf, token, unreachable } from "./api.js";

/** The JSON of the answer; throws a Problem, or an AbortError when the signal says stop.

   onProgress gets the share that was sent, in [0, 1]; it is called with 1 once the service has everything. */
export async function upload(path, form, { headers = {}, onProgress = () => {}, signal }) {
  for (;;) {
    const sent = token();
    const answer = await send(path, form, { ...headers, ...authorization() }, onProgress, signal);
    if (answer.status >= 200 && answer.status < 300) return JSON.parse(answer.responseText);
    if (answer.status === 401 && (await authorized(sent))) continue;
    throw problemOf(answer.status, answer.responseText, answer.getResponseHeader("Retry-After"));
  }
}

function send(path, form, headers, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    const stop = () => call.abort();
    const settle = (act) => (event) => {
      signal?.removeEventListener("abort", stop);
      act(event);
    };
    call.open("POST", path);
    for (const [name, value] of Object.entries(headers)) call.setRequestHeader(name, value);
    call.setRequestHeader("Accept", "application/json");
    call.upload.addEventListener("progress", (event) => event.total && onProgress(event.loaded / event.total));
    call.upload.addEventListener("load", () => onProgress(1));
    call.addEventListener(
      "load",
      settle(() => resolve(call)),
    );
    call.addEventListener(
      "error",
      settle(() => reject(unreachable())),
    );
    call.addEventListener(
      "abort",
      settle(() => reject(new DOMException("stopped", "AbortError"))),
    );
    signal?.addEventListener("abort", stop);
    if (signal?.aborted) return reject(new DOMException("stopped", "AbortError"));
    call.send(form);
  });
}

/** A key by which the service knows a repeated submission; crypto.randomUUID exists on HTTPS and this machine only. */
export function submissionKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
