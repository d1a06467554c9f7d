// What asks a person: for a token, and before something is moved or drained; and what explains a resource.

import { ask, tell, token } from "./api.js";
import { announce } from "./events.js";
import { byId, make, write } from "./elements.js";
import { ago, moment } from "./words.js";

const MOST_TARGETS = 100;
const FEW_TARGETS = 8;
const MOST_IN_SIGHT = 6;
const TOAST = 6000;

/** A `<dialog>` whose form does something, says why it could not, and closes when it could. */
class Dialog {
  #dialog;
  #form;
  #submit;
  #error;
  #act = null;
  #opening = 0;

  constructor(name) {
    this.#dialog = byId(`${name}-dialog`);
    this.#form = this.#dialog.querySelector("form");
    this.#submit = this.#form.querySelector("[type=submit]");
    this.#error = byId(`${name}-error`);
    this.#form.querySelector("[value=cancel]").addEventListener("click", () => this.#dialog.close());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#run();
    });
  }

  get isOpen() {
    return this.#dialog.open;
  }

  onClose(then) {
    this.#dialog.addEventListener("close", then);
  }

  /** Open it; `act` is what its form does. A number tells this opening from later ones. */
  open(act, focus) {
    this.#act = act;
    this.#opening += 1;
    this.#busy(false);
    this.fail("");
    if (!this.#dialog.open) this.#dialog.showModal();
    focus?.focus();
    return this.#opening;
  }

  isStill(opening) {
    return this.#dialog.open && opening === this.#opening;
  }

  fail(text) {
    write(this.#error, text);
  }

  #busy(busy) {
    this.#form.setAttribute("aria-busy", String(busy));
    this.#submit?.setAttribute("aria-disabled", String(busy));
  }

  async #run() {
    if (this.#act === null || this.#form.getAttribute("aria-busy") === "true") return;
    const opening = this.#opening;
    this.#busy(true);
    this.fail("");
    try {
      const done = await this.#act();
      if (this.isStill(opening)) this.#dialog.close();
      if (done) toast(done);
    } catch (problem) {
      if (this.isStill(opening)) this.fail(problem.message);
      else toast(problem.message);
    } finally {
      if (opening === this.#opening) this.#busy(false);
    }
  }
}

let fading = null;

/** Show and say what was done. */
function toast(text) {
  const shown = byId("toast");
  write(shown, text);
  shown.hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => (shown.hidden = true), TOAST);
  announce(text);
}

/** Asks for a token; `onToken` is called when there is one. */
export class TokenDialog {
  #dialog = new Dialog("token");
  #onToken;

  constructor(onToken, onClose) {
    this.#onToken = onToken;
    this.#dialog.onClose(onClose);
  }

  get isOpen() {
    return this.#dialog.isOpen;
  }

  open() {
    const refused = token.get() !== null;
    const field = byId("token");
    field.value = "";
    this.#dialog.open(async () => {
      const given = field.value.trim();
      if (given === "") throw new Error("Enter a token.");
      if (!/^[\x21-\x7e]+$/.test(given)) throw new Error("A token is one word of ASCII characters.");
      token.set(given);
      field.value = "";
      this.#onToken();
    }, field);
    if (refused) this.#dialog.fail("The router does not know this token.");
  }
}

/** Asks to which instance a resource moves, and moves it. */
export class TransferDialog {
  #dialog = new Dialog("transfer");
  #state;
  #targets = [];
  #filter = byId("transfer-filter");
  #select = byId("transfer-target");

  constructor(state, onDone) {
    this.#state = state;
    this.onDone = onDone;
    this.#filter.addEventListener("input", () => this.#list());
  }

