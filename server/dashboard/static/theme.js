// Dark or light: what the person chose, else what the system says. Charts listen, because a canvas has no style sheet.

import { ref } from "vue";

const STORE = "headcount.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export const isDark = ref(false);

function apply() {
  const chosen = localStorage.getItem(STORE);
  isDark.value = chosen ? chosen === "dark" : system.matches;
  document.documentElement.dataset.theme = isDark.value ? "dark" : "light";
}

export function toggleTheme() {
  localStorage.setItem(STORE, isDark.value ? "light" : "dark");
  apply();
}

/** The value of a variable of theme.css now, e.g. color("gqa"). */
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

system.addEventListener("change", apply);
apply();
