// ECharts in the page's own look.

import { echarts } from "nicegui-echart";
import { watch } from "vue";
import { color, isDark } from "headcount/theme.js";

/** A chart in `element`, drawn by `build()`: again with `draw()`, on every change of theme, and at every size. */
export function makeChart(element, build) {
  const chart = echarts.init(element, null, { renderer: "canvas" });
  const draw = () => chart.setOption({ ...base(), ...build() }, { replaceMerge: ["series"] });
  const resizing = new ResizeObserver(() => chart.resize());
  resizing.observe(element);
  const stop = watch(isDark, draw, { flush: "post" });
  draw();
  return {
    draw,
    dispose() {
      stop();
      resizing.disconnect();
      chart.dispose();
    },
  };
}

function base() {
  return {
    animation: false,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: color("muted") },
    grid: { left: 8, right: 14, top: 14, bottom: 4, containLabel: true },
    tooltip: tooltip(),
  };
}

export function tooltip(more = {}) {
  return {
    trigger: "axis",
    backgroundColor: color("panel"),
    borderColor: color("line-strong"),
    textStyle: { color: color("ink"), fontSize: 12.5 },
    axisPointer: { lineStyle: { color: color("line-strong") }, label: { show: false } },
    confine: true,
    ...more,
  };
}

const text = (size = 12) => ({ color: color("muted"), fontSize: size });

export function timeAxis() {
  return {
    type: "time",
    axisLine: { lineStyle: { color: color("line-strong") } },
    axisTick: { show: false },
    axisLabel: { ...text(), hideOverlap: true, formatter: "{HH}:{mm}:{ss}" },
    splitLine: { show: false },
    splitNumber: 3,
  };
}

export function valueAxis(format, more = {}) {
  return {
    type: "value",
    axisLabel: { ...text(), formatter: format },
    splitLine: { lineStyle: { color: color("line") } },
    splitNumber: 3,
    min: 0,
    ...more,
  };
}

/** An axis of bytes, or of other things that come in powers of two: its marks do, too. */
export function binaryAxis(format, largest, more = {}) {
  const interval = largest > 0 ? 2 ** Math.ceil(Math.log2(largest / 4)) : 1;
  return valueAxis(format, { interval, max: Math.max(interval, Math.ceil(largest / interval) * interval), ...more });
}

export function categoryAxis(names, more = {}) {
  return {
    type: "category",
    data: names,
    axisLine: { lineStyle: { color: color("line-strong") } },
    axisTick: { show: false },
    axisLabel: { ...text(), interval: 0 },
    ...more,
  };
}

export function line(name, colorName, data, more = {}) {
  return { type: "line", name, data, showSymbol: false, color: color(colorName), lineStyle: { width: 2 }, connectNulls: false, ...more };
}
