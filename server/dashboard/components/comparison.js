import { watch as observe } from "vue";
import { AdminKey, needsAdminKey } from "headcount/adminKey.js";
import { events, get, post, remove } from "headcount/api.js";
import { binaryAxis, categoryAxis, makeChart, tooltip, valueAxis } from "headcount/charts.js";
import { bytes, count, durationText, percent, significant } from "headcount/format.js";
import { attentionType } from "headcount/heads.js";
import { loaded, watch } from "headcount/live.js";
import { color } from "headcount/theme.js";

const MIB = 1 << 20;
const PHASES = { build: "making its checkpoint", start: "starting its engine", capacity: "filling the cache", load: "under load" };
const NUMBERS = [
  { name: "budget", label: "KV budget, MiB", min: 1 },
  { name: "prompt_tokens", label: "Prompt tokens", min: 1 },
  { name: "max_tokens", label: "Answer tokens", min: 2 },
  { name: "num_requests", label: "Requests", min: 1 },
  { name: "concurrency", label: "At once", min: 1 },
];

/** Each chart: one bar or two for a variant. */
const CHARTS = [
  {
    title: "Requests that fit, planned and reached",
    format: count,
    bars: [
      { name: "planned", read: (one) => one.planned.num_requests, isPlan: true },
      { name: "reached", read: (one) => one.num_requests_reached },
    ],
  },
  { title: "A token takes", format: bytes, bars: [{ name: "bytes", read: (one) => one.planned.kv_bytes_per_token }] },
  { title: "Generated under load, tok/s", format: significant, bars: [{ name: "tok/s", read: (one) => one.load.output_tokens_per_s }] },
  { title: "First token, median", format: durationText, bars: [{ name: "seconds", read: (one) => one.load.ttft_s.p50 }] },
];

function option({ format, bars }, variants) {
  const names = variants.map(({ planned }) => `${planned.attention_type.toUpperCase()}\n${planned.num_kv_heads} KV`);
  const series = bars.map(({ name, read, isPlan }) => ({
    type: "bar",
    name,
    barMaxWidth: 40,
    barGap: "12%",
    label: { show: true, position: "top", color: color("ink"), fontSize: 11.5, formatter: ({ value }) => format(value) },
    data: variants.map((one) => {
      const own = color(one.planned.attention_type);
      return { value: read(one), itemStyle: isPlan ? { color: "transparent", borderColor: own, borderWidth: 1.5, borderType: "dashed" } : { color: own } };
    }),
  }));
  return {
    grid: { left: 8, right: 8, top: 24, bottom: 4, containLabel: true },
    xAxis: categoryAxis(names, { axisLabel: { color: color("muted"), fontSize: 11.5, interval: 0, lineHeight: 15 } }),
    yAxis: format === bytes ? binaryAxis(bytes, Math.max(0, ...variants.map(bars[0].read))) : valueAxis(format),
    tooltip: tooltip({ axisPointer: { type: "none" }, valueFormatter: format }),
    series,
  };
}