  open(resource) {
    const { resource_id, owner_instance_id, service_name } = resource;
    const service = this.#state.services?.find((known) => known.service_name === service_name);
    this.#targets = (service?.instances ?? []).filter(
      ({ instance_id, health }) => instance_id !== owner_instance_id && health === "ONLINE",
    );
    const many = this.#targets.length > FEW_TARGETS;
    this.#filter.hidden = !many;
    byId("transfer-filter-label").hidden = !many;
    this.#filter.value = "";
    byId("transfer-reason").value = "";
    write(byId("transfer-resource"), resource_id);
    write(byId("transfer-owner"), owner_instance_id);
    // At least two, because with one it would be a menu.
    this.#select.size = Math.max(2, Math.min(MOST_IN_SIGHT, this.#targets.length));
    this.#list();
    this.#dialog.open(() => this.#move(resource), many ? this.#filter : this.#select);
    if (this.#targets.length === 0) this.#dialog.fail(`${service_name} has no other instance that is online.`);
  }

  #list() {
    const wanted = this.#filter.value.trim().toLowerCase();
    const found = this.#targets.filter(({ instance_id }) => instance_id.toLowerCase().includes(wanted));
    const options = found
      .slice(0, MOST_TARGETS)
      .map(({ instance_id, role }) => make("option", { value: instance_id }, `${instance_id} – ${role.toLowerCase()}`));
    this.#select.replaceChildren(...options);
    this.#select.selectedIndex = options.length > 0 ? 0 : -1;
  }

  async #move({ resource_id, owner_instance_id, service_name }) {
    const target = this.#select.value;
    if (target === "") throw new Error("Choose the new owner.");
    const reply = await tell("resources/transfer", {
      service_name,
      resource_ids: [resource_id],
      from_instance_id: owner_instance_id,
      to_instance_id: target,
      reason: byId("transfer-reason").value.trim(),
    });
    this.onDone();
    const [failure] = Object.values(reply.failed);
    if (failure !== undefined) throw new Error(failure.reason ?? failure);
    return `${resource_id} moved to ${target}`;
  }
}

/** Asks whether to drain an instance, and drains it. */
export class DrainDialog {
  #dialog = new Dialog("drain");

  constructor(onDone) {
    this.onDone = onDone;
  }

  open({ instance_id, service_name }) {
    write(byId("drain-instance"), instance_id);
    this.#dialog.open(async () => {
      await tell(`instances/${encodeURIComponent(instance_id)}/drain`, { service_name });
      this.onDone();
      return `${instance_id} is drained`;
    });
  }
}

/** Shows what is known of a resource, and why. */
export class ExplainDialog {
  #dialog = new Dialog("explain");

  async open({ resource_id }) {
    write(byId("explain-resource"), resource_id);
    this.#show({ summary: "Asking its owner…", standbys: [], history: [] });
    const opening = this.#dialog.open(null);
    try {
      const known = await ask(`resources/${encodeURIComponent(resource_id)}/explain`);
      if (this.#dialog.isStill(opening)) this.#show(known);
    } catch (problem) {
      if (this.#dialog.isStill(opening)) this.#dialog.fail(problem.message);
    }
  }

  #show({ summary, owner, epoch, lease_left, standbys, history, calls, last_call_at }) {
    write(byId("explain-summary"), summary);
    const facts = [];
    if (owner) facts.push(["Owner", owner.instance_id], ["Service", owner.service_name]);
    if (epoch) facts.push(["Epoch", String(epoch)]);
    if (typeof lease_left === "number") facts.push(["Lease left", `${lease_left.toFixed(1)} s`]);
    if (typeof calls === "number") facts.push(["Calls since it is owned", calls.toLocaleString("en")]);
    if (last_call_at) facts.push(["Last call", `${ago(Date.parse(last_call_at))}, ${moment(Date.parse(last_call_at))}`]);
    byId("explain-facts").replaceChildren(
      ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    );
    byId("explain-standbys").replaceChildren(...standbys.map((id) => make("li", { class: "standby" }, make("code", {}, id))));
    byId("explain-history").replaceChildren(...history.map((line) => make("li", {}, line)));
    byId("explain-standbys-empty").hidden = standbys.length > 0;
    byId("explain-history-empty").hidden = history.length > 0;
  }
}
