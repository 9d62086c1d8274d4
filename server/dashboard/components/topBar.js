import { live, watch } from "headcount/live.js";
import { isDark, toggleTheme } from "headcount/theme.js";

/** The state of all engines in one word, worst first. */
function summary() {
  if (live.problem) return { kind: "bad", text: "unreachable", title: live.problem };
  if (!live.isLoaded) return { kind: "", text: "connecting", title: "" };
  const state = (wanted) => live.models.filter((entry) => entry.state === wanted).map((entry) => entry.model);
  const away = live.models.filter((entry) => entry.state !== "ready");
  if (!away.length) return { kind: "good", text: "ready", title: "Every engine answers" };
  const isLoading = state("loading").length === away.length;
  const title = away.map((entry) => `${entry.model}: ${entry.failure ?? entry.state}`).join("\n");
  return { kind: isLoading ? "warn" : "bad", text: isLoading ? "loading" : `${away.length} of ${live.models.length} down`, title };
}

export default {
  template: `
    <header class="bar">
      <div class="bar-inner">
        <a class="brand" href="/">
          <svg viewBox="0 0 24 24" aria-hidden="true">
            <g fill="var(--gqa)"><circle cx="5" cy="6" r="3"/><circle cx="12" cy="6" r="3"/><circle cx="19" cy="6" r="3"/></g>
            <path d="M5 9v4.5M12 9v4.5M19 9v4.5" stroke="var(--gqa)" stroke-width="1.6"/>
            <rect x="2" y="13.5" width="20" height="7" rx="2.4" fill="var(--wasted)"/>
          </svg>
          headcount
        </a>
        <nav aria-label="Pages">
          <a v-for="page in pages" :href="page.path" :aria-current="page.path === current ? 'page' : undefined">{{ page.title }}</a>
        </nav>
        <span class="spacer"></span>
        <span class="chip" :class="state.kind" :title="state.title" data-test="state">{{ state.text }}</span>
        <button class="icon-button" type="button" :aria-label="isDark ? 'Light colours' : 'Dark colours'" @click="toggleTheme">
          <svg v-if="isDark" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round">
            <circle cx="12" cy="12" r="4.2"/>
            <path d="M12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6l1.4 1.4M17 17l1.4 1.4M18.4 5.6 17 7M7 17l-1.4 1.4"/>
          </svg>
          <svg v-else viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linejoin="round">
            <path d="M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z"/>
          </svg>
        </button>
      </div>
    </header>`,
  props: { pages: Array, current: String },
  setup: () => ({ isDark, toggleTheme }),
  mounted: watch,
  computed: { state: summary },
};