export default {
  components: { AdminKey },
  template: `
    <section class="panel stack" data-test="comparison">
      <div class="panel-head" style="margin: 0"><h2>Measure it</h2>
        <span class="note">each variant alone, the same memory and the same load, one after the other; what is served goes on</span></div>
      <admin-key v-if="isLocked" @given="refresh" />
      <p v-if="problem" class="banner bad" role="alert">{{ problem }}</p>
      <form v-if="loaded.length && !isLocked" class="compare-form" @submit.prevent="start">
        <label class="field">Model<select class="input" v-model="form.model"><option v-for="one in loaded">{{ one.model }}</option></select></label>
        <div class="field">KV heads
          <span class="row" style="min-height: 38px"><label v-for="number in possible" class="check"><input type="checkbox" :value="number" v-model="form.num_kv_heads"
            :disabled="number === own" />{{ number }}</label></span></div>
        <label class="field">Fewer heads by<select class="input" v-model="form.method"><option>mean</option><option>first</option><option>aligned</option></select></label>
        <label v-for="field in numbers" class="field">{{ field.label }}<input class="input" type="number" required step="1" :min="field.min" :name="field.name" v-model.number="form[field.name]" /></label>
        <div class="row compare-buttons">
          <button class="button primary" type="submit" :disabled="isRunning" data-test="start">Run a comparison</button>
          <button v-if="isRunning" class="button stop" type="button" @click="stop">Stop</button>
        </div>
      </form>
      <div v-if="isRunning" class="stack" style="gap: 8px" data-test="progress">
        <div v-for="number in record.num_kv_heads" class="step">
          <span class="kind" :class="kindOf(number)">{{ kindOf(number).toUpperCase() }} {{ number }}</span>
          <span class="track"><span :style="{ width: 100 * shareOf(number) + '%', background: 'var(--' + kindOf(number) + ')' }"></span></span>
          <span class="note">{{ stateOf(number) }}</span>
        </div>
      </div>
      <div v-show="variants.length" class="stack">
        <div class="columns bars">
          <figure v-for="chart in charts"><h3>{{ chart.title }}</h3><div class="chart" ref="canvas" style="height: 200px"></div></figure>
        </div>
        <div class="table-wrap">
          <table class="figures">
            <thead><tr><th>Variant</th><th>A token takes</th><th>Tokens<br />that fit</th><th>Requests<br />planned</th><th>reached</th><th>Generated<br />tok/s</th>
              <th>First token<br />median</th><th>Between tokens<br />median</th><th>CPU time<br />of the load</th><th>Read for<br />each token</th><th>Same tokens<br />as the source</th></tr></thead>
            <tbody>
              <tr v-for="one in variants" :data-kv="one.planned.num_kv_heads" :class="{ actual: one.planned.method === 'source' }">
                <td><span class="kind" :class="one.planned.attention_type">{{ one.planned.attention_type.toUpperCase() }}</span> {{ one.planned.num_kv_heads }} KV <span class="muted">{{ one.planned.method }}</span></td>
                <td>{{ bytes(one.planned.kv_bytes_per_token) }}</td><td>{{ count(one.planned.num_tokens) }}</td>
                <td data-field="planned" :data-value="one.planned.num_requests">{{ count(one.planned.num_requests) }}</td>
                <td data-field="reached" :data-value="one.num_requests_reached">{{ count(one.num_requests_reached) }}</td>
                <td data-field="rate" :data-value="one.load.output_tokens_per_s">{{ significant(one.load.output_tokens_per_s) }}</td>
                <td>{{ durationText(one.load.ttft_s.p50) }}</td><td>{{ durationText(one.load.itl_s.p50) }}</td><td>{{ durationText(one.load_cpu_s) }}</td>
                <td>{{ bytes(one.kv_read_bytes_per_token) }}</td><td>{{ percent(one.tokens.equal_token_share) }}</td>
              </tr>
            </tbody>
          </table>
        </div>
        <p class="note" v-if="record && record.result">{{ circumstances }}</p>
      </div>
      <p v-if="!isRunning && !variants.length && !isLocked" class="empty">No comparison was made yet.</p>
      <div v-if="kept.length > 1" class="row"><span class="note">Earlier ones:</span>
        <div class="segments"><button v-for="one in kept.slice(0, 8)" type="button" :aria-pressed="one.id === record?.id" @click="open(one.id)" :disabled="isRunning">{{ nameOf(one) }}</button></div></div>
    </section>`,
  data: () => ({
    form: { model: "", num_kv_heads: [], method: "mean", budget: 64, prompt_tokens: 192, max_tokens: 64, num_requests: 32, concurrency: 16 },
    record: null,
    variants: [],
    progress: {},
    kept: [],
    problem: null,
    isLocked: false,
    numbers: NUMBERS,
    charts: CHARTS,
  }),
  setup: () => ({ loaded }),
  mounted() {
    watch();
    this.drawn = CHARTS.map((chart, place) => makeChart(this.$refs.canvas[place], () => option(chart, this.variants)));
    this.stopDrawing = observe(() => this.variants, () => this.drawn.forEach((chart) => chart.draw()), { flush: "post", deep: 1 });
    this.refresh();
  },
  unmounted() {
    this.stopDrawing();
    this.watching?.abort();
    this.drawn.forEach((chart) => chart.dispose());
  },
  watch: {
    loaded: {
      immediate: true,
      handler(entries) {
        if (!entries.some(({ model }) => model === this.form.model) && entries.length) this.form.model = entries[0].model;
      },
    },
    "form.model": function chooseHeads() {
      this.form.num_kv_heads = this.possible;
    },
  },
  computed: {
    entry() {
      return loaded.value.find(({ model }) => model === this.form.model);
    },
    own() {
      return this.entry?.geometry.num_kv_heads;
    },
    /** Numbers of heads that the model's own can be repeated or pooled to. */
    possible() {
      const numbers = this.entry?.what_if.map((row) => row.num_kv_heads) ?? [];
      return numbers.filter((number) => number % this.own === 0 || this.own % number === 0);
    },
    isRunning() {
      return this.record?.state === "running";
    },
    circumstances() {
      const { device, wall_s, num_other_requests, load_average, request_tokens } = this.record.result;
      const others = num_other_requests ? `, beside ${count(num_other_requests)} other requests` : "";
      return `Requests of ${count(request_tokens)} tokens on ${device.device}, ${device.dtype}, in ${durationText(wall_s)}${others}; load of the machine at the end ${load_average[0].toFixed(1)}.`;
    },
  },
  methods: {
    bytes,
    count,
    durationText,
    percent,
    significant,
    kindOf(number) {
      const found = this.entry?.what_if.find((row) => row.num_kv_heads === number);
      return found?.attention_type ?? attentionType(0, number);
    },
    shareOf(number) {
      if (this.variants.some(({ planned }) => planned.num_kv_heads === number)) return 1;
      const at = this.progress[number];
      return at ? (Object.keys(PHASES).indexOf(at.phase) + at.num_done / Math.max(1, at.num_total)) / 4 : 0;
    },
    stateOf(number) {
      if (this.variants.some(({ planned }) => planned.num_kv_heads === number)) return "done";
      const at = this.progress[number];
      return at ? `${PHASES[at.phase]}, ${at.num_done} of ${at.num_total}` : "waits";
    },
    nameOf: ({ model, created, state }) =>
      `${model}, ${new Date(created * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}${state === "done" ? "" : `, ${state}`}`,
    async refresh() {
      await this.attempt(async () => {
        this.kept = (await get("/v1/compare", { isAdmin: true })).data;
        const newest = this.kept.find(({ state }) => state === "running") ?? this.kept.find(({ state }) => state === "done");
        if (newest) await this.open(newest.id);
      });
    },
    async start() {
      await this.attempt(async () => {
        const { budget, ...fields } = this.form;
        const record = await post("/v1/compare", { ...fields, kv_cache_memory_bytes: budget * MIB }, { isAdmin: true });
        await this.follow(record);
      });
    },
    async open(id) {
      const record = await get(`/v1/compare/${id}`, { isAdmin: true });
      if (record.state === "running") {
        await this.follow(record);
        return;
      }
      this.record = record;
      this.variants = record.result?.variants ?? [];
      this.problem = record.error;
    },
    /** Watch one until it ends; then its whole result, and the list anew. */
    async follow(record) {
      Object.assign(this, { record, variants: [], progress: {}, problem: null });
      this.watching = new AbortController();
      for await (const { data } of events(`/v1/compare/${record.id}/events`, { isAdmin: true, signal: this.watching.signal })) {
        if (data.type === "progress") this.progress[data.num_kv_heads] = data;
        if (data.type === "variant") this.variants = [...this.variants, data].sort((one, other) => other.planned.num_kv_heads - one.planned.num_kv_heads);
      }
      await this.open(record.id);
      this.kept = (await get("/v1/compare", { isAdmin: true })).data;
    },
    async stop() {
      await this.attempt(() => remove(`/v1/compare/${this.record.id}`, { isAdmin: true }));
    },
    async attempt(action) {
      try {
        this.isLocked = false;
        await action();
      } catch (error) {
        if (error.name === "AbortError") return;
        if (needsAdminKey(error)) this.isLocked = true;
        else this.problem = error.message;
      }
    },
  },
};
