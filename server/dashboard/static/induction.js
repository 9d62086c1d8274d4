// Induction heads (Olsson et al. 2022): over random tokens that are repeated, what looks at the token that followed this one before?

import { get, post } from "headcount/api.js";
import { unpack } from "headcount/attention.js";

const NUM_REPEATED_TOKENS = 64;
const MAX_TOKENS = 256;
const MAX_ANSWER_BYTES = 16 * 2 ** 20;

/** The induction score of every head of a served model, a layer each; `layers` are its layers. */
export async function inductionScores(model, layers) {
  const { vocab_size, max_model_len } = await get(`/v1/models/${encodeURIComponent(model)}`);
  const once = randomTokens(vocab_size, Math.min(NUM_REPEATED_TOKENS, Math.floor(Math.min(MAX_TOKENS, max_model_len) / 2)));
  const prompt = [...once, ...once];
  const found = [];
  for (const part of parts(layers, prompt.length)) {
    const answer = await post("/v1/heads/attention", { model, prompt, layers: part }, { isAdmin: true });
    found.push(...answer.layers.map((layer) => scores(unpack(layer, prompt.length), once.length)));
  }
  return found;
}

/** Indices of layers, as many at once as one answer may hold. */
function parts(layers, numTokens) {
  const layerBytes = Math.max(...layers.map(({ num_q_heads }) => num_q_heads * numTokens * (numTokens + 1)));
  const size = Math.max(1, Math.floor(MAX_ANSWER_BYTES / layerBytes));
  const indices = layers.map(({ layer_idx }) => layer_idx);
  return Array.from({ length: Math.ceil(indices.length / size) }, (_, place) => indices.slice(place * size, (place + 1) * size));
}

/** Of each head, the mean share that goes from a token of the second half to the one behind its first occurrence. */
function scores(layer, half) {
  return Array.from({ length: layer.num_q_heads }, (_, head) => {
    let total = 0;
    for (let query = half; query < 2 * half; query += 1) total += layer.weight(head, query, query - half + 1);
    return total / half;
  });
}

/** The same ones each time, so that a model's figure does not change: a linear congruential generator. */
function randomTokens(vocabSize, length) {
  let state = 0;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabSize);
  });
}
