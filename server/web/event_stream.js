/* Server-sent events read through fetch: EventSource cannot send an access token.

   Example: await follow("/v1/jobs/1/events", (type, data) => console.log(type, data), { until: "end" }) */

import { Problem, request } from "./api.js";

const SILENCE = 45_000; // ms; the service says something every 15 s, so that this much silence is a dead connection
const PAUSES = [500, 1000, 2000, 5000, 10_000]; // ms before each further attempt
const PASSING = new Set([0, 408, 429, 500, 502, 503, 504]); // statuses that another attempt may not meet

/** Events until the one named `until`, over as many connections as it takes, each resuming where the last one broke.

   onEvent gets the type and the parsed data; onTrouble is told of each break and, with null, of its end. */
export async function follow(path, onEvent, { until, signal, onTrouble = () => {} }) {
  let last = null;
  let failures = 0;
  for (;;) {
    const connection = new AbortController();
    const stop = () => connection.abort();
    signal?.addEventListener("abort", stop);
    let ended = false;
    try {
      const headers = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
      const response = await request(path, { headers, signal: connection.signal });
      const parser = eventParser((event) => {
        if (event.id !== null) last = event.id;
        if (failures) onTrouble(null);
        failures = 0;
        onEvent(event.type, event.data);
        ended ||= event.type === until;
      });
      await read(response.body, parser, stop);
      if (ended) return;
    } catch (error) {
      if (signal?.aborted) throw error;
      if (error instanceof Problem && !PASSING.has(error.status)) throw error;
      if (error instanceof SyntaxError) throw error; // data that is no JSON: another attempt gets the same
    } finally {
      signal?.removeEventListener("abort", stop);
      connection.abort();
    }
    if (ended) return;
    onTrouble(failures);
    await pause(PAUSES[Math.min(failures, PAUSES.length - 1)], signal);
    failures += 1;
  }
}

async function read(body, parser, stop) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const timer = setTimeout(stop, SILENCE);
    try {
      const { done, value } = await reader.read();
      if (done) return;
      parser(value);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** A function of pieces of text, which may be cut anywhere; calls onEvent with {type, data, id}. */
export function eventParser(onEvent) {
  let rest = "";
  let event = { type: "message", lines: [], id: null };
  const line = (text) => {
    if (text === "") {
      const { type, lines, id } = event;
      event = { type: "message", lines: [], id: null };
      if (lines.length) onEvent({ type, id, data: JSON.parse(lines.join("\n")) });
      return;
    }
    const colon = text.indexOf(":");
    if (colon === 0) return; // a heartbeat
    const field = colon < 0 ? text : text.slice(0, colon);
    const value = colon < 0 ? "" : text.slice(colon + 1).replace(/^ /, "");
    if (field === "event") event.type = value;
    else if (field === "data") event.lines.push(value);
    else if (field === "id") event.id = value;
  };
  return (piece) => {
    rest += piece;
    // A carriage return at the very end may be the first half of a line's end.
    const whole = rest.endsWith("\r") ? rest.slice(0, -1) : rest;
    const lines = whole.split(/\r\n|\r|\n/);
    rest = lines.pop() + rest.slice(whole.length);
    lines.forEach(line);
  };
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
