// The public HTTP API, with the key of this tab. Nothing here reaches another host.

const KEY = "headcount.key";
const ADMIN_KEY = "headcount.admin_key";

/** What the API answered in place of a result. */
export class ApiError extends Error {
  constructor(status, { message, code = null, param = null } = {}) {
    super(message ?? `the server answered ${status}`);
    Object.assign(this, { status, code, param });
  }
}

/** The server did not answer at all. */
export class Unreachable extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

export const setAdminKey = (key) => sessionStorage.setItem(ADMIN_KEY, key);

function headers(options) {
  const key = (options.isAdmin && sessionStorage.getItem(ADMIN_KEY)) || sessionStorage.getItem(KEY);
  return {
    ...(key ? { Authorization: `Bearer ${key}` } : {}),
    ...(options.body === undefined ? {} : { "Content-Type": "application/json" }),
  };
}

async function send(path, options) {
  const { method = "GET", body, signal } = options;
  let response;
  try {
    response = await fetch(path, { method, signal, headers: headers(options), body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Unreachable();
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  // An admin's route has a key of its own: being refused there is no reason to sign in anew.
  if (response.status === 401 && !options.isAdmin) location.assign(`/sign-in?next=${encodeURIComponent(location.pathname)}`);
  throw new ApiError(response.status, answer.error);
}

export const getText = async (path) => (await send(path, {})).text();
export const get = async (path, options = {}) => (await send(path, options)).json();
export const post = async (path, body, options = {}) => (await send(path, { ...options, method: "POST", body })).json();

export const remove = async (path, options = {}) => (await send(path, { ...options, method: "DELETE" })).json();

/** Server-sent events as they come: `{ event, data }`, data parsed where it is JSON; ends at `[DONE]`. */
export async function* events(path, options = {}) {
  const response = await send(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split(/\r?\n\r?\n/);
    rest = frames.pop();
    for (const frame of frames) {
      const found = parseFrame(frame);
      if (found?.data === "[DONE]") return;
      if (found) yield found;
    }
  }
}

function parseFrame(frame) {
  const lines = frame.split(/\r?\n/).filter((line) => !line.startsWith(":"));
  const read = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart());
  const data = read("data").join("\n");
  if (!data) return null;
  const event = read("event")[0] ?? "message";
  return { event, data: data === "[DONE]" ? data : JSON.parse(data) };
}
