import { AdminKey, needsAdminKey } from "headcount/adminKey.js";
import { post } from "headcount/api.js";
import { READ_OFF, readOff, unpack } from "headcount/attention.js";
import { FIGURES } from "headcount/headFigures.js";
import { HeadGrid, HeadTitle } from "headcount/headGrid.js";
import { HeadMap } from "headcount/headMap.js";
import { HeadView } from "headcount/headView.js";
import { inductionScores } from "headcount/induction.js";
import { loaded, live, watch } from "headcount/live.js";

const EXAMPLE = "The cat that sat on the mat was tired, so the cat went to sleep.";
const SHOWN = Object.keys(FIGURES).filter((name) => name in READ_OFF || name === "induction");

export default {
  components: { AdminKey, HeadGrid, HeadMap, HeadTitle, HeadView },
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
      <div v-if="found" class="heads-layout" data-test="attention">
        <head-grid :title="found.model + ': ' + found.layers.length + ' layers, ' + found.tokens.length + ' tokens'" :layers="found.layers" :figures="shown"
          :figure="figure" :values="values" :num-tokens="found.tokens.length" :chosen="chosen" @show="show" @choose="choose">
          <template #map="{ layer, head, kind }"><head-map :layer="layer" :head="head" :num-tokens="found.tokens.length" :kind="kind" /></template>
        </head-grid>
        <div v-if="chosen" class="panel heads-one" data-test="head">
          <head-title v-bind="chosen" @choose="choose" />
          <head-view v-bind="chosen" :tokens="found.tokens" />
        </div>
      </div>
    </section>`,
  data: () => ({ name: "", text: EXAMPLE, found: null, chosen: null, figure: "", values: null, problem: null, isBusy: false, isLocked: false, shown: SHOWN }),
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
  methods: {
    async look() {
      this.isBusy = true;
      await this.ask(async () => {
        const found = await post("/v1/heads/attention", { model: this.name, prompt: this.text }, { isAdmin: true });
        found.layers = found.layers.map((layer) => Object.freeze(unpack(layer, found.tokens.length)));
        this.found = Object.freeze(found);
        this.choose(found.layers[Math.min(1, found.layers.length - 1)], 0);
        await this.show(this.figure);
      });
      this.isBusy = false;
    },
    choose(layer, head) {
      this.chosen = { layer, head };
    },
    /** Values come when they are first asked for; those of a text or figure that was left meanwhile are dropped. */
    async show(figure) {
      const found = this.found;
      this.figure = figure;
      this.values = null;
      if (!figure) return;
      await this.ask(async () => {
        const values = figure === "induction" ? await inductionScores(found.model, found.layers) : await readOff(figure, found);
        if (this.found === found && this.figure === figure) this.values = Object.freeze(values);
      });
    },
    /** Say what went wrong, or ask for the key that is missing. */
    async ask(action) {
      this.problem = null;
      this.isLocked = false;
      try {
        await action();
      } catch (error) {
        if (needsAdminKey(error)) this.isLocked = true;
        else this.problem = error.message;
      }
    },
  },
};
