// Elements: how they are found and made, how many of them become few, and how a change waits for its frame.

export const byId = (id) => document.getElementById(id);

/** A new element with properties and children; `class` and names with a dash are attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name === "role" || name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Write text only where it differs, so that nothing is laid out or read aloud for nothing. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const waiting = new Set();

function draw() {
  const now = [...waiting];
  waiting.clear();
  for (const task of now) task();
}

/** Call `task` once before the next frame, however often it is asked for until then. */
export function beforeFrame(task) {
  if (waiting.size === 0) requestAnimationFrame(draw);
  waiting.add(task);
}

/**
 * Shows items as children of `parent`, reusing the element of each key: what has the focus keeps it.
 *
 * `create` makes an element, `update` writes an item into it.
 */
export class Rows {
  #elements = new Map();
  #parent;
  #create;
  #update;

  constructor(parent, create, update) {
    this.#parent = parent;
    this.#create = create;
    this.#update = update;
  }

  show(items, keyOf) {
    const kept = new Map();
    for (const item of items) {
      const key = keyOf(item);
      const element = this.#elements.get(key) ?? this.#create(item);
      this.#update(element, item);
      kept.set(key, element);
    }
    for (const [key, element] of this.#elements) if (!kept.has(key)) element.remove();
    let place = this.#parent.firstElementChild;
    for (const element of kept.values()) {
      if (element === place) place = place.nextElementSibling;
      else this.#parent.insertBefore(element, place);
    }
    this.#elements = kept;
  }
}

/** "1–25 of 1,000" with buttons; hidden where one page is all. `onTurn` is called when another page is wanted. */
export class Pager {
  offset = 0;
  #size;
  #told;
  #back;
  #on;
  #parent;

  constructor(parent, what, size, onTurn) {
    this.#parent = parent;
    this.#size = size;
    this.#told = make("p");
    this.#back = make("button", { type: "button", "aria-label": `Previous ${what}` }, "Previous");
    this.#on = make("button", { type: "button", "aria-label": `Next ${what}` }, "Next");
    parent.append(this.#told, this.#back, this.#on);
    parent.hidden = true;
    const turn = (button, by) => {
      if (button.getAttribute("aria-disabled") === "true") return;
      this.offset = Math.max(0, this.offset + by * size);
      onTurn();
    };
    this.#back.addEventListener("click", () => turn(this.#back, -1));
    this.#on.addEventListener("click", () => turn(this.#on, 1));
  }

  get size() {
    return this.#size;
  }

  /** The part of `items` that is on the page; those of a list that became shorter are on its last page. */
  cut(items) {
    this.fit(items.length);
    return items.slice(this.offset, this.offset + this.#size);
  }

  /** Say where the page is among `total`; true when it had to be moved because there is no such page any more. */
  fit(total) {
    const last = Math.max(0, Math.ceil(total / this.#size) - 1) * this.#size;
    const moved = this.offset > last;
    this.offset = Math.min(this.offset, last);
    this.#parent.hidden = total <= this.#size;
    const end = Math.min(total, this.offset + this.#size);
    write(this.#told, `${count(this.offset + 1)}–${count(end)} of ${count(total)}`);
    // Not `disabled`, which would take the focus away from who pages by keyboard.
    this.#back.setAttribute("aria-disabled", String(this.offset === 0));
    this.#on.setAttribute("aria-disabled", String(end >= total));
    return moved;
  }
}

const numbers = new Intl.NumberFormat("en");

export const count = (number) => numbers.format(number);
