import { watch as observe } from "vue";
import { post } from "headcount/api.js";
import { binaryAxis, line, makeChart, tooltip } from "headcount/charts.js";
import { bytes, count, tokens } from "headcount/format.js";
import { kindsOfLayers } from "headcount/heads.js";
import { live, loaded, watch } from "headcount/live.js";
import { color } from "headcount/theme.js";

const DTYPES = ["float32", "bfloat16", "float16", "fp8_e4m3", "int8"];
const CURVE_POINTS = 8;
const STEP = 64;
const NARROW_PX = 480;
const WAIT_MS = 120;
const MARKS = ["circle", "rect", "triangle", "diamond"];

/** What POST /v1/kv/plan is asked about a served model: its layers, and its KV pool as the memory. */
function planBody(entry, dtype, context) {
  const { geometry } = entry;
  const layers = kindsOfLayers(geometry).map(({ num_layers, num_q_heads, num_kv_heads, sliding_window }) => {
    const like = geometry.layers?.find((layer) => layer.num_kv_heads === num_kv_heads && layer.num_q_heads === num_q_heads);
    return { num_layers, num_q_heads, num_kv_heads, sliding_window, head_dim: like?.k_head_dim ?? geometry.head_dim, v_head_dim: like?.v_head_dim ?? null };
  });
  return { layers, dtype, block_size: geometry.block_size, memory_bytes: entry.bytes.total, context };
}

