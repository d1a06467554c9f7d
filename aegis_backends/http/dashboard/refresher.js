// Loads something again whenever it may have changed, but never more than one at a time nor without a pause.

const SHORTEST_PAUSE = 250;

export class Refresher {
  #load;
  #every;
  #timer = null;
  #due = Infinity;
  #running = false;
  #wanted = false;
  #began = -Infinity;
  #pause = SHORTEST_PAUSE;
  #on = false;

  /** `load` is an async function; `every` says after how many milliseconds it is called even if nothing was told. */
  constructor(load, every) {
    this.#load = load;
    this.#every = every;
  }

  start() {
    this.#on = true;
    this.touch();
  }

  stop() {
    this.#on = false;
    clearTimeout(this.#timer);
    this.#due = Infinity;
  }

  /** It may have changed: load it now, or as soon as may be. */
  touch() {
    if (!this.#on) return;
    if (this.#running) this.#wanted = true;
    else this.#plan(this.#began + this.#pause);
  }

  #plan(at) {
    if (at >= this.#due) return;
    clearTimeout(this.#timer);
    this.#due = at;
    this.#timer = setTimeout(() => this.#run(), Math.max(0, at - performance.now()));
  }

  async #run() {
    this.#due = Infinity;
    this.#running = true;
    this.#wanted = false;
    this.#began = performance.now();
    try {
      await this.#load();
    } finally {
      this.#running = false;
      // What takes long to load is asked for less often: a page is not what keeps a router busy.
      this.#pause = Math.max(SHORTEST_PAUSE, 4 * (performance.now() - this.#began));
      if (this.#on) this.#plan(this.#began + (this.#wanted ? this.#pause : Math.max(this.#every, this.#pause)));
    }
  }
}
