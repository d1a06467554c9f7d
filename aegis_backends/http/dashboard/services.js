// The list of services, one of which can be chosen, and the figures of all.

import { Pager, Rows, beforeFrame, byId, count, make, write } from "./elements.js";
import { plural } from "./words.js";

const ALL = "";
const FEW = 8;
const PAGE = 12;

const healthy = (instance) => instance.health === "ONLINE";

export class Services {
  #state;
  #list;
  #filter;
  #pager;

  /** `onChoose` is called with the name of a service, or null for all. */
  constructor(state, onChoose) {
    this.#state = state;
    const draw = () => this.show();
    this.#pager = new Pager(byId("services-pager"), "services", PAGE, draw);
    this.#filter = byId("services-filter");
    this.#filter.addEventListener("input", () => {
      this.#pager.offset = 0;
      draw();
    });
    this.#list = new Rows(byId("services-list"), create, (item, row) => this.#update(item, row));
    byId("services-list").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button !== null) onChoose(button.value === ALL ? null : button.value);
    });
  }

  show() {
    beforeFrame(() => this.#draw());
  }

  #draw() {
    const { services } = this.#state;
    if (services === null) return;
    const instances = services.flatMap((service) => service.instances);
    const ill = instances.filter((instance) => !healthy(instance)).length;
    write(byId("count-services"), count(services.length));
    write(byId("count-instances"), count(instances.length));
    write(byId("count-health"), instances.length === 0 ? "" : ill === 0 ? "all online" : `${count(ill)} unhealthy`);
    byId("count-health").classList.toggle("bad", ill > 0);

    this.#filter.hidden = services.length <= FEW;
    const wanted = this.#filter.hidden ? "" : this.#filter.value.trim().toLowerCase();
    const found = services.filter((service) => service.service_name.toLowerCase().includes(wanted));
    const all = { service_name: ALL, instances };
    const page = this.#pager.cut(found);
    this.#list.show(services.length > 1 ? [all, ...page] : page, (row) => row.service_name);
    const empty = byId("services-empty");
    empty.hidden = found.length > 0;
    write(empty, services.length === 0 ? "No service is registered." : "No service has that in its name.");
  }

  #update(item, row) {
    const button = item.firstElementChild;
    const [name, told, bar] = button.children;
    const chosen = (this.#state.service ?? ALL) === row.service_name;
    const ill = row.instances.filter((instance) => !healthy(instance)).length;
    const active = row.instances.filter((instance) => instance.role === "ACTIVE").length;
    write(name, row.service_name === ALL ? "All services" : row.service_name);
    const parts = [plural(row.instances.length, "instance")];
    if (active > 0) parts.push(`${count(active)} active`);
    write(told, parts.join(", "));
    const worry = ill === 0 ? "" : ill === row.instances.length ? "all unhealthy" : `${count(ill)} unhealthy`;
    write(bar, worry);
    button.setAttribute("aria-pressed", String(chosen));
    button.dataset.health = ill === 0 ? "good" : "bad";
  }
}

function create(row) {
  return make(
    "li",
    {},
    make(
      "button",
      { type: "button", value: row.service_name },
      make("span", { class: "name" }),
      make("span", { class: "beside" }),
      make("span", { class: "worry" }),
    ),
  );
}