export default {
  template: `
    <section class="panel" v-show="loaded.length">
      <div class="panel-head">
        <h2>Memory against context</h2>
        <div class="segments" role="group" aria-label="Model" v-if="loaded.length > 1">
          <button v-for="one in loaded" type="button" :aria-pressed="one.model === name" @click="name = one.model">{{ one.model }}</button>
        </div>
        <span class="note" v-if="entry">budget: its KV cache, {{ bytes(entry.bytes.total) }}</span>
      </div>
      <p v-if="problem" class="banner bad" role="alert">{{ problem }}</p>
      <div class="sliders" v-if="entry">
        <label class="field"><span>Context <output>{{ count(context) }} tokens</output></span>
          <input type="range" :min="step" :max="longest" :step="step" v-model.number="context" data-test="context" /></label>
        <label class="field"><span>Requests at once <output>{{ batch }}</output></span>
          <input type="range" min="1" max="128" v-model.number="batch" data-test="batch" /></label>
        <label class="field">Number format of the cache
          <select class="input" v-model="dtype" data-test="dtype"><option v-for="one in dtypes">{{ one }}</option></select></label>
      </div>
      <div class="chart" ref="canvas" style="height: 320px"></div>
      <div class="table-wrap" v-if="plan" style="margin-top: 14px">
        <table class="figures">
          <thead><tr><th>KV heads</th><th>A token takes</th><th>{{ batch }} × {{ count(context) }} tokens take</th><th>Of the budget</th>
            <th>Such requests<br />that fit</th><th>Longest single context</th></tr></thead>
          <tbody>
            <tr v-for="row in plan.rows" :class="{ actual: row.label === 'actual' }" :data-kv="row.num_kv_heads">
              <td><span class="kind" :class="row.attention_type">{{ row.attention_type.toUpperCase() }}</span> {{ row.num_kv_heads }}{{ row.label === 'actual' ? ', served' : '' }}</td>
              <td>{{ bytes(row.bytes_per_token) }}</td>
              <td :data-value="row.bytes_per_request * batch">{{ bytes(row.bytes_per_request * batch) }}</td>
              <td><span :style="{ color: batch <= row.num_requests ? 'var(--good)' : 'var(--bad)' }">{{ batch <= row.num_requests ? 'fits' : 'does not fit' }}</span></td>
              <td :data-value="row.num_requests">{{ count(row.num_requests) }}</td><td>{{ count(row.longest_context) }}</td>
            </tr>
          </tbody>
        </table>
      </div>
    </section>`,
  data: () => ({ name: "", context: 0, batch: 4, dtype: "", plan: null, curve: [], problem: null, dtypes: DTYPES, step: STEP }),
  setup: () => ({ live, loaded }),
  mounted() {
    watch();
    this.chart = makeChart(this.$refs.canvas, () => this.option());
    this.stop = observe(() => [this.curve, this.batch, this.context], () => this.chart.draw(), { flush: "post" });
  },
  unmounted() {
    this.stop();
    this.chart.dispose();
  },
  computed: {
    entry() {
      return loaded.value.find(({ model }) => model === this.name);
    },
    longest() {
      return Math.max(4096, this.entry?.max_model_len ?? 0);
    },
  },
  watch: {
    loaded: {
      immediate: true,
      handler(entries) {
        if (!entries.some(({ model }) => model === this.name) && entries.length) this.name = entries[0].model;
      },
    },
    name: {
      handler() {
        const { kv_cache_dtype: own } = this.entry.geometry;
        this.dtype = DTYPES.includes(own) ? own : "bfloat16";
        this.context = Math.floor(this.longest / 4 / STEP) * STEP;
        this.ask();
        this.askCurve();
      },
    },
    dtype() {
      this.ask();
      this.askCurve();
    },
    context: "ask",
  },
  methods: {
    bytes,
    count,
    /** The server's arithmetic for where the sliders are; after they have come to rest. */
    ask() {
      clearTimeout(this.timer);
      this.timer = setTimeout(async () => {
        try {
          this.plan = await post("/v1/kv/plan", planBody(this.entry, this.dtype, this.context));
          this.problem = null;
        } catch (error) {
          this.problem = error.message;
        }
      }, WAIT_MS);
    },
    /** The same for points along the axis. */
    async askCurve() {
      const { entry, dtype, longest } = this;
      const contexts = Array.from({ length: CURVE_POINTS }, (_, place) => Math.round((longest * (place + 1)) / CURVE_POINTS));
      try {
        const plans = await Promise.all(contexts.map((context) => post("/v1/kv/plan", planBody(entry, dtype, context))));
        if (entry.model !== this.name || dtype !== this.dtype) return;
        this.curve = plans[0].rows.map((row, place) => ({
          ...row,
          points: [[0, 0], ...plans.map(({ rows }, i) => [contexts[i], rows[place].bytes_per_request])],
        }));
      } catch (error) {
        this.problem = error.message;
      }
    },
    option() {
      const budget = this.entry?.bytes.total ?? 0;
      const isNarrow = this.$refs.canvas.clientWidth < NARROW_PX;
      const name = (row) => `${row.num_kv_heads} KV ${row.num_kv_heads === 1 ? "head" : "heads"}`;
      const lines = this.curve.map((row, place) =>
        line(name(row), row.attention_type, row.points.map(([x, size]) => [x, size * this.batch]), {
          lineStyle: { width: row.label === "actual" ? 3 : 1.8, type: row.label === "actual" ? "solid" : "dashed" },
          showSymbol: true,
          symbol: MARKS[place % MARKS.length],
          symbolSize: 7,
          endLabel: { show: true, color: color("ink"), fontSize: 12, formatter: isNarrow ? `${row.num_kv_heads} KV` : name(row) + (row.label === "actual" ? ", served" : "") },
        }),
      );
      const mark = (more) => ({ symbol: "none", silent: true, lineStyle: { color: color("ink"), width: 1.4, type: "solid" }, ...more });
      const budgetLine = mark({
        data: [{ yAxis: budget }],
        label: { formatter: `budget ${bytes(budget)}`, position: "insideStartTop", color: color("ink"), fontSize: 12 },
      });
      const here = mark({ data: [{ xAxis: this.context }], label: { show: false }, lineStyle: { color: color("faint"), type: "dotted", width: 1.5 } });
      const most = Math.max(budget, ...this.curve.flatMap(({ points }) => points.map(([, size]) => size * this.batch)));
      return {
        grid: { left: 8, right: isNarrow ? 44 : 118, top: 18, bottom: 26, containLabel: true },
        xAxis: { ...binaryAxis(tokens, this.longest), max: this.longest, splitLine: { show: false }, name: "tokens of context of each request", nameLocation: "middle", nameGap: 28, nameTextStyle: { color: color("muted"), fontSize: 12 } },
        yAxis: binaryAxis(bytes, Math.min(most, budget * 4)),
        tooltip: tooltip({ valueFormatter: bytes, axisPointer: { type: "line", label: { show: false } } }),
        series: [...lines, { type: "line", data: [], markLine: budgetLine }, { type: "line", data: [], markLine: here }],
      };
    },
  },
};
