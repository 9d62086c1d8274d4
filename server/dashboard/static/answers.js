// One answer of a model as it streams in: text in pieces, each with the log-probabilities of its tokens.

import { reactive } from "vue";
import { events } from "headcount/api.js";

const NUM_TOP = 5;

/** An answer that has not begun. */
export function newAnswer(model) {
  return reactive({ model, choices: [], usage: null, problem: null, isRunning: true, wasStopped: false, ttft_s: null, total_s: null });
}

/** Ask for `answer` and fill it; ends when it is complete, stopped by `signal`, or failed: then `problem` says why. */
export async function stream(answer, { isChat, input, fields, signal }) {
  const startedAt = performance.now();
  const since = () => (performance.now() - startedAt) / 1000;
  const path = isChat ? "/v1/chat/completions" : "/v1/completions";
  try {
    const body = buildBody(answer.model, isChat, input, fields);
    for await (const { data } of events(path, { method: "POST", body, signal })) {
      if (data.error) throw new Error(data.error.message);
      if (data.choices.length && answer.ttft_s === null && data.choices.some(hasToken)) answer.ttft_s = since();
      for (const choice of data.choices) take(choiceOf(answer, choice.index), choice);
      if (data.usage) answer.usage = data.usage;
    }
  } catch (error) {
    if (error.name === "AbortError") answer.wasStopped = true;
    else answer.problem = error.message;
  }
  answer.total_s = since();
  answer.isRunning = false;
}

export const textOf = (choice) => choice.pieces.map(({ text }) => text).join("");

function buildBody(model, isChat, input, fields) {
  const common = { model, stream: true, stream_options: { include_usage: true }, kv_receipt: true };
  const asked = isChat ? { messages: input, logprobs: true, top_logprobs: NUM_TOP } : { prompt: input, logprobs: NUM_TOP };
  return { ...common, ...asked, ...fields };
}

const hasToken = (choice) => Boolean(choice.delta?.content || choice.text || entriesOf(choice).length);

function choiceOf(answer, index) {
  while (answer.choices.length <= index) answer.choices.push({ pieces: [], finish_reason: null, waiting: [] });
  return answer.choices[index];
}

/** Text may come later than its tokens (half a character, a part of a stop text): they wait for it. */
function take(choice, chunk) {
  const text = chunk.delta?.content ?? chunk.text ?? "";
  choice.waiting.push(...entriesOf(chunk));
  if (text) choice.pieces.push({ text, tokens: choice.waiting.splice(0) });
  choice.finish_reason = chunk.finish_reason ?? choice.finish_reason;
}

/** The log-probabilities of a chunk in one shape: `{ token, logprob, top: [{ token, logprob }] }`. */
function entriesOf({ logprobs }) {
  if (logprobs?.content) return logprobs.content.map(({ token, logprob, top_logprobs }) => ({ token, logprob, top: top_logprobs }));
  return (logprobs?.tokens ?? []).map((token, place) => ({
    token,
    logprob: logprobs.token_logprobs[place],
    top: Object.entries(logprobs.top_logprobs?.[place] ?? {}).map(([name, logprob]) => ({ token: name, logprob })),
  }));
}
