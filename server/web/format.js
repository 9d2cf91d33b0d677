/* Numbers as the reports write them. */

/** `4.2 s`, `1:04.2`, `1:01:04`. */
export function clock(seconds) {
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}:${(seconds - 60 * minutes).toFixed(1).padStart(4, "0")}`;
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
}

/** `0.8 %`, `25 %`. */
export function percent(share) {
  return `${share < 0.1 ? Number((100 * share).toPrecision(2)) : whole(100 * share)} %`;
}

/** Rounded as Python rounds: halves go to the even neighbour. */
function whole(number) {
  const low = Math.floor(number);
  return number - low === 0.5 ? low + (low % 2) : Math.round(number);
}

/** `770 kB`, `1.5 GB`; null where it is not known. */
export function bytes(count) {
  if (!Number.isFinite(count)) return null;
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (count >= 1000 && power < units.length - 1) {
    count /= 1000;
    power += 1;
  }
  return `${power > 1 && count < 100 ? Number(count.toFixed(1)) : Math.round(count)} ${units[power]}`;
}

/** `no face`, `fake`. */
export function words(verdict) {
  return String(verdict).replaceAll("_", " ");
}

/** A class name for a verdict; a word that is not one gets none of the colours. */
export function tone(verdict) {
  return ["real", "fake", "inconclusive", "no_face"].includes(verdict) ? verdict : "no_face";
}

/** `P(fake) 0.15`, or that there is none. */
export function score(p_fake, digits = 2) {
  return p_fake === null || p_fake === undefined ? "no score" : `P(fake) ${p_fake.toFixed(digits)}`;
}

/** `4 hours`, `90 minutes`, `30 seconds`: a limit in round words. */
export function roughly(seconds) {
  for (const [unit, size] of [
    ["hours", 3600],
    ["minutes", 60],
  ])
    if (seconds >= 2 * size) return `${Number((seconds / size).toFixed(1))} ${unit}`;
  return `${Math.round(seconds)} seconds`;
}

/** A moment in the reader's own time and manner of writing. */
export function moment(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.getTime())
    ? ""
    : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** `12 s`, `3 min`, rounded up: when to try again. */
export function wait(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;
}
