// Times and events in words.

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

export const time = (at) => clock.format(at);

export const moment = (at) => day.format(at);

/** How long ago `at` (milliseconds) was. */
export function ago(at) {
  const seconds = Math.max(0, Math.round((Date.now() - at) / 1000));
  if (seconds < 2) return "now";
  if (seconds < 90) return `${seconds} s ago`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min ago`;
  const hours = Math.round(minutes / 60);
  return hours < 36 ? `${hours} h ago` : `${Math.round(hours / 24)} d ago`;
}

export const plural = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

const lower = (word) => (word ? String(word).toLowerCase() : "unknown");
// Reasons that go without saying.
const PLAIN = new Set(["", "claimed", "released", "transferred"]);
const because = ({ reason }) => (PLAIN.has(reason ?? "") ? "" : ` (${String(reason).replaceAll("_", " ").toLowerCase()})`);
const freed = (event) => {
  const ids = event.released ?? [];
  return ids.length === 0 ? "" : `; ${plural(ids.length, "resource")} became free`;
};
const things = (event, times) => (times === 1 ? { id: event.resource_id } : `${times.toLocaleString("en")} resources`);

// What is said of each kind: a tone, and how it reads. `times` counts alike events of one instance in a row.
const SENTENCES = {
  instance_registered: ["good", (e) => [{ id: e.instance_id }, " registered"]],
  instance_health_changed: [
    (e) => (e.new === "ONLINE" ? "good" : "bad"),
    (e) => [{ id: e.instance_id }, ` is ${lower(e.new)}${because(e)}`],
  ],
  instance_deregistered: ["plain", (e) => [{ id: e.instance_id }, ` left${freed(e)}`]],
  instance_lost: ["bad", (e) => [{ id: e.instance_id }, ` was lost${freed(e)}`]],
  role_changed: [
    (e) => (e.new === "ACTIVE" ? "good" : "plain"),
    (e) => [
      { id: e.instance_id },
      e.new ? ` is ${lower(e.new)} for ` : " has no role any more for ",
      e.group ? `group ${e.group}` : { id: e.resource_id },
      because(e),
    ],
  ],
  resource_registered: ["plain", (e, times) => [{ id: e.instance_id }, " owns ", things(e, times), because(e)]],
  resource_released: ["plain", (e, times) => [things(e, times), times === 1 ? " is free" : " are free", because(e)]],
  resource_expired: ["plain", (e, times) => [things(e, times), times === 1 ? " reached its time to live" : " reached their time to live"]],
  resource_transferred: [
    "plain",
    (e, times) => [things(e, times), " moved from ", { id: e.old || "?" }, " to ", { id: e.instance_id }, because(e)],
  ],
  bulk_progress: ["plain", (e) => [`${e.operation}: ${plural(e.done, "done", "done")}, ${e.failed} failed, of ${e.total}`]],
  orphan_swept: ["plain", (e) => [`The records that `, { id: e.instance_id }, " left were swept"]],
  lease_ended: ["bad", (e) => [{ id: e.instance_id }, ` lost its lease${because(e)}`]],
  scope_overran: ["bad", (e) => [{ id: e.instance_id }, " runs on without owning ", { id: e.resource_id }]],
  circuit_state_changed: [
    (e) => (e.new === "closed" ? "good" : "bad"),
    (e) => [`The circuit to `, { id: e.what }, ` is ${lower(e.new)}${because(e)}`],
  ],
  resync: ["plain", (e) => [`The router read its store anew${because(e)}; events may be missing here`]],
};

/** An event's tone (good, bad, plain) and its sentence, whose ids stand as `{id}`. */
export function told(event, times = 1) {
  const [tone, sentence] = SENTENCES[event.kind] ?? ["plain", (e) => [String(e.kind).replaceAll("_", " ")]];
  return { tone: typeof tone === "function" ? tone(event) : tone, parts: sentence(event, times) };
}
