// Query heads, drawn over the KV heads they share.

const DOT = 9;
const GAP = 3;
const BETWEEN = 12;
const WIDTH = 560;
const BAR = 9;
const STEM = 11;

/** Kinds of layers: those with the same heads together, `{ num_layers, num_q_heads, num_kv_heads, sliding_window }`. */
export function kindsOfLayers(geometry) {
  const layers = geometry.layers ?? Array(geometry.num_layers).fill({ ...geometry, sliding_window: null });
  const kinds = new Map();
  for (const { num_q_heads, num_kv_heads, sliding_window } of layers) {
    const name = [num_q_heads, num_kv_heads, sliding_window].join();
    const kind = kinds.get(name) ?? { num_q_heads, num_kv_heads, sliding_window, num_layers: 0 };
    kind.num_layers += 1;
    kinds.set(name, kind);
  }
  return [...kinds.values()];
}

export const attentionType = (numQueryHeads, numKvHeads) =>
  numKvHeads === numQueryHeads ? "mha" : numKvHeads === 1 ? "mqa" : "gqa";

/** Where every head of a layer is drawn: `{ width, height, groups: [{ queries, x, y, width }] }`. */
export function layout(numQueryHeads, numKvHeads) {
  const perGroup = numQueryHeads / numKvHeads;
  const columns = Math.min(perGroup, 16);
  const lines = Math.ceil(perGroup / columns);
  const groupWidth = columns * (DOT + GAP) - GAP;
  const groupHeight = lines * (DOT + GAP) + STEM + BAR;
  const perLine = Math.max(1, Math.min(numKvHeads, Math.floor((WIDTH + BETWEEN) / (groupWidth + BETWEEN))));
  const groups = Array.from({ length: numKvHeads }, (_, place) => {
    const x = (place % perLine) * (groupWidth + BETWEEN);
    const y = Math.floor(place / perLine) * (groupHeight + 14);
    const queries = Array.from({ length: perGroup }, (_, i) => ({
      head: place * perGroup + i,
      x: x + (i % columns) * (DOT + GAP) + DOT / 2,
      y: y + Math.floor(i / columns) * (DOT + GAP) + DOT / 2,
      isLast: Math.floor(i / columns) === lines - 1,
    }));
    return { place, queries, x, y: y + groupHeight - BAR, width: groupWidth };
  });
  const numLines = Math.ceil(numKvHeads / perLine);
  return {
    width: perLine * (groupWidth + BETWEEN) - BETWEEN,
    height: numLines * (groupHeight + 14) - 14,
    radius: DOT / 2,
    bar: BAR,
    groups,
  };
}

/** A Vue component: `<head-picture :queries="9" :kv="3" />`. */
export const HeadPicture = {
  props: { queries: Number, kv: Number },
  template: `
    <svg :viewBox="'0 0 ' + picture.width + ' ' + picture.height" :width="picture.width * 1.35" role="img" :aria-label="label"
         style="max-width: 100%; height: auto; display: block">
      <title>{{ label }}</title>
      <g v-for="group in picture.groups" :key="group.place">
        <path v-for="dot in group.queries.filter((one) => one.isLast)" :d="'M' + dot.x + ' ' + dot.y + 'V' + group.y"
              stroke="var(--line-strong)" stroke-width="1.2" />
        <circle v-for="dot in group.queries" :cx="dot.x" :cy="dot.y" :r="picture.radius" :fill="'var(--' + kind + ')'">
          <title>query head {{ dot.head }} reads KV head {{ group.place }}</title>
        </circle>
        <rect :x="group.x" :y="group.y" :width="group.width" :height="picture.bar" rx="3" fill="var(--wasted)">
          <title>KV head {{ group.place }}, read by {{ group.queries.length }} query heads</title>
        </rect>
      </g>
    </svg>`,
  computed: {
    picture() {
      return layout(this.queries, this.kv);
    },
    kind() {
      return attentionType(this.queries, this.kv);
    },
    label() {
      return `${this.queries} query heads on ${this.kv} KV heads`;
    },
  },
};
