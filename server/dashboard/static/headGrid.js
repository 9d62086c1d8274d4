// Layers by query heads, those together that share a KV head: the grid of every heatmap of heads, and the title of one head.

import { digits } from "headcount/format.js";
import { FIGURES } from "headcount/headFigures.js";
import { attentionType } from "headcount/heads.js";

/** The KV head that a query head reads. */
export const kvHeadOf = (layer, head) => Math.floor((head * layer.num_kv_heads) / layer.num_q_heads);

/** The colour of a layer's heads. */
export const kindOf = (layer) => attentionType(layer.num_q_heads, layer.num_kv_heads);

/** Query heads by the KV head that they read. */
function groupsOf(layer) {
  const groups = Array.from({ length: layer.num_kv_heads }, () => []);
  for (let head = 0; head < layer.num_q_heads; head += 1) groups[kvHeadOf(layer, head)].push(head);
  return groups;
}

/**
 * A Vue component: the heads of `layers` with the `values` of one figure as colours, and a choice of `figures` above.
 *
 * `figure` is the name of the one that is shown, or "" for the slot `map`, which draws a head itself. `values` are a layer
 * each, null as long as they are not there. Emits `show` with a figure's name, `choose` with a layer and a head.
 */
export const HeadGrid = {
  props: { title: String, layers: Array, figures: Array, figure: String, values: Array, numTokens: Number, chosen: Object },
  emits: ["show", "choose"],
  template: `
    <div class="panel heads-model">
      <div class="panel-head"><h2>{{ title }}</h2>
        <div class="segments" role="group" aria-label="What the cells show">
          <button v-if="$slots.map" type="button" :aria-pressed="figure === ''" @click="$emit('show', '')">Maps</button>
          <button v-for="name in figures" type="button" :aria-pressed="figure === name" @click="$emit('show', name)">{{ FIGURES[name].title }}</button>
        </div>
        <span class="note">{{ figure ? FIGURES[figure].hint : 'rows read columns; heads that share a KV head stand together' }}</span>
        <span v-if="figure" class="note heads-scale" :style="{ '--kind': 'var(--' + kindOf(layers[0]) + ')' }">{{ values ? 0 : 'Computing…' }} <template v-if="values"><i></i> {{ digits(full) }}</template></span></div>
      <div class="heads-grid" :class="{ heatmap: figure }">
        <div v-for="(layer, place) in layers" class="heads-row">
          <span class="note heads-label">{{ layer.layer_idx }}</span>
          <span v-for="group in groupsOf(layer)" class="heads-group" :style="{ '--kind': 'var(--' + kindOf(layer) + ')' }">
            <button v-for="head in group" type="button" class="heads-cell" :aria-pressed="isChosen(layer, head)" @click="$emit('choose', layer, head)"
              :aria-label="'layer ' + layer.layer_idx + ', head ' + head" :title="titleOf(layer, head, valueOf(place, head))" :data-value="valueOf(place, head)">
              <slot v-if="!figure" name="map" :layer="layer" :head="head" :kind="kindOf(layer)"></slot>
              <span v-else :style="{ opacity: full ? (valueOf(place, head) ?? 0) / full : 0 }"></span>
            </button>
          </span>
        </div>
      </div>
    </div>`,
  setup: () => ({ FIGURES }),
  computed: {
    /** What full colour stands for. */
    full() {
      return this.values ? FIGURES[this.figure].full(this.values, this.numTokens) : null;
    },
  },
  methods: {
    digits,
    groupsOf,
    kindOf,
    isChosen(layer, head) {
      return this.chosen?.layer.layer_idx === layer.layer_idx && this.chosen.head === head;
    },
    valueOf(place, head) {
      return this.values?.[place][head];
    },
    titleOf(layer, head, value) {
      const end = this.values ? `: ${value ?? "none"}` : "";
      return `layer ${layer.layer_idx}, head ${head}, KV head ${kvHeadOf(layer, head)}${end}`;
    },
  },
};

/** A Vue component: which head this is, and those that share its KV head to choose from. Emits `choose` with one of them. */
export const HeadTitle = {
  props: { layer: Object, head: Number },
  emits: ["choose"],
  template: `
    <div class="panel-head"><h2>Layer {{ layer.layer_idx }}, head {{ head }}</h2>
      <div class="segments" role="group" aria-label="Heads on the same KV head">
        <button v-for="one in siblings" type="button" :aria-pressed="one === head" @click="$emit('choose', layer, one)">{{ one }}</button>
      </div>
      <span class="note">{{ siblings.length === 1 ? 'alone on' : 'these share' }} KV head {{ kvHead }}</span></div>`,
  computed: {
    kvHead() {
      return kvHeadOf(this.layer, this.head);
    },
    siblings() {
      return groupsOf(this.layer)[this.kvHead];
    },
  },
};
