/* Elements are made here, and only from text: names of files and reasons come from others.

   Example: h("p", { class: "soft" }, "From ", named(job.name)) */

const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
const SVG = "http://www.w3.org/2000/svg";

/** One line with control characters escaped, as the command line shows it: they could hide or turn what is written. */
export function printable(text) {
  return String(text).replace(UNPRINTABLE, (found) => {
    const code = found.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

/** A text from outside: escaped, and isolated, so that its direction of writing stays its own. */
export function named(text) {
  return h("bdi", {}, printable(text));
}

/** An element. `on` holds listeners; a value of null or false leaves an attribute out, true writes it empty. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replaces what is in an element. */
export function put(element, ...children) {
  element.replaceChildren(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
}

/** Says something to a screen reader without moving the focus. The same text twice is said twice. */
export function announce(text) {
  const region = document.getElementById("announcements");
  region.textContent = "";
  setTimeout(() => (region.textContent = text), 50);
}

/** Moves the focus to a heading or a region that cannot be reached with Tab; nothing is scrolled. */
export function focusOn(element) {
  element.setAttribute("tabindex", "-1");
  element.focus({ preventScroll: true });
}

/** Scrolls something into view, at once for those who want no motion. */
export function show(element, block = "start") {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ behavior: still ? "auto" : "smooth", block });
}

/** A list of facts. */
export function facts(pairs) {
  return h(
    "dl",
    { class: "facts" },
    ...pairs.map(([key, value]) => h("div", {}, h("dt", {}, key), h("dd", {}, value))),
  );
}

/** A file for the user to keep. */
export function save(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  // The browser reads the blob after the click.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
