// The live list of events, newest first, and what of it is said aloud.

import { Rows, beforeFrame, byId, make, write } from "./elements.js";
import { time, told } from "./words.js";

const MOST = 200;
const LOUD = new Set(["instance_lost", "scope_overran", "lease_ended"]);
const QUIET_BETWEEN = 1500;
const MOST_SAID = 3;

export class Events {
  #entries = [];
  #held = 0;
  #paused = false;
  #number = 0;
  #rows = new Rows(byId("events"), create, update);

  constructor() {
    const pause = byId("events-pause");
    pause.addEventListener("click", () => {
      this.#paused = !this.#paused;
      pause.setAttribute("aria-pressed", String(this.#paused));
      beforeFrame(this.#draw);
    });
  }

  /** Note an event; alike ones of one instance in a row, as a bulk operation makes them, are one entry. */
  add(event) {
    const newest = this.#entries[0];
    if (newest !== undefined && newest.key === alike(event)) {
      newest.times += 1;
      newest.event = event;
    } else {
      this.#number += 1;
      this.#entries.unshift({ event, key: alike(event), times: 1, number: this.#number });
      if (this.#paused) this.#held += 1;
      if (this.#entries.length > MOST) this.#entries.length = MOST;
    }
    beforeFrame(this.#draw);
  }

  #draw = () => {
    const pause = byId("events-pause");
    if (this.#paused) {
      write(pause, this.#held === 0 ? "Resume" : `Resume (${Math.min(this.#held, MOST)} new)`);
      return;
    }
    this.#held = 0;
    write(pause, "Pause");
    byId("events-empty").hidden = this.#entries.length > 0;
    this.#rows.show(this.#entries, (entry) => entry.number);
  };
}

const alike = (event) =>
  event.kind.startsWith("resource_")
    ? [event.kind, event.instance_id, event.old, event.reason].join(" ")
    : `${event.kind} ${event.revision} ${event.instance_id} ${event.resource_id} ${event.at}`;

function create() {
  return make("li", {}, make("time"), make("p"), make("span", { class: "beside" }));
}

function update(item, { event, times }) {
  if (item.shown === event) return;
  item.shown = event;
  const { tone, parts } = told(event, times);
  const [at, said, of] = item.children;
  item.className = tone;
  write(at, time(Date.parse(event.at)));
  at.dateTime = event.at;
  said.replaceChildren(...parts.map((part) => (typeof part === "string" ? part : make("code", {}, part.id))));
  write(of, event.service_name);
}

const unsaid = [];
let quietUntil = 0;
let timer = null;

/** Say `text` in the page's one live region; many at once are summed up, so that a storm can be listened to. */
export function announce(text) {
  unsaid.push(text);
  if (timer === null) timer = setTimeout(say, Math.max(0, quietUntil - performance.now()));
}

function say() {
  const said = unsaid.slice(0, MOST_SAID).join(". ");
  const more = unsaid.length - MOST_SAID;
  byId("announcement").textContent = more > 0 ? `${said}. And ${more} more` : said;
  unsaid.length = 0;
  quietUntil = performance.now() + QUIET_BETWEEN;
  timer = null;
}

/** Say an event aloud, if it is one that an operator would want to be interrupted for. */
export function announceEvent(event) {
  const ill = event.kind === "instance_health_changed" && event.new !== "ONLINE";
  const promoted = event.kind === "role_changed" && event.new === "ACTIVE" && Boolean(event.group);
  if (!ill && !promoted && !LOUD.has(event.kind)) return;
  announce(told(event).parts.map((part) => (typeof part === "string" ? part : part.id)).join(""));
}
