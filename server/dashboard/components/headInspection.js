import { count, digits } from "headcount/format.js";
import { FIGURES } from "headcount/headFigures.js";
import { HeadGrid, HeadTitle } from "headcount/headGrid.js";
import { HeadPairs } from "headcount/headPairs.js";
import { PAIRS, readInspection } from "headcount/inspection.js";

export default {
  components: { HeadGrid, HeadPairs, HeadTitle },
  template: `
    <section class="stack">
      <div class="panel row">
        <div class="inspection-about">
          <h2>An inspection, with importance</h2>
          <p class="note">Importance needs gradients, which serving does without: <code>headcount heads inspect MODEL --text … --json FILE</code> computes it, with all the other figures. The file is read in this browser and sent nowhere.</p>
        </div>
        <button class="button" type="button" @click="$refs.file.click()">Open a file…</button>
        <input ref="file" type="file" accept=".json,application/json" hidden aria-label="Inspection" @change="open" />
      </div>
      <p v-if="problem" class="banner bad" role="alert">{{ problem }}</p>
      <div v-if="found" class="heads-layout" data-test="inspection">
        <head-grid :title="found.model + ': ' + found.layers.length + ' layers, ' + count(found.num_tokens) + ' tokens'" :layers="found.layers" :figures="figures"
          :figure="figure" :values="values" :num-tokens="windowTokens" :chosen="chosen" @show="figure = $event" @choose="choose" />
        <div class="panel heads-one" data-test="inspected-head">
          <head-title v-bind="chosen" @choose="choose" />
          <div class="stack">
            <dl class="facts">
              <div v-for="name in figures"><dt>{{ FIGURES[name].title }}</dt><dd :data-value="ofHead[name]" :title="ofHead[name]">{{ digits(ofHead[name]) }}</dd></div>
            </dl>
            <h3>The heads of layer {{ chosen.layer.layer_idx }}, each beside each</h3>
            <div class="pictures"><head-pairs v-for="(one, name) in PAIRS" v-bind="one" :layer="chosen.layer" :values="chosen.layer[name]" /></div>
          </div>
        </div>
      </div>
    </section>`,
  data: () => ({ found: null, chosen: null, figure: "importance", problem: null, figures: Object.keys(FIGURES) }),
  setup: () => ({ FIGURES, PAIRS }),
  computed: {
    values() {
      return this.found.layers.map(({ heads }) => heads.map((head) => head[this.figure]));
    },
    windowTokens() {
      return Math.min(this.found.window_tokens, this.found.num_tokens);
    },
    ofHead() {
      return this.chosen.layer.heads[this.chosen.head];
    },
  },
  methods: {
    count,
    digits,
    async open({ target }) {
      const [file] = target.files;
      if (!file) return;
      this.problem = null;
      try {
        const found = Object.freeze(await readInspection(file));
        this.choose(found.layers[0], 0);
        this.found = found;
      } catch (error) {
        this.problem = error.message;
      }
      // The same file, written anew, can be opened again.
      target.value = "";
    },
    choose(layer, head) {
      this.chosen = { layer: Object.freeze(layer), head };
    },
  },
};
