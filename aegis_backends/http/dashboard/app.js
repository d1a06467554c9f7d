// The page as a whole: what is known, who is told when it changes, and whether the router is there.

import { token } from "./api.js";
import { Chart } from "./charts.js";
import { DrainDialog, ExplainDialog, TokenDialog, TransferDialog } from "./dialogs.js";
import { byId, write } from "./elements.js";
import { Events, announce, announceEvent } from "./events.js";
import { Feed } from "./feed.js";
import { Instances } from "./instances.js";
import { Lines } from "./lines.js";
import { Metrics } from "./metrics.js";
import { Refresher } from "./refresher.js";
import { Resources } from "./resources.js";
import { loadServices } from "./roster.js";
import { Services } from "./services.js";
import { time } from "./words.js";

// Heartbeats are no events, so what only they change is asked for now and then.
const SERVICES_EVERY = 5_000;
const RESOURCES_EVERY = 15_000;
const METRICS_EVERY = 2_000;

const begun = new URLSearchParams(location.hash.slice(1));

/** What is chosen (null for everything), and the services with their instances (null until they are known). */
const state = {
  services: null,
  service: begun.get("service"),
  owner: begun.get("owner"),
  search: begun.get("search") ?? "",
};

let link = "connecting";
let lostAt = null;
let trouble = null;

// -- what is shown --------------------------------------------------------------------------------

const services = new Services(state, chooseService);
const instances = new Instances(state, { onDrain: (instance) => drain.open(instance), onOwned: showOwned });
const lines = new Lines(state);
const resources = new Resources(state, {
  onChange: () => {
    keepChoice();
    resourcesRefresher.touch();
  },
  onTransfer: (resource) => transfer.open(resource),
  onExplain: (resource) => explain.open(resource),
});
const events = new Events();
const rates = new Chart(byId("chart-rate"), {
  series: ["Calls", "Events"],
  format: (value) => Number(value.toPrecision(3)).toLocaleString("en"),
  least: 1,
});
const latencies = new Chart(byId("chart-latency"), {
  series: ["Median", "99 %"],
  format: (seconds) => `${Number((seconds * 1000).toPrecision(2)).toLocaleString("en")} ms`,
  least: 0.001,
});
const transfer = new TransferDialog(state, touchAll);
const drain = new DrainDialog(touchAll);
const explain = new ExplainDialog();

function chooseService(name) {
  state.service = name;
  instances.turnBack();
  resources.turnBack();
  lines.turnBack();
  keepChoice();
  services.show();
  instances.show();
  resources.show();
  linesRefresher.touch();
  resourcesRefresher.touch();
}

function showOwned(id) {
  resources.chooseOwner(id);
  byId("resources-search").focus();
}

/** Let the address of the page say what is chosen, so that it can be reloaded and passed on. */
function keepChoice() {
  const { service, owner, search } = state;
  const kept = Object.entries({ service, owner, search }).filter(([, value]) => value);
  history.replaceState(null, "", kept.length > 0 ? `#${new URLSearchParams(kept)}` : location.pathname);
}

// -- what is loaded --------------------------------------------------------------------------------

/** Load by `load`; what goes wrong is shown until it goes well again. */
function careful(load) {
  return async () => {
    try {
      await load();
      if (trouble?.by === load) settle(null);
    } catch (problem) {
      if (problem.isTokenWanted) askForToken();
      // Where the router is silent, the stream of events ends, too, and says so.
      else if (!problem.isSilence) settle({ by: load, text: problem.message });
    }
  };
}

const servicesRefresher = new Refresher(
  careful(async () => {
    state.services = await loadServices();
    services.show();
    instances.show();
    if (!lines.isKnown) linesRefresher.touch();
  }),
  SERVICES_EVERY,
);
const linesRefresher = new Refresher(careful(() => lines.load()), RESOURCES_EVERY);
const resourcesRefresher = new Refresher(careful(() => resources.load()), RESOURCES_EVERY);
const refreshers = [servicesRefresher, linesRefresher, resourcesRefresher];

