// The router's events, as a stream that is opened again whenever it ends.

import { open } from "./api.js";

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 5_000;
const SILENCE = 30_000;

/**
 * Follows the events for ever.
 *
 * `onOpen` is called whenever the stream is there (again), `onEvent` with each event, `onEnd` with a `Problem` or null
 * when it is not there any more or could not be opened.
 */
export class Feed {
  #wake = () => {};
  #onOpen;
  #onEvent;
  #onEnd;

  constructor({ onOpen, onEvent, onEnd }) {
    this.#onOpen = onOpen;
    this.#onEvent = onEvent;
    this.#onEnd = onEnd;
  }

  /** Try again now. */
  hurry() {
    this.#wake();
  }

  async follow() {
    let pause = FIRST_PAUSE;
    for (;;) {
      let problem = null;
      try {
        await this.#listen(() => {
          pause = FIRST_PAUSE;
          this.#onOpen();
        });
      } catch (error) {
        problem = error;
      }
      this.#onEnd(problem);
      // Without a token there is nothing to try. Many pages that lost the same router do not come back at the same moment.
      await this.#sleep(problem?.isTokenWanted ? null : pause * (0.75 + Math.random() / 2));
      pause = Math.min(2 * pause, LONGEST_PAUSE);
    }
  }

  /** Wait for so many milliseconds, or (null) until hurried. */
  async #sleep(time) {
    await new Promise((resolve) => {
      this.#wake = resolve;
      if (time !== null) setTimeout(resolve, time);
    });
    this.#wake = () => {};
  }

  async #listen(opened) {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENCE);
    try {
      const response = await open("events", { accept: "text/event-stream", signal: silence.signal });
      opened();
      const parser = new Parser(this.#onEvent);
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        // Also a comment is a sign of life.
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENCE);
        parser.feed(decoder.decode(value, { stream: true }));
      }
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
  }
}

/** Server-sent events out of text that comes in any parts; each one's data is JSON. */
class Parser {
  #rest = "";
  #data = [];
  #onEvent;

  constructor(onEvent) {
    this.#onEvent = onEvent;
  }

  feed(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) this.#take(line.endsWith("\r") ? line.slice(0, -1) : line);
  }

  #take(line) {
    if (line === "") {
      if (this.#data.length > 0) this.#onEvent(JSON.parse(this.#data.join("\n")));
      this.#data = [];
    } else if (line.startsWith("data:")) {
      this.#data.push(line.slice(line[5] === " " ? 6 : 5));
    }
  }
}
