// Prometheus' text format, as far as it is needed: counters, gauges, and quantiles of histograms.

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Name -> [{ labels, value }]. */
export function parse(page) {
  const families = new Map();
  for (const line of page.split("\n")) {
    const found = line[0] === "#" ? null : LINE.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, name, text]) => [name, unescape(text)]));
    const value = found[3] === "+Inf" ? Infinity : Number(found[3]);
    if (!families.has(found[1])) families.set(found[1], []);
    families.get(found[1]).push({ labels, value });
  }
  return families;
}

const unescape = (text) => text.replace(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter));

/** The number of a family for one model; 0 where it has none. */
export function read(families, name, model) {
  return (families.get(`headcount_${name}`) ?? [])
    .filter(({ labels }) => labels.model_name === model)
    .reduce((sum, { value }) => sum + value, 0);
}

/** A histogram of one model: the buckets' upper ends, and how many observations are at or below each. */
export function buckets(families, name, model) {
  const rows = (families.get(`headcount_${name}_bucket`) ?? []).filter(({ labels }) => labels.model_name === model);
  const end = ({ labels }) => (labels.le === "+Inf" ? Infinity : Number(labels.le));
  rows.sort((one, other) => end(one) - end(other));
  return { ends: rows.map(end), counts: rows.map(({ value }) => value) };
}

/** The q-quantile of cumulative counts, linear within a bucket, as Prometheus' histogram_quantile; null without any. */
export function quantile(q, ends, counts) {
  const all = counts.at(-1) ?? 0;
  if (!(all > 0)) return null;
  const place = counts.findIndex((number) => number >= q * all);
  const [lower, below] = place === 0 ? [0, 0] : [ends[place - 1], counts[place - 1]];
  if (ends[place] === Infinity) return lower;
  return lower + ((ends[place] - lower) * (q * all - below)) / (counts[place] - below);
}
