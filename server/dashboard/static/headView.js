// One head: lines from each token to those it looks at, and its weights as a map.

import { percent } from "headcount/format.js";
import { kindOf } from "headcount/headGrid.js";
import { HeadMap } from "headcount/headMap.js";

const ROW = 22;
const FAINTEST = 0.02;

/** A Vue component: what a head looks at in a text of `tokens`. */
export const HeadView = {
  components: { HeadMap },
  props: { layer: Object, head: Number, tokens: Array },
  template: `
    <div class="stack">
      <div class="lines-frame">
        <svg :viewBox="'0 0 420 ' + row * tokens.length" :height="row * tokens.length" width="420" role="img" aria-label="Lines from each token to those it looks at">
          <line v-for="one in lines" x1="150" x2="270" :y1="row * (one.query + 0.5)" :y2="row * (one.key + 0.5)" stroke="var(--line-color)" :stroke-opacity="one.weight"
            stroke-width="2" :style="{ '--line-color': 'var(--' + kindOf(layer) + ')' }" />
          <g v-for="(token, place) in tokens" @mouseenter="pointed = place" @mouseleave="pointed = null">
            <rect x="0" width="150" :y="row * place" :height="row" fill="transparent" />
            <text x="140" :y="row * (place + 0.68)" text-anchor="end" :class="{ pointed: pointed === place }">{{ visible(token) }}</text>
          </g>
          <text v-for="(token, place) in tokens" x="280" :y="row * (place + 0.68)" :style="{ opacity: pointed === null ? 1 : 0.3 + 0.7 * (pointed >= place ? layer.weight(head, pointed, place) : 0) }">{{ visible(token) }}</text>
        </svg>
      </div>
      <figure class="big-map">
        <head-map :layer="layer" :head="head" :num-tokens="tokens.length" :kind="kindOf(layer)" @mousemove="point" @mouseleave="spot = null" />
        <figcaption class="note">{{ spot ? visible(tokens[spot.query]) + ' looks at ' + visible(tokens[spot.key]) + ': ' + percent(spot.weight) : 'Each row is a token, each column one that it can look at.' }}</figcaption>
      </figure>
    </div>`,
  data: () => ({ pointed: null, spot: null, row: ROW }),
  watch: {
    layer: "forget",
    head: "forget",
  },
  computed: {
    /** From each token to those that it looks at more than faintly; where one is pointed at, from it alone. */
    lines() {
      const queries = this.pointed === null ? this.tokens.map((_, place) => place) : [this.pointed];
      return queries
        .flatMap((query) => Array.from({ length: query + 1 }, (_, key) => ({ query, key, weight: this.layer.weight(this.head, query, key) })))
        .filter(({ weight }) => weight > FAINTEST);
    },
  },
  methods: {
    kindOf,
    percent,
    forget() {
      this.pointed = this.spot = null;
    },
    point(event) {
      const box = event.target.getBoundingClientRect();
      const at = (share) => Math.max(0, Math.min(this.tokens.length - 1, Math.floor(share * this.tokens.length)));
      const [query, key] = [at((event.clientY - box.top) / box.height), at((event.clientX - box.left) / box.width)];
      this.spot = key <= query ? { query, key, weight: this.layer.weight(this.head, query, key) } : null;
    },
    visible: (token) => token.replaceAll("\n", "⏎").replaceAll(" ", "␣") || "∅",
  },
};
