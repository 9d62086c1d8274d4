import { bytes, count, duration, percent, significant } from "headcount/format.js";
import { live, newest, watch } from "headcount/live.js";

/** What stands in each tile: a figure, its unit, and a line below. */
function tiles(now) {
  const [ttft, ttftUnit] = duration(now.ttft50);
  const [itl, itlUnit] = duration(now.itl50);
  const below = (seconds) => (seconds === null ? "none in a minute" : `95 %: ${duration(seconds).join(" ")}`);
  return [
    { name: "Generation", value: significant(now.generationRate), unit: "tok/s", sub: `${count(now.generation_tokens_total)} so far`, exact: now.generation_tokens_total, test: "generated" },
    { name: "Prompt", value: significant(now.promptRate), unit: "tok/s", sub: `${count(now.prompt_tokens_total)} so far`, exact: now.prompt_tokens_total, test: "prompted" },
    { name: "First token", value: ttft, unit: ttftUnit, sub: below(now.ttft95), test: "ttft" },
    { name: "Between tokens", value: itl, unit: itlUnit, sub: below(now.itl95), test: "itl" },
    { name: "Running", value: count(now.requests_running), sub: `${count(now.requests_waiting)} waiting`, exact: now.requests_running, test: "running" },
    { name: "Preempted", value: count(now.preemptions_total), sub: "since the start", exact: now.preemptions_total, test: "preempted" },
    { name: "KV cache in use", value: percent(now.used / now.total).replace(" %", ""), unit: "%", sub: `${bytes(now.used)} of ${bytes(now.total)}`, exact: now.used, test: "used" },
  ];
}

export default {
  template: `
    <section class="stack" aria-label="Now">
      <div v-if="live.problem" class="banner bad" role="alert"><b>{{ live.problem }}</b> The figures below are the last that came.</div>
      <div v-for="entry in broken" class="banner bad" role="alert"><b>{{ entry.model }} cannot be served.</b> {{ entry.failure }}</div>
      <div class="row" v-if="live.models.length > 1">
        <div class="segments" role="group" aria-label="Model">
          <button type="button" :aria-pressed="live.selected === ''" @click="live.selected = ''">All models</button>
          <button v-for="entry in live.models" type="button" :aria-pressed="live.selected === entry.model" @click="live.selected = entry.model">{{ entry.model }}</button>
        </div>
      </div>
      <dl v-if="newest" class="stats">
        <div v-for="tile in tiles" class="stat" :data-test="tile.test" :data-value="tile.exact">
          <dt>{{ tile.name }}</dt>
          <dd>{{ tile.value }}<small v-if="tile.unit">{{ tile.unit }}</small></dd>
          <div class="sub">{{ tile.sub }}</div>
        </div>
      </dl>
      <div v-else-if="!live.isLoaded" class="skeleton"></div>
    </section>`,
  setup: () => ({ live, newest }),
  mounted: watch,
  computed: {
    tiles: () => tiles(newest.value),
    broken: () => live.models.filter((entry) => entry.failure),
  },
};
