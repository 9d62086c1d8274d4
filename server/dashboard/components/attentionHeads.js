import { AdminKey, needsAdminKey } from "headcount/adminKey.js";
import { post } from "headcount/api.js";
import { FIGURES, image, kvHeadOf, rgbOf, unpack } from "headcount/attention.js";
import { percent, significant } from "headcount/format.js";
import { attentionType } from "headcount/heads.js";
import { loaded, live, watch } from "headcount/live.js";
import { color, isDark } from "headcount/theme.js";

const EXAMPLE = "The cat that sat on the mat was tired, so the cat went to sleep.";
const ROW = 22;
const FAINTEST = 0.02;

/** Paints one head's weights, as large as its place is. */
const HeadMap = {
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

export default {
  components: { AdminKey, HeadMap },
  template: `
    <section class="stack">
      <div v-if="live.problem" class="banner bad" role="alert"><b>{{ live.problem }}</b></div>
      <div v-else-if="live.isLoaded && !loaded.length" class="banner"><b>No model is ready yet.</b></div>
      <admin-key v-if="isLocked" @given="look" />
      <form class="panel row" @submit.prevent="look">
        <select v-if="loaded.length > 1" class="input" v-model="name" aria-label="Model" style="width: auto"><option v-for="one in loaded">{{ one.model }}</option></select>
        <input class="input" v-model="text" aria-label="Sentence" style="flex: 1 1 300px" maxlength="4000" />
        <button class="button primary" type="submit" :disabled="isBusy || !name || !text.trim()" data-test="look">{{ isBusy ? 'Computing…' : 'Look' }}</button>
      </form>
      <p v-if="problem" class="banner bad" role="alert">{{ problem }}</p>
      <p v-if="!found && !isBusy && !problem" class="panel empty">Type a sentence of at most 256 tokens. It is read once more by the weights that serve, and every head shows where it looks.</p>
      <div v-if="found" class="heads-layout">
      <div class="panel heads-model">
        <div class="panel-head"><h2>{{ found.model }}: {{ found.layers.length }} layers, {{ found.tokens.length }} tokens</h2>
          <div class="segments" role="group" aria-label="What the cells show">
            <button type="button" :aria-pressed="figure === ''" @click="figure = ''">Maps</button>
            <button v-for="(one, key) in figures" type="button" :aria-pressed="figure === key" @click="figure = key">{{ one.title }}</button>
          </div>
          <span class="note">{{ figure ? figures[figure].hint : 'rows read columns; heads that share a KV head stand together' }}</span></div>
        <div class="heads-grid">
          <div v-for="layer in found.layers" class="heads-row">
            <span class="note heads-label">{{ layer.layer_idx }}</span>
            <span v-for="group in groupsOf(layer)" class="heads-group" :style="{ '--kind': 'var(--' + kindOf(layer) + ')' }">
              <button v-for="head in group" type="button" class="heads-cell" :aria-pressed="isChosen(layer, head)" @click="choose(layer, head)"
                :aria-label="'layer ' + layer.layer_idx + ', head ' + head" :title="titleOf(layer, head)" :data-value="figure ? valueOf(layer, head) : undefined">
                <head-map v-if="!figure" :layer="layer" :head="head" :num-tokens="found.tokens.length" :kind="kindOf(layer)" />
                <span v-else :style="{ opacity: valueOf(layer, head) / figures[figure].scale(found.tokens.length) }"></span>
              </button>
            </span>
          </div>
        </div>
      </div>
      <div v-if="chosen" class="panel heads-one" data-test="head">
        <div class="panel-head"><h2>Layer {{ chosen.layer.layer_idx }}, head {{ chosen.head }}</h2>
          <div class="segments" role="group" aria-label="Heads on the same KV head">
            <button v-for="head in siblings" type="button" :aria-pressed="head === chosen.head" @click="choose(chosen.layer, head)">{{ head }}</button>
          </div>
          <span class="note">{{ siblings.length === 1 ? 'alone on' : 'these share' }} KV head {{ kvHead }}</span></div>
        <div class="stack">
          <div class="lines-frame">
            <svg :viewBox="'0 0 420 ' + row * found.tokens.length" :height="row * found.tokens.length" width="420" role="img" aria-label="Lines from each token to those it looks at">
              <line v-for="one in lines" x1="150" x2="270" :y1="row * (one.query + 0.5)" :y2="row * (one.key + 0.5)" stroke="var(--line-color)" :stroke-opacity="one.weight"
                stroke-width="2" :style="{ '--line-color': 'var(--' + kindOf(chosen.layer) + ')' }" />
              <g v-for="(token, place) in found.tokens" @mouseenter="pointed = place" @mouseleave="pointed = null">
                <rect x="0" width="150" :y="row * place" :height="row" fill="transparent" />
                <text x="140" :y="row * (place + 0.68)" text-anchor="end" :class="{ pointed: pointed === place }">{{ visible(token) }}</text>
              </g>
              <text v-for="(token, place) in found.tokens" x="280" :y="row * (place + 0.68)" :style="{ opacity: pointed === null ? 1 : 0.3 + 0.7 * (pointed >= place ? chosen.layer.weight(chosen.head, pointed, place) : 0) }">{{ visible(token) }}</text>
            </svg>
          </div>
          <figure class="big-map">
            <head-map :layer="chosen.layer" :head="chosen.head" :num-tokens="found.tokens.length" :kind="kindOf(chosen.layer)" @mousemove="point" @mouseleave="spot = null" />
            <figcaption class="note">{{ spot ? visible(found.tokens[spot.query]) + ' looks at ' + visible(found.tokens[spot.key]) + ': ' + percent(spot.weight) : 'Each row is a token, each column one that it can look at.' }}</figcaption>
          </figure>
        </div>
      </div>
      </div>
    </section>`,
  data: () => ({ name: "", text: EXAMPLE, found: null, chosen: null, figure: "", pointed: null, spot: null, problem: null, isBusy: false, isLocked: false, figures: FIGURES, row: ROW }),
  setup: () => ({ live, loaded }),
  mounted: watch,
  watch: {
    loaded: {
      immediate: true,
      handler(entries) {
        if (!entries.some(({ model }) => model === this.name) && entries.length) this.name = entries[0].model;
      },
    },
  },
  computed: {
    kvHead() {
      return kvHeadOf(this.chosen.layer, this.chosen.head);
    },
    siblings() {
      return this.groupsOf(this.chosen.layer)[this.kvHead];
    },
    /** From each token to those that it looks at more than faintly; where one is pointed at, from it alone. */
    lines() {
      const { layer, head } = this.chosen;
      const queries = this.pointed === null ? this.found.tokens.map((_, place) => place) : [this.pointed];
      return queries
        .flatMap((query) => Array.from({ length: query + 1 }, (_, key) => ({ query, key, weight: layer.weight(head, query, key) })))
        .filter(({ weight }) => weight > FAINTEST);
    },
  },
  methods: {
    percent,
    async look() {
      this.isBusy = true;
      this.problem = null;
      this.isLocked = false;
      try {
        const found = await post("/v1/heads/attention", { model: this.name, prompt: this.text }, { isAdmin: true });
        found.layers = found.layers.map((layer) => Object.freeze(unpack(layer, found.tokens.length)));
        this.found = Object.freeze(found);
        this.choose(found.layers[Math.min(1, found.layers.length - 1)], 0);
      } catch (error) {
        if (needsAdminKey(error)) this.isLocked = true;
        else this.problem = error.message;
      }
      this.isBusy = false;
    },
    choose(layer, head) {
      this.chosen = { layer, head };
      this.pointed = this.spot = null;
    },
    isChosen(layer, head) {
      return this.chosen?.layer.layer_idx === layer.layer_idx && this.chosen.head === head;
    },
    kindOf: (layer) => attentionType(layer.num_q_heads, layer.num_kv_heads),
    /** Query heads by the KV head that they read. */
    groupsOf(layer) {
      const groups = Array.from({ length: layer.num_kv_heads }, () => []);
      for (let head = 0; head < layer.num_q_heads; head += 1) groups[kvHeadOf(layer, head)].push(head);
      return groups;
    },
    valueOf(layer, head) {
      return FIGURES[this.figure].read((query, key) => layer.weight(head, query, key), this.found.tokens.length);
    },
    titleOf(layer, head) {
      const value = this.figure ? `: ${significant(this.valueOf(layer, head))}` : "";
      return `layer ${layer.layer_idx}, head ${head}, KV head ${kvHeadOf(layer, head)}${value}`;
    },
    point(event) {
      const box = event.target.getBoundingClientRect();
      const at = (share) => Math.max(0, Math.min(this.found.tokens.length - 1, Math.floor(share * this.found.tokens.length)));
      const [query, key] = [at((event.clientY - box.top) / box.height), at((event.clientX - box.left) / box.width)];
      const { layer, head } = this.chosen;
      this.spot = key <= query ? { query, key, weight: layer.weight(head, query, key) } : null;
    },
    visible: (token) => token.replaceAll("\n", "⏎").replaceAll(" ", "␣") || "∅",
  },
};
