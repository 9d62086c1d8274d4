// The figures of a head, by their names in the file that `headcount heads inspect` writes.

const SHARE = () => 1;
const LARGEST = (values) => Math.max(0, ...values.flat().map((value) => value ?? 0));

/** `full(values, numTokens)`: the value that full colour stands for; `values` are those of all heads, a layer each. */
export const FIGURES = {
  previous_token: { title: "Previous token", hint: "share of its attention that goes to the token before", full: SHARE },
  first_token: { title: "First token", hint: "share of its attention that goes there: many heads rest on it", full: SHARE },
  delimiter: { title: "Delimiters", hint: "share of its attention that goes to punctuation, line ends and special tokens", full: SHARE },
  induction: { title: "Induction", hint: "in random tokens, repeated: share that goes to what followed this token before", full: SHARE },
  entropy: {
    title: "Entropy",
    hint: "of what a token looks at, in nats: 0 is one token, more are many",
    full: (_, numTokens) => Math.log(Math.max(2, numTokens)),
  },
  nearest_distance: { title: "Nearest distance", hint: "in bits, to the head of the layer that attends most alike: 0 is a copy", full: LARGEST },
  importance: { title: "Importance", hint: "how steeply the loss changes with a factor at the head's output, in nats", full: LARGEST },
  relative_importance: { title: "Relative importance", hint: "importance over the l2 norm of those in its layer", full: LARGEST },
};
