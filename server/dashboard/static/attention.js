// Attention weights as POST /v1/heads/attention sends them, and what can be read off them.

const ONE = 65535;

/** A layer's weights, and `weight(head, query, key)` between 0 and 1. */
export function unpack(layer, numTokens) {
  const text = atob(layer.weights);
  const raw = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const view = new DataView(raw.buffer);
  const perHead = (numTokens * (numTokens + 1)) / 2;
  return {
    ...layer,
    weights: null,
    weight: (head, query, key) => view.getUint16(2 * (head * perHead + (query * (query + 1)) / 2 + key), true) / ONE,
  };
}

/** The KV head that a query head reads. */
export const kvHeadOf = (layer, head) => Math.floor((head * layer.num_kv_heads) / layer.num_q_heads);

/** Figures of a head: means over all tokens but the first, which can look at itself alone. */
export const FIGURES = {
  previous: {
    title: "To the token before",
    hint: "share of its attention",
    read: (weight, numTokens) => mean(numTokens, (query) => weight(query, query - 1)),
    scale: () => 1,
  },
  first: {
    title: "To the first token",
    hint: "share of its attention: many heads rest there",
    read: (weight, numTokens) => mean(numTokens, (query) => weight(query, 0)),
    scale: () => 1,
  },
  entropy: {
    title: "Entropy",
    hint: "in nats: 0 looks at one token, more at many",
    read: (weight, numTokens) => mean(numTokens, (query) => entropy(weight, query)),
    scale: (numTokens) => Math.log(Math.max(2, numTokens)),
  },
};

function mean(numTokens, read) {
  let sum = 0;
  for (let query = 1; query < numTokens; query += 1) sum += read(query);
  return numTokens > 1 ? sum / (numTokens - 1) : 0;
}

function entropy(weight, query) {
  let sum = 0;
  for (let key = 0; key <= query; key += 1) {
    const share = weight(query, key);
    if (share > 0) sum -= share * Math.log(share);
  }
  return sum;
}

/** A head's weights as an image, one pixel for each pair of tokens. */
export function image(weight, numTokens, rgb) {
  const pixels = new ImageData(numTokens, numTokens);
  for (let query = 0; query < numTokens; query += 1) {
    for (let key = 0; key <= query; key += 1) {
      const place = 4 * (query * numTokens + key);
      pixels.data.set(rgb, place);
      // The square root lets weights of a few percent be seen.
      pixels.data[place + 3] = 255 * Math.sqrt(weight(query, key));
    }
  }
  return pixels;
}

/** [r, g, b] of a colour as CSS writes it: `#1f6fa8`. */
export const rgbOf = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
