// The fields of a generation request, as a form shows them. What is left empty is left out: the model's default holds.

const number = (name, label, hint, more = {}) => ({ name, label, hint, kind: "number", ...more });
const check = (name, label, initial) => ({ name, label, kind: "check", initial });

export const FIELDS = [
  {
    title: "Choice of tokens",
    fields: [
      number("temperature", "Temperature", "0 is greedy", { step: 0.1, min: 0 }),
      number("top_p", "Top p", "0 to 1", { step: 0.05, min: 0, max: 1 }),
      number("top_k", "Top k", "0: all", { step: 1 }),
      number("min_p", "Min p", "0 to 1", { step: 0.01, min: 0, max: 1 }),
      number("seed", "Seed", "drawn", { step: 1 }),
      number("n", "Answers (n)", "1", { step: 1, min: 1, max: 8 }),
    ],
  },
  {
    title: "Penalties",
    fields: [
      number("repetition_penalty", "Repetition", "1: none", { step: 0.05, min: 0 }),
      number("presence_penalty", "Presence", "-2 to 2", { step: 0.1, min: -2, max: 2 }),
      number("frequency_penalty", "Frequency", "-2 to 2", { step: 0.1, min: -2, max: 2 }),
      { name: "logit_bias", label: "Logit bias", hint: '{"1234": -100}', kind: "json" },
    ],
  },
  {
    title: "End",
    fields: [
      number("max_tokens", "Max tokens", "to the end", { step: 1, min: 1 }),
      number("min_tokens", "Min tokens", "0", { step: 1, min: 0 }),
      { name: "stop", label: "Stop texts, one a line", hint: "", kind: "lines" },
      { name: "stop_token_ids", label: "Stop token ids", hint: "2, 50256", kind: "ids" },
      check("ignore_eos", "Go on past end-of-text", false),
      check("include_stop_str_in_output", "Keep the stop text", false),
      check("skip_special_tokens", "Leave special tokens out", true),
    ],
  },
  {
    title: "Serving",
    fields: [
      number("priority", "Priority", "lower first", { step: 1 }),
      { name: "cache_salt", label: "Cache salt", hint: "share prefixes only with it", kind: "text" },
      { name: "more", label: "More fields, as JSON", hint: '{"response_format": …}', kind: "json" },
    ],
  },
];

const ALL = FIELDS.flatMap(({ fields }) => fields);

export const initialValues = () => Object.fromEntries(ALL.map(({ name, initial }) => [name, initial ?? ""]));

const READ = {
  number: Number,
  text: (text) => text,
  check: (value) => value,
  json: JSON.parse,
  lines: (text) => text.split("\n").filter(Boolean),
  ids: (text) => text.split(/[\s,]+/).filter(Boolean).map(Number),
};

/** The body's fields. Throws an Error that names the field that cannot be read. */
export function readFields(values) {
  const body = {};
  for (const { name, label, kind, initial } of ALL) {
    const value = values[name];
    if (value === "" || value === null || value === initial) continue;
    try {
      body[name] = READ[kind](value);
    } catch {
      throw new Error(`${label}: this is not valid JSON.`);
    }
  }
  const { more = {}, ...fields } = body;
  return { ...fields, ...more };
}