function touchAll() {
  for (const refresher of refreshers) refresher.touch();
}

// -- events ---------------------------------------------------------------------------------------

let happened = 0;

function onEvent(event) {
  happened += 1;
  events.add(event);
  announceEvent(event);
  const ofResources = event.kind.startsWith("resource_") || event.kind === "orphan_swept";
  if (!ofResources) servicesRefresher.touch();
  linesRefresher.touch();
  if (ofResources || event.released?.length > 0 || event.kind === "resync") resourcesRefresher.touch();
}

const feed = new Feed({
  onOpen: () => {
    if (lostAt !== null) announce("The router answers again");
    lostAt = null;
    show("live");
    metrics.forget();
    counts = true;
    for (const refresher of refreshers) refresher.start();
  },
  onEvent,
  onEnd: (problem) => {
    for (const refresher of refreshers) refresher.stop();
    if (problem?.isTokenWanted) askForToken();
    else if (problem !== null && problem.status > 0) settle({ by: feed, text: problem.message });
    else {
      lostAt ??= Date.now();
      show("lost");
    }
  },
});

// -- metrics --------------------------------------------------------------------------------------

const metrics = new Metrics();
let looked = performance.now();
let counts = true;

async function lookAtMetrics() {
  const now = performance.now();
  const changes = (1000 * happened) / (now - looked);
  happened = 0;
  looked = now;
  let found = null;
  if (link === "live" && counts) {
    try {
      found = await metrics.look();
      latencies.explain("No call has come through this router yet. Instances call each other directly.");
    } catch (problem) {
      metrics.forget();
      // It may be another one when it comes back; until then it would only say so again.
      counts = problem.isSilence;
      latencies.explain("This router counts no calls: it was started without the setting metrics.enabled.");
    }
  }
  rates.add(Date.now(), [found?.rate ?? null, link === "live" ? changes : null]);
  latencies.add(Date.now(), [found?.median ?? null, found?.high ?? null]);
}

setInterval(lookAtMetrics, METRICS_EVERY);

// -- the router: there, gone, or asking for a token -------------------------------------------------

const LINKS = { connecting: "Connecting", live: "Live", lost: "No router", locked: "Token wanted" };
const tokens = new TokenDialog(
  () => {
    byId("forget-token").hidden = false;
    show("connecting");
    feed.hurry();
  },
  () => {
    if (link === "locked") show("locked");
  },
);

function askForToken() {
  if (link === "locked") return;
  show("locked");
  tokens.open();
}

function settle(problem) {
  trouble = problem;
  show(problem?.by === feed ? "lost" : link);
}

function show(next) {
  link = next;
  document.body.dataset.link = link;
  byId("link").dataset.state = link;
  write(byId("link-text"), LINKS[link]);
  if (link === "live" && trouble?.by === feed) trouble = null;
  const said = banner();
  byId("banner").hidden = said === null;
  write(byId("banner-text"), said?.text ?? "");
  const action = byId("banner-action");
  action.hidden = !said?.action;
  write(action, said?.action ?? "");
}

function banner() {
  if (link === "locked") return tokens.isOpen ? null : { text: "This router asks for a token.", action: "Sign in" };
  if (trouble !== null) return { text: trouble.text, action: trouble.by === feed ? "Try now" : null };
  if (link === "lost") {
    const text = `The router has not answered since ${time(lostAt)}. What you see is as it was then; this page tries again by itself.`;
    return { text, action: "Try now" };
  }
  return null;
}

byId("banner-action").addEventListener("click", () => {
  if (link === "locked") tokens.open();
  else feed.hurry();
  if (link === "locked") show("locked");
});
byId("forget-token").addEventListener("click", () => {
  token.forget();
  location.reload();
});
byId("forget-token").hidden = token.get() === null;
addEventListener("online", () => feed.hurry());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && feed.hurry());

write(byId("where"), location.host);
document.title = `${location.host} – AegisIPC`;
show("connecting");
resources.show();
feed.follow();
