import { computed, watch as observe } from "vue";
import { binaryAxis, categoryAxis, makeChart, tooltip, valueAxis } from "headcount/charts.js";
import { bytes, count, significant, times } from "headcount/format.js";
import { HeadPicture } from "headcount/heads.js";
import { loaded, live, modelRates, modelRatesNow, watch } from "headcount/live.js";
import { color } from "headcount/theme.js";

/** Each chart: what its bars show, and how that is written. */
const CHARTS = [
  { title: "A token takes", read: (row) => row.bytes_per_token, format: bytes },
  { title: "Tokens that fit", read: (row) => row.tokens, format: count },
  { title: "Requests of the longest context", read: (row) => row.requests_of_max_model_len, format: count },
  { title: "Generated, tok/s at best", read: (row) => row.rate, format: significant, isMeasured: true },
];

/** Most KV heads first, as everywhere on this page. */
const served = computed(() => [...loaded.value].sort((one, other) => other.geometry.num_kv_heads - one.geometry.num_kv_heads));

/** The what-if rows of every served model; its own row carries what was measured. */
function rowsOf(entry) {
  return entry.what_if.map((row) => ({
    ...row,
    model: entry.model,
    isActual: row.label === "actual",
    rate: row.label === "actual" ? (modelRates.value[entry.model] ?? null) : null,
    queries: entry.geometry.num_q_heads,
    name: row.label === "actual" ? entry.model : `${entry.model}\nwith ${row.num_kv_heads}`,
  }));
}

function option({ read, format }, rows) {
  const data = rows.map((row) => ({
    value: read(row),
    itemStyle: row.isActual
      ? { color: color(row.attention_type) }
      : { color: "transparent", borderColor: color(row.attention_type), borderWidth: 1.5, borderType: "dashed" },
  }));
  const label = { show: rows.length <= 6, position: "top", color: color("ink"), fontSize: 11.5, formatter: ({ value }) => (value == null ? "not measured" : format(value)) };
  return {
    grid: { left: 8, right: 8, top: 24, bottom: 4, containLabel: true },
    xAxis: categoryAxis(rows.map(({ name, num_kv_heads }) => name.includes("\n") ? name : `${name}\n${num_kv_heads} KV`), { axisLabel: { color: color("muted"), fontSize: 11, interval: 0, hideOverlap: true, lineHeight: 15 } }),
    yAxis: format === bytes ? binaryAxis(bytes, Math.max(0, ...rows.map(read))) : valueAxis(format),
    tooltip: tooltip({ axisPointer: { type: "none" }, valueFormatter: (value) => (value == null ? "not measured: not served" : format(value)) }),
    series: [{ type: "bar", name: "", data, label, barMaxWidth: 46, barCategoryGap: "30%" }],
  };
}

export default {
  components: { HeadPicture },
  template: `
    <section class="stack">
      <div v-if="live.problem" class="banner bad" role="alert"><b>{{ live.problem }}</b></div>
      <div v-else-if="live.isLoaded && !loaded.length" class="banner"><b>No model is ready yet.</b></div>
      <div v-if="loaded.length" class="pictures">
        <figure v-for="entry in loaded" class="panel">
          <figcaption class="panel-head"><h2>{{ entry.model }}</h2><span class="kind" :class="entry.attention_type">{{ entry.attention_type.toUpperCase() }}</span></figcaption>
          <head-picture :queries="entry.geometry.num_q_heads" :kv="entry.geometry.num_kv_heads" />
          <p class="figure-line"><b>{{ bytes(entry.geometry.bytes_per_token) }}</b> <span class="muted">a token, so&nbsp;</span><b>{{ count(entry.capacity.tokens) }}</b> <span class="muted">tokens in {{ bytes(entry.bytes.total) }}</span></p>
        </figure>
      </div>
      <div v-show="loaded.length" class="panel">
        <div class="panel-head">
          <h2>Served, and what if</h2>
          <div class="segments" role="group" aria-label="Which bars">
            <button v-if="loaded.length > 1" type="button" :aria-pressed="scope === ''" @click="scope = ''">Served variants</button>
            <button v-for="entry in loaded" type="button" :aria-pressed="shownScope === entry.model" @click="scope = entry.model">{{ entry.model }}</button>
          </div>
          <span class="note inline-legend"><span><i class="solid"></i>served</span><span><i class="dashed"></i>what if</span></span>
        </div>
        <div class="columns bars">
          <figure v-for="chart in charts"><h3>{{ chart.title }}</h3><div class="chart" ref="canvas" style="height: 190px"></div>
            <p v-if="chart.isMeasured && !shown.some(chart.read)" class="note chart-note">nothing was generated in the last five minutes</p></figure>
        </div>
        <div class="table-wrap" style="margin-top: 16px">
          <table class="figures">
            <thead><tr><th>Variant</th><th>KV heads</th><th>A token takes</th><th>Beside served</th><th>Tokens that fit</th>
              <th>Requests of the<br />longest context</th><th>Generated, tok/s<br />now</th></tr></thead>
            <tbody>
              <tr v-for="row in all" :class="{ actual: row.isActual }" :data-model="row.model" :data-kv="row.num_kv_heads" :data-label="row.label">
                <td><span class="kind" :class="row.attention_type">{{ row.attention_type.toUpperCase() }}</span> {{ row.isActual ? row.model : 'what if' }}</td>
                <td>{{ row.num_kv_heads }}</td><td :data-value="row.bytes_per_token">{{ bytes(row.bytes_per_token) }}</td><td>{{ times(row.ratio) }}</td>
                <td :data-value="row.tokens">{{ count(row.tokens) }}</td><td>{{ count(row.requests_of_max_model_len) }}</td>
                <td>{{ row.isActual ? significant(now[row.model]) : '' }}</td>
              </tr>
            </tbody>
          </table>
        </div>
      </div>
      <div v-if="!live.isLoaded" class="skeleton" style="min-height: 300px"></div>
    </section>`,
  data: () => ({ scope: "", charts: CHARTS }),
  setup: () => ({ live, loaded: served }),
  mounted() {
    watch();
    this.drawn = CHARTS.map((chart, place) => makeChart(this.$refs.canvas[place], () => option(chart, this.shown)));
    this.stop = observe(() => this.shown, () => this.drawn.forEach((chart) => chart.draw()), { flush: "post" });
  },
  unmounted() {
    this.stop();
    this.drawn.forEach((chart) => chart.dispose());
  },
  computed: {
    all: () => served.value.flatMap(rowsOf),
    shownScope() {
      return this.scope || (served.value.length === 1 ? served.value[0].model : "");
    },
    shown() {
      const rows = this.all;
      return this.shownScope ? rows.filter(({ model }) => model === this.shownScope) : rows.filter(({ isActual }) => isActual);
    },
    now: () => modelRatesNow.value,
  },
  methods: { bytes, count, significant, times },
};
