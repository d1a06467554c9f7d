// The management interface, asked with the token of this browser tab.

const BASE = new URL("api/v1/admin/", document.baseURI);
const TOKEN = "aegis.token";
const PATIENCE = 15_000;

/** What went wrong: `status` is 0 where the router gave no answer at all. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }

  get isSilence() {
    return this.status === 0;
  }

  get isTokenWanted() {
    return this.status === 401;
  }
}

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

function headers(more) {
  const kept = token.get();
  return kept === null ? more : { ...more, authorization: `Bearer ${kept}` };
}

/** Open `path`; the response, whose status is a success. Raises `Problem`. */
export async function open(path, { base = BASE, signal, accept = "application/json", ...options } = {}) {
  let response;
  try {
    response = await fetch(new URL(path, base), {
      ...options,
      signal,
      headers: headers({ accept, ...options.headers }),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted && signal.reason?.name !== "TimeoutError") throw error;
    throw new Problem(0, "The router does not answer.");
  }
  if (response.ok) return response;
  throw new Problem(response.status, await reason(response));
}

async function reason(response) {
  try {
    const problem = await response.json();
    return problem.detail || problem.title || `The router answered ${response.status}.`;
  } catch {
    return `The router answered ${response.status}.`;
  }
}

async function read(response, how) {
  try {
    return await response[how]();
  } catch {
    throw new Problem(0, "The router went away in the middle of an answer.");
  }
}

/** `GET` path with a query, whose empty values are left out. */
export async function ask(path, query = {}) {
  const asked = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const url = asked.length === 0 ? path : `${path}?${new URLSearchParams(asked)}`;
  return read(await open(url, { signal: AbortSignal.timeout(PATIENCE) }), "json");
}

/** The text of a page of the router's outside of the management interface. */
export async function text(path) {
  const options = { base: document.baseURI, accept: "text/plain", signal: AbortSignal.timeout(PATIENCE) };
  return read(await open(path, options), "text");
}

/** `POST` to path. A hand-over takes as long as what runs may take to finish, so it has four times the patience. */
export async function tell(path, body) {
  const options = {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
    signal: AbortSignal.timeout(4 * PATIENCE),
  };
  return read(await open(path, options), "json");
}
