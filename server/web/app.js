/* The page: its tabs, which part of it the address names, and what the service says about itself.

   Addresses: #/check, #/live, #/history, #/jobs/ID. */

import { setUpAccess } from "./access.js";
import { json } from "./api.js";
import { Check } from "./check.js";
import { named, put } from "./dom.js";
import { percent } from "./format.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { problemBox } from "./problems.js";
import { Streams } from "./streams.js";
import { pointAt } from "./wording.js";

const TABS = ["check", "live", "history"];
const byId = (id) => document.getElementById(id);

setUpAccess(byId("access"));
start();

async function start() {
  let info;
  try {
    info = await json("/v1/info");
  } catch (error) {
    return put(
      byId("result"),
      problemBox("The service does not answer", error, () => location.reload()),
    );
  }
  byId("access").hidden = !info.auth_required;
  const models = [...new Set([info.model.name, info.video_model.name])];
  put(byId("model"), models.length > 1 ? "Models " : "Model ", named(models.join(", ")));
  put(byId("version"), "fakeface-jax ", named(info.version));
  rates(info);
  const check = new Check(info, (id) => history.replaceState(null, "", `#/jobs/${encodeURIComponent(id)}`));
  const live = new Live(info);
  const streams = new Streams();
  const past = new History({
    onOpen: (id) => (location.hash = `#/jobs/${encodeURIComponent(id)}`),
    onDeleted: (id) => check.forget(id),
  });
  const route = () => {
    const [, place, id] = location.hash.match(/^#\/([a-z]+)(?:\/(.+))?$/) ?? [];
    const tab = place === "jobs" ? "check" : TABS.includes(place) ? place : "check";
    select(tab);
    if (tab !== "live") live.stop();
    if (place === "jobs" && id) check.open(decodeURIComponent(id));
    if (tab === "live") streams.show();
    if (tab === "history") past.show();
  };
  for (const tab of TABS) {
    byId(`tab-${tab}`).addEventListener("click", () => go(tab, check));
    byId(`tab-${tab}`).addEventListener("keydown", (event) => alongTabs(event, tab));
  }
  addEventListener("hashchange", route);
  route();
}

/** The tab Check comes back with the result that it shows. */
function go(tab, check) {
  const shown = tab === "check" ? check.shownJob() : null;
  location.hash = shown ? `#/jobs/${encodeURIComponent(shown)}` : `#/${tab}`;
}

function select(chosen) {
  for (const tab of TABS) {
    byId(`tab-${tab}`).setAttribute("aria-selected", String(tab === chosen));
    byId(`tab-${tab}`).tabIndex = tab === chosen ? 0 : -1;
    byId(`panel-${tab}`).hidden = tab !== chosen;
  }
}

/** Arrow keys move along the tabs, as screen readers announce; Enter or a click opens one. */
function alongTabs(event, tab) {
  const at = TABS.indexOf(tab);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: TABS.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  byId(`tab-${TABS.at(to % TABS.length)}`).focus();
}

/** How often the answers of videos are wrong, where the service knows. */
function rates(info) {
  const { bands, operating_points: points } = info.video ?? {};
  if (!bands || !points) return;
  const interval = (point) => `(95 % interval ${percent(point.rate_low)} to ${percent(point.rate_high)})`;
  const fake = pointAt({ points }, "fpr", bands.fake_from);
  const real = pointAt({ points }, "fnr", bands.real_below);
  if (fake)
    byId("fake-rate").textContent =
      `For videos it is what ${percent(fake.rate)} of the real ones set aside to choose it reach ${interval(fake)}.`;
  if (real)
    byId("real-rate").textContent =
      `For videos it is what ${percent(real.rate)} of the fakes set aside to choose it stay under ${interval(real)}.`;
}
