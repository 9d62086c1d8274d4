// The state of the server, once a second, as long as somebody looks at the page.

import { computed, reactive, shallowRef } from "vue";
import { get, getText } from "headcount/api.js";
import { buckets, parse, quantile, read } from "headcount/metrics.js";

const INTERVAL_MS = 1000;
const HISTORY_S = 300;
const RATE_S = 5;
const LATENCY_S = 60;
const STORE = "headcount.history";

const COUNTERS = ["prompt_tokens_total", "generation_tokens_total", "preemptions_total", "engine_restarts_total"];
const GAUGES = ["requests_running", "requests_waiting"];
const HISTOGRAMS = { ttft: "time_to_first_token_seconds", itl: "inter_token_latency_seconds" };
const CACHE = ["total", "used", "filled", "cached", "wasted"];

/** `models`: the entries of /v1/kv. `problem`: why there is nothing newer. `selected`: a model's name, or "" for all. */
export const live = reactive({ models: [], problem: null, isLoaded: false, selected: "" });
/** Newest last: `{ at, models: { name: numbers } }`. */
export const history = shallowRef(restore());

let timer = null;
let isPolling = false;

/** Start asking; every part of a page may call it. */
export function watch() {
  if (timer !== null) return;
  timer = 0;
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : poll()));
  window.addEventListener("pagehide", () => sessionStorage.setItem(STORE, JSON.stringify(history.value)));
  poll();
}

async function poll() {
  clearTimeout(timer);
  if (document.hidden || isPolling) return;
  isPolling = true;
  try {
    const [kv, page] = await Promise.all([get("/v1/kv"), getText("/metrics")]);
    take(kv.models, parse(page));
    live.problem = null;
  } catch (error) {
    live.problem = error.message;
  }
  isPolling = false;
  live.isLoaded = true;
  timer = setTimeout(poll, INTERVAL_MS);
}

function take(models, families) {
  live.models = models;
  if (!models.some(({ model }) => model === live.selected)) live.selected = "";
  const at = Date.now() / 1000;
  const sample = { at, models: Object.fromEntries(models.map((entry) => [entry.model, numbers(entry, families)])) };
  history.value = [...history.value.filter((old) => old.at > at - HISTORY_S), sample];
}

function numbers(entry, families) {
  const found = {};
  for (const name of [...COUNTERS, ...GAUGES]) found[name] = read(families, name, entry.model);
  for (const name of CACHE) found[name] = entry.bytes?.[name] ?? 0;
  for (const [short, name] of Object.entries(HISTOGRAMS)) {
    const { ends, counts } = buckets(families, name, entry.model);
    found[short] = counts;
    BUCKET_ENDS[short] = ends;
  }
  return found;
}

const BUCKET_ENDS = {};

/** What was kept when the page before this one was left, unless that was long ago. */
function restore() {
  const kept = JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
  return kept.filter(({ at }) => at > Date.now() / 1000 - HISTORY_S);
}

/** One model's numbers in a sample, or the sum over all. */
function pick(sample) {
  const chosen = live.selected ? [sample.models[live.selected]] : Object.values(sample.models);
  return chosen.filter(Boolean).reduce(add, {});
}

function add(sum, one) {
  const both = (name) => (Array.isArray(one[name]) ? one[name].map((value, i) => value + (sum[name]?.[i] ?? 0)) : one[name] + (sum[name] ?? 0));
  return Object.fromEntries(Object.keys(one).map((name) => [name, both(name)]));
}

/** The oldest of `points` that is at most `seconds` older than the one at `place`. */
function earlier(points, place, seconds) {
  let start = place;
  while (start > 0 && points[start - 1].at >= points[place].at - seconds) start -= 1;
  return points[start];
}

function rate(points, place, name) {
  const before = earlier(points, place, RATE_S);
  const passed = points[place].at - before.at;
  return passed > 0 ? Math.max(0, points[place][name] - before[name]) / passed : null;
}

function latency(points, place, name, q) {
  const before = earlier(points, place, LATENCY_S);
  const grown = points[place][name].map((value, i) => value - (before[name][i] ?? 0));
  return grown.at(-1) >= 0 ? quantile(q, BUCKET_ENDS[name] ?? [], grown) : null;
}

/** The selected model over time: its numbers, with rates and percentiles worked out. */
export const series = computed(() => {
  const points = history.value.map((sample) => ({ at: sample.at, ...pick(sample) })).filter(({ total }) => total !== undefined);
  return points.map((point, place) => ({
    ...point,
    promptRate: rate(points, place, "prompt_tokens_total"),
    generationRate: rate(points, place, "generation_tokens_total"),
    ttft50: latency(points, place, "ttft", 0.5),
    ttft95: latency(points, place, "ttft", 0.95),
    itl50: latency(points, place, "itl", 0.5),
    itl95: latency(points, place, "itl", 0.95),
  }));
});

/** The newest point of `series`. */
export const newest = computed(() => series.value.at(-1) ?? null);

/** The entries of /v1/kv whose model is loaded. */
export const loaded = computed(() => live.models.filter((entry) => entry.geometry));

function perModel(read) {
  const samples = history.value;
  if (samples.length < 2) return {};
  const names = Object.keys(samples.at(-1).models);
  return Object.fromEntries(names.map((name) => [name, read(samples.filter(({ models }) => models[name]).map(({ at, models }) => ({ at, ...models[name] })))]));
}

/** Generated tokens a second of each model: the best of the last five minutes, where there was any. */
export const modelRates = computed(() =>
  perModel((points) => Math.max(...points.map((_, place) => rate(points, place, "generation_tokens_total") ?? 0)) || null),
);
/** And now. */
export const modelRatesNow = computed(() => perModel((points) => rate(points, points.length - 1, "generation_tokens_total")));
