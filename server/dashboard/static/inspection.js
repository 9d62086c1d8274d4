// The file that `headcount heads inspect MODEL --text … --json FILE` writes: read, checked, and put layer by layer.

import { FIGURES } from "headcount/headFigures.js";
import { kvHeadOf } from "headcount/headGrid.js";

const MAX_BYTES = 256 * 2 ** 20;
/** Between every two heads of a layer. */
export const PAIRS = {
  js_divergence: { title: "Jensen-Shannon divergence", hint: "of what two heads look at, in bits: 0 is a copy" },
  cosine_similarity: { title: "Cosine similarity", hint: "of two heads' attention maps: 1 is a copy" },
};

/** Why a file cannot be shown, in words. */
export class NotAnInspection extends Error {}

/** The inspection, with `layers: [{ layer_idx, num_q_heads, num_kv_heads, heads, js_divergence, cosine_similarity }]`. */
export async function readInspection(file) {
  try {
    demand(file.size <= MAX_BYTES, `it has ${file.size} bytes, and at most ${MAX_BYTES} are read`);
    return arrange(parse(await file.text()));
  } catch (error) {
    if (!(error instanceof NotAnInspection)) throw error;
    const remedy = "Open one that `headcount heads inspect MODEL --text … --json FILE` wrote.";
    throw new NotAnInspection(`${file.name} is no inspection of heads: ${error.message}. ${remedy}`);
  }
}

function demand(holds, otherwise) {
  if (!holds) throw new NotAnInspection(otherwise);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new NotAnInspection("it is not JSON");
  }
}

function arrange(found) {
  demand(Array.isArray(found?.heads) && found.heads.length, "it has no list of `heads`");
  for (const name of ["num_tokens", "window_tokens", "loss"]) demand(Number.isFinite(found[name]), `\`${name}\` must be a number, got ${said(found[name])}`);
  demand(typeof found.model === "string", `\`model\` must be a name, got ${said(found.model)}`);
  found.heads.forEach(checkHead);
  const numLayers = 1 + found.heads.reduce((most, { layer }) => Math.max(most, layer), 0);
  demand(numLayers <= found.heads.length, `it has heads of layer ${numLayers - 1}, but not of every layer before`);
  const layers = Array.from({ length: numLayers }, (_, layer_idx) => arrangeLayer(found, layer_idx));
  return { model: found.model, num_tokens: found.num_tokens, window_tokens: found.window_tokens, loss: found.loss, layers };
}

function checkHead(head, place) {
  for (const name of ["layer", "head", "kv_head"]) {
    demand(Number.isInteger(head?.[name]) && head[name] >= 0, `heads[${place}] must have an index \`${name}\`, got ${said(head?.[name])}`);
  }
  for (const name of Object.keys(FIGURES)) {
    const isAlone = name === "nearest_distance" && head[name] === null;
    demand(isAlone || (Number.isFinite(head[name]) && head[name] >= 0), `heads[${place}].${name} must be a number of 0 or more, got ${said(head[name])}`);
  }
}

function arrangeLayer(found, layer_idx) {
  const heads = found.heads.filter(({ layer }) => layer === layer_idx).sort((one, other) => one.head - other.head);
  demand(heads.length, `it has no heads of layer ${layer_idx}`);
  heads.forEach(({ head }, place) => demand(head === place, `the heads of layer ${layer_idx} must be 0 to ${heads.length - 1}, each once`));
  const layer = { layer_idx, num_q_heads: heads.length, num_kv_heads: 1 + Math.max(...heads.map(({ kv_head }) => kv_head)), heads };
  heads.forEach(({ head, kv_head }) => {
    const reads = kvHeadOf(layer, head);
    demand(kv_head === reads, `in layer ${layer_idx}, head ${head} must read KV head ${reads} of ${layer.num_kv_heads}, got ${kv_head}`);
  });
  for (const name of Object.keys(PAIRS)) layer[name] = checkPairs(found, name, layer);
  return layer;
}

function checkPairs(found, name, { layer_idx, num_q_heads }) {
  const pairs = found[name]?.[layer_idx];
  const isRow = (row) => Array.isArray(row) && row.length === num_q_heads && row.every(Number.isFinite);
  const isSquare = Array.isArray(pairs) && pairs.length === num_q_heads && pairs.every(isRow);
  demand(isSquare, `\`${name}\` must have ${num_q_heads} times ${num_q_heads} numbers for layer ${layer_idx}`);
  return pairs;
}

const said = (value) => (value === undefined ? "nothing" : JSON.stringify(value).slice(0, 40));
