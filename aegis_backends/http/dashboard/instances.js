// The instances of the chosen service, or of all.

import { Pager, Rows, beforeFrame, byId, make, write } from "./elements.js";
import { ago, moment } from "./words.js";

const PAGE = 10;

export class Instances {
  #state;
  #rows;
  #pager;
  #filter;

  /** `onDrain` is called with an instance, `onOwned` with the id of one whose resources are asked for. */
  constructor(state, { onDrain, onOwned }) {
    this.#state = state;
    const draw = () => this.show();
    this.#pager = new Pager(byId("instances-pager"), "instances", PAGE, draw);
    this.#filter = byId("instances-filter");
    this.#filter.addEventListener("input", () => {
      this.#pager.offset = 0;
      draw();
    });
    this.#rows = new Rows(byId("instances-rows"), create, (row, instance) => this.#update(row, instance));
    byId("instances-rows").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      const instance = button?.closest("tr").instance;
      if (button?.name === "drain") onDrain(instance);
      else if (button?.name === "owned") onOwned(instance.instance_id);
    });
    // Times that pass are written again, where somebody can see them.
    setInterval(() => document.visibilityState === "visible" && this.show(), 1000);
  }

  turnBack() {
    this.#pager.offset = 0;
  }

  show() {
    beforeFrame(() => this.#draw());
  }

  #draw() {
    const { services, service } = this.#state;
    if (services === null) return;
    const wanted = this.#filter.value.trim().toLowerCase();
    const found = services
      .filter(({ service_name }) => service === null || service_name === service)
      .flatMap(({ service_name, instances }) => instances.map((instance) => ({ ...instance, service_name })))
      .filter(({ instance_id }) => instance_id.toLowerCase().includes(wanted));
    this.#rows.show(this.#pager.cut(found), (instance) => `${instance.service_name} ${instance.instance_id}`);
    const empty = byId("instances-empty");
    empty.hidden = found.length > 0;
    write(empty, wanted === "" ? "No instance is registered. One that registers shows up here." : "No instance has that in its id.");
    byId("instances-table").classList.toggle("one-service", service !== null);
    const title = service === null ? "Instances" : `Instances of ${service}`;
    write(byId("instances-title"), title);
  }

  #update(row, instance) {
    row.instance = instance;
    const [id, service, role, health, version, heartbeat, actions] = row.cells;
    write(id.firstElementChild, instance.instance_id);
    write(service, instance.service_name);
    const [badge] = role.children;
    write(badge, instance.role.toLowerCase());
    badge.className = `badge ${instance.role.toLowerCase()}`;
    const [state] = health.children;
    const isOnline = instance.health === "ONLINE";
    write(state, isOnline && instance.draining ? "draining" : instance.health.toLowerCase());
    state.className = `health ${!isOnline ? "bad" : instance.draining ? "wait" : "good"}`;
    write(version, instance.version);
    const at = Date.parse(instance.last_heartbeat);
    const [beat] = heartbeat.children;
    write(beat, ago(at));
    beat.title = moment(at);
    const [owned, drain] = actions.children;
    owned.setAttribute("aria-label", `Resources of ${instance.instance_id}`);
    drain.setAttribute("aria-label", `Drain ${instance.instance_id}`);
  }
}

function create() {
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, make("code")),
    make("td", { class: "minor of-service" }),
    make("td", {}, make("span")),
    make("td", {}, make("span")),
    make("td", { class: "minor" }),
    make("td", { class: "minor" }, make("time")),
    make(
      "td",
      { class: "actions" },
      make("button", { type: "button", name: "owned" }, "Resources"),
      make("button", { type: "button", name: "drain" }, "Drain…"),
    ),
  );
}

