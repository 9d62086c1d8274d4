// Attention weights as POST /v1/heads/attention sends them, and what can be read off them.

const ONE = 65535;
const PAUSE_MS = 50;

/** A layer's weights: `weight(head, query, key)` between 0 and 1; `row(head, query)` as they were sent, 65535 for 1. */
export function unpack(layer, numTokens) {
  const view = new DataView(Uint8Array.from(atob(layer.weights), (letter) => letter.charCodeAt(0)).buffer);
  const perHead = (numTokens * (numTokens + 1)) / 2;
  const number = (head, query, key) => view.getUint16(2 * (head * perHead + (query * (query + 1)) / 2 + key), true);
  return {
    ...layer,
    weights: null,
    weight: (head, query, key) => number(head, query, key) / ONE,
    row: (head, query) => Uint16Array.from({ length: query + 1 }, (_, key) => number(head, query, key)),
  };
}

/** Figures that attention over any text shows. */
export const READ_OFF = {
  previous_token: eachHead((weight, query) => weight(query - 1)),
  first_token: eachHead((weight) => weight(0)),
  delimiter: eachHead((weight, query, { is_delimiter }) => sum(query + 1, (key) => (is_delimiter[key] ? weight(key) : 0))),
  entropy: eachHead((weight, query) => sum(query + 1, (key) => entr(weight(key)))),
  nearest_distance: nearestDistances,
};

/** The figure of every head, a layer each; between layers the page may go on where that takes long. */
export async function readOff(name, { layers, tokens, is_delimiter }) {
  const found = [];
  let since = performance.now();
  for (const layer of layers) {
    found.push(READ_OFF[name](layer, { numTokens: tokens.length, is_delimiter }));
    if (performance.now() - since < PAUSE_MS) continue;
    await new Promise((goOn) => setTimeout(goOn));
    since = performance.now();
  }
  return found;
}

/** `read(weight, query, text)` of each head, as the mean over all tokens but the first, which can look at itself alone. */
function eachHead(read) {
  return (layer, text) =>
    heads(layer).map((head) => mean(text.numTokens, (query) => read((key) => layer.weight(head, query, key), query, text)));
}

/** Of each head, the Jensen-Shannon divergence (Lin 1991) to the nearest other one of its layer; null where it is alone. */
function nearestDistances(layer, { numTokens }) {
  const nearest = heads(layer).map(() => (layer.num_q_heads > 1 ? Infinity : null));
  const rows = heads(layer).map((head) => Array.from({ length: numTokens }, (_, query) => withSink(layer.row(head, query))));
  for (let one = 1; one < layer.num_q_heads; one += 1) {
    for (let other = 0; other < one; other += 1) {
      const distance = mean(numTokens, (query) => divergence(rows[one][query], rows[other][query]));
      nearest[one] = Math.min(nearest[one], distance);
      nearest[other] = Math.min(nearest[other], distance);
    }
  }
  return nearest;
}

/** What goes to a learned sink is missing in the row: it counts as one more place. */
function withSink(row) {
  const rest = ONE - row.reduce((total, number) => total + number, 0);
  return Uint16Array.of(...row, Math.max(0, rest));
}

/** In bits, between two rows of weights as they were sent. */
function divergence(one, other) {
  const table = entropies();
  const nats = sum(one.length, (key) => table[one[key] + other[key]] - (table[2 * one[key]] + table[2 * other[key]]) / 2);
  return Math.max(0, nats) / Math.LN2;
}

let kept = null;

/** `entr` of each sum of two weights as they were sent, halved: a lookup where there are millions of pairs of them. */
function entropies() {
  kept ??= Float64Array.from({ length: 2 * ONE + 1 }, (_, total) => entr(total / (2 * ONE)));
  return kept;
}

const entr = (share) => (share > 0 ? -share * Math.log(share) : 0);

const heads = (layer) => Array.from({ length: layer.num_q_heads }, (_, head) => head);

const mean = (numTokens, read) => (numTokens > 1 ? sum(numTokens - 1, (place) => read(place + 1)) / (numTokens - 1) : 0);

function sum(length, read) {
  let total = 0;
  for (let place = 0; place < length; place += 1) total += read(place);
  return total;
}
