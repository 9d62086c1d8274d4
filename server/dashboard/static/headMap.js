// Attention weights as an image, one pixel for each pair of tokens.

import { color, isDark } from "headcount/theme.js";

/** A Vue component: one head's weights, as large as its place is. `kind` names a colour. */
export const HeadMap = {
  props: { layer: Object, head: Number, numTokens: Number, kind: String },
  template: `<canvas :width="numTokens" :height="numTokens"></canvas>`,
  setup: () => ({ isDark }),
  mounted() {
    this.paint();
  },
  watch: {
    layer: "paint",
    head: { handler: "paint", flush: "post" },
    isDark: { handler: "paint", flush: "post" },
  },
  methods: {
    paint() {
      const weight = (query, key) => this.layer.weight(this.head, query, key);
      this.$el.getContext("2d").putImageData(image(weight, this.numTokens, rgbOf(color(this.kind))), 0, 0);
    },
  },
};

function image(weight, numTokens, rgb) {
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
const rgbOf = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
