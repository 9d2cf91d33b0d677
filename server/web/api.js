/* Requests to the service: the access token, errors as RFC 9457 problems, and when to try again.

   The token stays in this tab's session storage: it is gone when the tab is closed, and no other site can read it. */

const KEY = "fakeface-token";

let ask = async () => false;
let asking = null;

/** What went wrong with a request, in the service's words where it sent some. */
export class Problem extends Error {
  /** status: of the answer, 0 where none came; retryAfter: seconds, null where the service names none. */
  constructor(status, title, detail, retryAfter = null) {
    super(detail || title);
    Object.assign(this, { status, title, detail, retryAfter });
  }
}

export function token() {
  return sessionStorage.getItem(KEY);
}

export function setToken(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** Who asks for the token: a function of whether one was refused, which says later whether there is one now. */
export function whenUnauthorized(handler) {
  ask = handler;
}

/** Whether a request that was refused with a token, or none, may be sent again. All that wait share one question. */
export async function authorized(sent) {
  if (token() !== sent) return Boolean(token());
  asking ??= ask(Boolean(sent)).finally(() => (asking = null));
  return asking;
}

export function authorization() {
  const value = token();
  return value ? { Authorization: `Bearer ${value}` } : {};
}

/** An answer of the service; throws a Problem for all but 2xx. */
export async function request(path, { method = "GET", headers = {}, body, signal } = {}) {
  for (;;) {
    const sent = token();
    let response;
    try {
      response = await fetch(path, {
        method,
        body,
        signal,
        cache: "no-store",
        headers: { ...headers, ...authorization() },
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw unreachable();
    }
    if (response.ok) return response;
    if (response.status === 401 && (await authorized(sent))) continue;
    throw problemOf(response.status, await response.text(), response.headers.get("Retry-After"));
  }
}

/** Its JSON. */
export async function json(path, options = {}) {
  const response = await request(path, { ...options, headers: { Accept: "application/json", ...options.headers } });
  return response.json();
}

export function post(path, value, options = {}) {
  const headers = { "Content-Type": "application/json", ...options.headers };
  return json(path, { ...options, method: "POST", headers, body: JSON.stringify(value) });
}

/** A video for <video>, which cannot send a token: the bytes are fetched, and typed so that all browsers try. */
export async function mediaUrl(path, signal) {
  const bytes = await (await request(path, { signal })).blob();
  return URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
}

export function unreachable() {
  return new Problem(
    0,
    "The service cannot be reached",
    "No answer came. Check the connection, and that the service runs.",
  );
}

/** The error that an answer's body describes. */
export function problemOf(status, text, retryAfter) {
  let said = {};
  try {
    said = JSON.parse(text) ?? {};
  } catch {
    // A proxy may answer with a page of its own: its status is all that is used.
  }
  const details = Array.isArray(said.errors) ? said.errors.map(invalid).filter(Boolean) : [];
  const detail = [typeof said.detail === "string" ? said.detail : "", ...details].filter(Boolean).join("; ");
  return new Problem(
    status,
    typeof said.title === "string" ? said.title : `Status ${status}`,
    detail,
    seconds(retryAfter),
  );
}

function invalid(one) {
  return [one?.detail ?? one?.msg, one?.pointer ?? one?.loc?.join?.(".")]
    .filter((part) => typeof part === "string")
    .join(": ");
}

/** Retry-After holds seconds or a date. */
function seconds(header) {
  if (!header) return null;
  const number = Number(header);
  const left = Number.isFinite(number) ? number : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(left) ? Math.max(0, left) : null;
}
