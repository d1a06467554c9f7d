// The resources, by page: the router searches and cuts, whatever their number.

import { ask } from "./api.js";
import { Pager, Rows, beforeFrame, byId, count, make, write } from "./elements.js";
import { ago, moment } from "./words.js";

const PAGE = 15;
const TYPING = 150;

export class Resources {
  #state;
  #rows;
  #pager;
  #search;
  #owner;
  #changed;
  #reply = null;

  /** `onChange` is called when others are asked for, `onTransfer` and `onExplain` with a resource. */
  constructor(state, { onChange, onTransfer, onExplain }) {
    this.#state = state;
    this.#changed = onChange;
    this.#pager = new Pager(byId("resources-pager"), "resources", PAGE, onChange);
    this.#search = byId("resources-search");
    this.#search.value = state.search;
    this.#owner = byId("resources-owner");
    this.#rows = new Rows(byId("resources-rows"), create, update);
    let typing = null;
    this.#search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => {
        state.search = this.#search.value.trim();
        this.turnBack();
        onChange();
      }, TYPING);
    });
    this.#owner.addEventListener("click", () => {
      this.#search.focus();
      this.chooseOwner(null);
    });
    byId("resources-rows").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      const resource = button?.closest("tr").resource;
      if (button?.name === "transfer") onTransfer(resource);
      else if (button?.name === "explain") onExplain(resource);
      else if (button?.name === "owner") {
        this.chooseOwner(resource.owner_instance_id);
        this.#search.focus();
      }
    });
    setInterval(() => document.visibilityState === "visible" && this.show(), 10_000);
  }

  turnBack() {
    this.#pager.offset = 0;
  }

  /** Show what one instance holds; null for all. */
  chooseOwner(id) {
    this.#state.owner = id;
    this.turnBack();
    this.show();
    this.#changed();
  }

  async load() {
    const { service, owner, search } = this.#state;
    const filtered = Boolean(service || owner || search);
    const query = { service_name: service, instance_id: owner, containing: search, include_metadata: false };
    const { offset, size } = this.#pager;
    const [reply, all] = await Promise.all([
      ask("resources", { ...query, limit: size, offset }),
      filtered ? ask("resources", { include_metadata: false, limit: 1 }) : null,
    ]);
    write(byId("count-resources"), count((all ?? reply).total_count));
    const now = this.#state;
    if (service !== now.service || owner !== now.owner || search !== now.search || offset !== this.#pager.offset) return;
    this.#reply = reply;
    // The last page may have become empty.
    if (this.#pager.fit(reply.total_count)) this.#changed();
    this.show();
  }

  show() {
    beforeFrame(() => this.#draw());
  }

  #draw() {
    const { service, owner, search } = this.#state;
    write(byId("resources-title"), service === null ? "Resources" : `Resources of ${service}`);
    this.#owner.hidden = owner === null;
    write(this.#owner, `of ${owner} ✕`);
    this.#owner.setAttribute("aria-label", `Only those of ${owner}: show all again`);
    if (this.#reply === null) return;
    const { resources } = this.#reply;
    this.#rows.show(resources, (resource) => resource.resource_id);
    const empty = byId("resources-empty");
    empty.hidden = resources.length > 0;
    const asked = search !== "" || owner !== null;
    write(empty, asked ? "No resource that is owned matches. Capital and small letters differ." : "No resource is owned.");
  }
}

function create() {
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, make("button", { type: "button", name: "explain", class: "plain" }, make("code"))),
    make("td", {}, make("button", { type: "button", name: "owner", class: "plain" }, make("code")), make("span", { class: "worry" })),
    make("td", { class: "minor" }, make("time")),
    make("td", { class: "actions" }, make("button", { type: "button", name: "transfer" }, "Transfer…")),
  );
}

function update(row, resource) {
  row.resource = resource;
  const [id, owner, since, actions] = row.cells;
  const [explain] = id.children;
  write(explain.firstElementChild, resource.resource_id);
  explain.title = `Explain ${resource.resource_id}`;
  const [of, worry] = owner.children;
  write(of.firstElementChild, resource.owner_instance_id);
  of.title = `Only the resources of ${resource.owner_instance_id}`;
  write(worry, resource.is_healthy ? "" : "unhealthy");
  const at = Date.parse(resource.registered_at);
  write(since.firstElementChild, ago(at));
  since.firstElementChild.title = moment(at);
  actions.firstElementChild.setAttribute("aria-label", `Transfer ${resource.resource_id}`);
}
