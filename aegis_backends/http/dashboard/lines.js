// Who is active, and who stands by in which order: for each role group, and for each resource that somebody waits for.

import { ask } from "./api.js";
import { Pager, Rows, beforeFrame, byId, make, write } from "./elements.js";
import { plural } from "./words.js";

const PAGE = 6;
const MOST_SERVICES = 6;
const MOST_SHOWN = 4;

export class Lines {
  #state;
  #rows;
  #pager;
  #found = null;

  constructor(state) {
    this.#state = state;
    this.#pager = new Pager(byId("lines-pager"), "lines", PAGE, () => this.show());
    this.#rows = new Rows(byId("lines"), create, update);
  }

  get isKnown() {
    return this.#found !== null;
  }

  turnBack() {
    this.#pager.offset = 0;
  }

  /** Ask for the lines of the chosen service, or of the first few. */
  async load() {
    const { services, service } = this.#state;
    if (services === null) return;
    const names = services.map(({ service_name }) => service_name);
    const asked = service === null ? names.slice(0, MOST_SERVICES) : names.filter((name) => name === service);
    const tables = await Promise.all(asked.map(rolesOf));
    if (service !== this.#state.service) return;
    this.#found = tables.flatMap(({ service_name, groups, resources }) => [
      ...Object.entries(groups).map(([target, line]) => ({ ...line, service_name, target, kind: "group" })),
      ...Object.entries(resources).map(([target, line]) => ({ ...line, service_name, target, kind: "resource" })),
    ]);
    this.show();
  }

  show() {
    beforeFrame(() => this.#draw());
  }

  #draw() {
    if (this.#found === null) return;
    const { services, service } = this.#state;
    this.#rows.show(this.#pager.cut(this.#found), (line) => `${line.service_name} ${line.kind} ${line.target}`);
    const empty = byId("lines-empty");
    const rest = service === null && services.length > MOST_SERVICES;
    empty.hidden = this.#found.length > 0 && !rest;
    const none = "Nobody is active or waits for a role here. Calls are balanced over the instances.";
    const some = `Of the first ${plural(MOST_SERVICES, "service")}. Choose a service to see its own.`;
    write(empty, rest ? some : none);
  }
}

async function rolesOf(name) {
  try {
    return await ask(`services/${encodeURIComponent(name)}/roles`);
  } catch (problem) {
    // Its last instance has just left.
    if (problem.status === 404) return { service_name: name, groups: {}, resources: {} };
    throw problem;
  }
}

function create() {
  return make(
    "li",
    {},
    make("p", { class: "target" }, make("span", { class: "beside" }), make("strong")),
    make("ol", { class: "line" }),
  );
}

function update(row, line) {
  const [target, places] = row.children;
  write(target.firstElementChild, line.kind === "group" ? `${line.service_name} · group` : `${line.service_name} · resource`);
  write(target.lastElementChild, line.target);
  const shown = [
    line.active === null ? "nobody is active|vacant" : `${line.active}|active`,
    ...line.standbys.slice(0, MOST_SHOWN).map((id) => `${id}|standby`),
  ];
  const more = line.standbys.length - MOST_SHOWN;
  if (more > 0) shown.push(`${plural(more, "more", "more")}|rest`);
  places.rows ??= new Rows(places, (text) => make("li", { class: text.split("|").at(-1) }, make("code")), writePlace);
  places.rows.show(shown, (text) => text);
}

function writePlace(place, text) {
  write(place.firstElementChild, text.slice(0, text.lastIndexOf("|")));
}
