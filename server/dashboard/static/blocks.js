// The block map on a canvas: thousands of cells, drawn anew each second in a few milliseconds.

import { color } from "headcount/theme.js";

const GAP = 1;
const SMALLEST = 5;
const LARGEST = 22;
const AREA = 420000;

/** Colours of owners: told apart by people who see red and green as one; shared blocks have one of their own. */
const OWNERS = ["#4477aa", "#66ccee", "#228833", "#aa7733", "#ee6677", "#aa3377", "#7766cc", "#44aa99", "#dd9955", "#8899aa"];

/** What the legend shows for each state. */
export const COLORS = {
  free: "var(--free)",
  owned: OWNERS[0],
  shared: "var(--wasted)",
  cached: "repeating-linear-gradient(135deg, var(--cached) 0 2px, var(--free) 2px 5px)",
};

const given = new Map();

/** A request keeps its colour as long as it lives; a new one gets the colour that fewest have. */
export const colorOf = (requestId) => given.get(requestId);

function giveColors(requestIds) {
  for (const id of [...given.keys()]) if (!requestIds.includes(id)) given.delete(id);
  for (const id of requestIds) {
    if (given.has(id)) continue;
    const taken = [...given.values()];
    const uses = OWNERS.map((one) => taken.filter((other) => other === one).length);
    given.set(id, OWNERS[uses.indexOf(Math.min(...uses))]);
  }
}

/** Per block, the indices of its owners: the answer has them one after the other. */
export function prepare(map) {
  let next = 0;
  giveColors(map.request_ids);
  const owners = map.ref_counts.map((number) => (map.owners.length ? map.owners.slice(next, (next += number)) : []));
  return { owners };
}

/** Side of a cell, gap included. */
export function cellSize(width, numBlocks) {
  const side = Math.floor(Math.sqrt((Math.min(width * 520, AREA)) / Math.max(1, numBlocks)));
  return Math.max(SMALLEST, Math.min(LARGEST, side)) + GAP;
}

/** Draw every block; with `chosen`, an owner's index, all others' blocks are faint. */
export function draw(canvas, width, map, { owners }, chosen) {
  const cell = cellSize(width, map.states.length);
  const columns = Math.max(1, Math.floor(width / cell));
  const height = Math.ceil(map.states.length / columns) * cell;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const colors = { free: color("free"), shared: color("wasted"), cached: color("cached"), used: color("gqa") };
  const hatch = hatching(pen, colors);
  const ownerColors = map.request_ids.map(colorOf);
  for (let block = 0; block < map.states.length; block += 1) {
    const x = (block % columns) * cell;
    const y = Math.floor(block / columns) * cell;
    pen.globalAlpha = chosen === null || owners[block].includes(chosen) ? 1 : 0.18;
    drawBlock(pen, x, y, cell - GAP, {
      state: map.states[block],
      filled: map.filled_slots[block] / map.block_size,
      colors,
      hatch,
      owner: ownerColors[owners[block][0]] ?? colors.used,
    });
  }
}

/** One cell, filled from below as far as its slots hold tokens. */
function drawBlock(pen, x, y, side, { state, filled, colors, hatch, owner }) {
  pen.fillStyle = colors.free;
  pen.fillRect(x, y, side, side);
  if (state === "f") return;
  const full = state === "s" ? colors.shared : state === "c" ? hatch : owner;
  const alpha = pen.globalAlpha;
  pen.globalAlpha = alpha * 0.28;
  pen.fillStyle = full;
  pen.fillRect(x, y, side, side);
  pen.globalAlpha = alpha;
  pen.fillRect(x, y + side * (1 - filled), side, side * filled);
}

function hatching(pen, colors) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const tilePen = tile.getContext("2d");
  tilePen.fillStyle = colors.free;
  tilePen.fillRect(0, 0, 6, 6);
  tilePen.strokeStyle = colors.cached;
  tilePen.lineWidth = 2.2;
  tilePen.beginPath();
  for (const start of [-6, 0, 6]) {
    tilePen.moveTo(start, 6);
    tilePen.lineTo(start + 6, 0);
  }
  tilePen.stroke();
  return pen.createPattern(tile, "repeat");
}

/** The block under the pointer, or null. */
export function placeAt(canvas, event, cell, numBlocks) {
  const box = canvas.getBoundingClientRect();
  const columns = Math.max(1, Math.floor(box.width / cell));
  const column = Math.floor((event.clientX - box.left) / cell);
  const place = Math.floor((event.clientY - box.top) / cell) * columns + column;
  return column < columns && place < numBlocks ? place : null;
}
