// The router's own metrics, as much of them as the charts show.

import { text } from "./api.js";

const CALLS = "ipc_calls_total";
const BUCKETS = "ipc_call_duration_seconds_bucket";

/** Read a page of metrics: how many calls were made, and how many took at most how long. */
function parse(page) {
  let calls = 0;
  const buckets = new Map();
  for (const line of page.split("\n")) {
    if (line.startsWith(CALLS)) calls += valueOf(line);
    else if (line.startsWith(BUCKETS)) {
      const bound = Number(/le="([^"]*)"/.exec(line)[1].replace("+Inf", "Infinity"));
      buckets.set(bound, (buckets.get(bound) ?? 0) + valueOf(line));
    }
  }
  return { calls, buckets, at: performance.now() };
}

const valueOf = (line) => Number(line.slice(line.lastIndexOf("}") + 1).trim().split(" ")[0]);

/** The value that a share of what was counted does not exceed, or null where nothing was; linear within a bucket. */
function quantile(share, counts) {
  const bounds = [...counts.keys()].sort((a, b) => a - b);
  const total = counts.get(Infinity) ?? 0;
  if (total <= 0) return null;
  let below = 0;
  let lower = 0;
  for (const bound of bounds) {
    const here = counts.get(bound);
    if (here >= share * total) {
      if (bound === Infinity) return lower;
      return lower + ((bound - lower) * (share * total - below)) / (here - below);
    }
    below = here;
    lower = bound;
  }
  return null;
}

/** What happened between two looks at the metrics; the first look, and one after a restart, tell nothing. */
export class Metrics {
  #before = null;

  forget() {
    this.#before = null;
  }

  /** `{rate, median, high}`: calls per second, and seconds that half and 99 % of them took at most; or null. */
  async look() {
    const now = parse(await text("metrics"));
    const before = this.#before;
    this.#before = now;
    if (before === null || now.calls < before.calls) return null;
    const counts = new Map([...now.buckets].map(([bound, n]) => [bound, n - (before.buckets.get(bound) ?? 0)]));
    return {
      rate: (1000 * (now.calls - before.calls)) / (now.at - before.at),
      median: quantile(0.5, counts),
      high: quantile(0.99, counts),
    };
  }
}
