// Numbers as every page writes them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const NONE = "–";

/** `22.5 KiB`; bytes below 1 KiB are whole. */
export function bytes(number) {
  if (number == null || !Number.isFinite(number)) return NONE;
  const size = Math.abs(number);
  const power = size < 1024 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(size) / 10));
  return `${significant(number / 1024 ** power)} ${UNITS[power]}`;
}

/** `23,040`. */
export function count(number) {
  return number == null || !Number.isFinite(number) ? NONE : Math.round(number).toLocaleString("en-US");
}

/** Three digits that matter, and no more: `0.42`, `8.15`, `86.2`, `1,240`. */
export function significant(number) {
  if (number == null || !Number.isFinite(number)) return NONE;
  const size = Math.abs(number);
  const digits = size === 0 || size >= 100 || Number.isInteger(number) ? 0 : size >= 10 ? 1 : 2;
  return number.toLocaleString("en-US", { minimumFractionDigits: 0, maximumFractionDigits: digits });
}

/** Three digits however small the number is: `0.00123`. */
export const digits = (number) => (Number.isFinite(number) ? String(Number(number.toPrecision(3))) : NONE);

/** `840 µs`, `12.4 ms`, `1.82 s`, as [number, unit]. */
export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return [NONE, ""];
  if (seconds === 0) return ["0", "s"];
  if (seconds < 0.001) return [significant(seconds * 1e6), "µs"];
  if (seconds < 1) return [significant(seconds * 1e3), "ms"];
  return [significant(seconds), "s"];
}

export const durationText = (seconds) => duration(seconds).join(" ").trim();

/** `43.1 %`. */
export function percent(share) {
  return share == null || !Number.isFinite(share) ? NONE : `${significant(share * 100)} %`;
}

/** `3.00×`. */
export const times = (ratio) => `${ratio.toFixed(2)}×`;

/** `32K`, `8,000`: lengths of contexts. */
export function tokens(number) {
  return number >= 1024 && number % 1024 === 0 ? `${count(number / 1024)}K` : count(number);
}
