import { watch as observe } from "vue";
import { binaryAxis, line, makeChart, timeAxis, tooltip, valueAxis } from "headcount/charts.js";
import { bytes, count, durationText, significant } from "headcount/format.js";
import { live, newest, series, watch } from "headcount/live.js";

const area = (name, colorName, read) => ({ name, colorName, read, more: { stack: "kv", areaStyle: { opacity: 0.75 }, lineStyle: { width: 0 } } });
const plain = (name, colorName, read, more = {}) => ({ name, colorName, read, more });
const dashed = { lineStyle: { width: 2, type: "dashed" } };

/** Each chart: how its numbers are written, and its lines. */
const CHARTS = [
  {
    title: "KV cache",
    format: bytes,
    lines: [
      area("filled", "filled", (point) => point.filled),
      area("waste", "wasted", (point) => point.wasted),
      area("cached", "cached", (point) => point.cached),
      plain("total", "muted", (point) => point.total, { lineStyle: { width: 1, type: "dashed" } }),
    ],
  },
  {
    title: "Tokens a second",
    format: significant,
    lines: [
      plain("generation", "gqa", (point) => point.generationRate),
      plain("prompt", "wasted", (point) => point.promptRate),
    ],
  },
  {
    title: "Latency",
    note: "over the last minute, read from the histograms",
    format: durationText,
    lines: [
      plain("first token, median", "mha", (point) => point.ttft50),
      plain("first token, 95 %", "mha", (point) => point.ttft95, dashed),
      plain("between tokens, median", "gqa", (point) => point.itl50),
      plain("between tokens, 95 %", "gqa", (point) => point.itl95, dashed),
    ],
  },
  {
    title: "Requests",
    format: count,
    lines: [
      plain("running", "gqa", (point) => point.requests_running, { step: "end" }),
      plain("waiting", "wasted", (point) => point.requests_waiting, { step: "end" }),
      plain("preempted so far", "mha", (point) => point.preemptions_total, { step: "end" }),
    ],
  },
];

/** The whole cache; where only a small part of it is ever taken, that part, so that it can be seen. */
function cacheHeight() {
  const most = Math.max(0, ...series.value.map((point) => point.used + point.cached));
  const total = newest.value?.total ?? 0;
  return most > total / 4 ? total : Math.max(most * 1.2, total / 256);
}

function option({ format, lines }) {
  const whole = format === count ? { minInterval: 1 } : {};
  return {
    xAxis: timeAxis(),
    yAxis: format === bytes ? binaryAxis(bytes, cacheHeight()) : valueAxis(format, whole),
    tooltip: tooltip({ valueFormatter: (value) => (value == null ? "–" : format(value)) }),
    series: lines.map(({ name, colorName, read, more }) =>
      line(name, colorName, series.value.map((point) => [point.at * 1000, read(point)]), more),
    ),
  };
}

export default {
  template: `
    <section class="columns" aria-label="The last five minutes">
      <figure v-for="chart in charts" class="panel">
        <figcaption class="panel-head"><h2>{{ chart.title }}</h2><span class="note">{{ chart.note ?? 'last five minutes' }}<template v-if="chart.format === bytes && newest">, of {{ bytes(newest.total) }}</template></span></figcaption>
        <div class="chart" ref="canvas"></div>
        <div class="inline-legend">
          <span v-for="one in chart.lines"><i :style="swatch(one)"></i>{{ one.name }}</span>
        </div>
      </figure>
    </section>`,
  setup: () => ({ charts: CHARTS, live, newest }),
  mounted() {
    watch();
    this.drawn = CHARTS.map((chart, place) => makeChart(this.$refs.canvas[place], () => option(chart)));
    this.stop = observe(series, () => this.drawn.forEach((chart) => chart.draw()), { flush: "post" });
  },
  unmounted() {
    this.stop();
    this.drawn.forEach((chart) => chart.dispose());
  },
  methods: {
    bytes,
    swatch({ colorName, more }) {
      const isDashed = more.lineStyle?.type === "dashed";
      return isDashed
        ? { height: 0, width: "14px", borderTop: `2px dashed var(--${colorName})`, borderRadius: 0, boxShadow: "none" }
        : { background: `var(--${colorName})` };
    },
  },
};
