import { bytes, count, durationText, percent, significant } from "headcount/format.js";
import { newAnswer, stream, textOf } from "headcount/answers.js";
import { loaded, live, watch } from "headcount/live.js";
import { FIELDS, initialValues, readFields } from "headcount/sampling.js";

const MAX_LANES = 3;

const Receipt = {
  props: { answer: Object },
  template: `
    <footer class="receipt" data-test="receipt">
      <div class="note">{{ summary }}</div>
      <template v-if="receipt">
        <div v-for="row in rows" class="receipt-row" :title="row.title">
          <span class="name">{{ row.name }}</span>
          <span class="track"><span :style="{ width: 100 * row.size / largest + '%', background: 'var(--' + row.color + ')' }"></span></span>
          <span class="value" :data-value="row.size">{{ bytes(row.size) }}</span>
        </div>
        <div class="note">{{ count(receipt.blocks) }} blocks, {{ count(receipt.wasted_slots) }} slots of the last one empty,
          {{ count(receipt.cached_tokens) }} prompt tokens from the prefix cache<template v-if="receipt.peak_bytes > receipt.bytes">,
          {{ bytes(receipt.peak_bytes) }} at the most</template></div>
      </template>
    </footer>`,
  computed: {
    receipt() {
      return this.answer.usage?.kv_receipt;
    },
    rows() {
      const { bytes: own, mha_bytes, mqa_bytes } = this.receipt;
      return [
        { name: "this request", size: own, color: "accent", title: "Blocks of the KV cache that it held at its end" },
        { name: "as MHA", size: mha_bytes, color: "mha", title: "If each query head had a KV head of its own" },
        { name: "as MQA", size: mqa_bytes, color: "mqa", title: "If all query heads shared one" },
      ];
    },
    largest() {
      return Math.max(...this.rows.map(({ size }) => size));
    },
    summary() {
      const { usage, ttft_s, total_s, wasStopped } = this.answer;
      const number = usage?.completion_tokens;
      const rate = number > 1 && total_s > ttft_s ? `${significant((number - 1) / (total_s - ttft_s))} tok/s` : null;
      const parts = [
        wasStopped && "stopped: the server has ended it and taken its blocks back",
        usage && `${count(usage.prompt_tokens)} prompt + ${count(number)} tokens`,
        ttft_s !== null && `first after ${durationText(ttft_s)}`,
        rate,
      ];
      return parts.filter(Boolean).join(" · ");
    },
  },
  methods: { bytes, count },
};

const Answer = {
  components: { Receipt },
  props: { answer: Object, isTinted: Boolean },
  emits: ["look"],
  template: `
    <article class="answer" data-test="answer" :data-model="answer.model" :data-running="answer.isRunning">
      <p v-if="answer.problem" class="banner bad" role="alert">{{ answer.problem }}</p>
      <div v-for="choice in answer.choices" class="text"><span v-for="piece in choice.pieces" tabindex="-1"
        :class="{ token: piece.tokens.length }" :style="tint(piece)"
        @mouseenter="$emit('look', piece, $event)" @click="$emit('look', piece, $event)" @mouseleave="$emit('look', null)">{{ piece.text }}</span><span
        v-if="answer.isRunning && !choice.finish_reason" class="caret"></span><span v-else-if="choice.finish_reason === 'length'" class="note"> (length reached)</span></div>
      <div v-if="answer.isRunning && !answer.choices.length" class="note">waiting for the first token…</div>
      <receipt v-if="!answer.isRunning && !answer.problem" :answer="answer" />
    </article>`,
  methods: {
    tint({ tokens }) {
      if (!this.isTinted || !tokens.length) return null;
      const probability = Math.exp(Math.min(...tokens.map(({ logprob }) => logprob)));
      return { background: `color-mix(in srgb, var(--wasted) ${((1 - probability) * 55).toFixed(0)}%, transparent)` };
    },
  },
};

export default {
  components: { Answer },
  template: `
    <section class="playground">
      <div class="stack">
        <div class="row">
          <h1>Playground</h1>
          <div class="segments" role="group" aria-label="Kind">
            <button type="button" :aria-pressed="isChat" @click="isChat = true">Chat</button>
            <button type="button" :aria-pressed="!isChat" @click="isChat = false">Completion</button>
          </div>
          <button class="button" type="button" @click="clear" :disabled="isRunning || !turns.length">New</button>
        </div>
        <div v-if="live.problem" class="banner bad" role="alert"><b>{{ live.problem }}</b></div>
        <div v-else-if="live.isLoaded && !loaded.length" class="banner"><b>No model is ready yet.</b> They appear here as soon as they are loaded.</div>
        <div class="row" v-if="loaded.length > 1">
          <span class="note">Ask up to three side by side:</span>
          <label v-for="entry in loaded" class="check"><input type="checkbox" :value="entry.model" v-model="lanes"
            :disabled="!lanes.includes(entry.model) && lanes.length >= maxLanes" />{{ entry.model }}
            <span class="kind" :class="entry.attention_type">{{ entry.attention_type.toUpperCase() }}</span></label>
        </div>
        <div class="panel turns" v-if="turns.length">
          <div v-for="turn in turns" class="turn">
            <div class="prompt">{{ turn.prompt }}</div>
            <div class="lanes" :style="{ '--lanes': turn.answers.length }">
              <div v-for="answer in turn.answers">
                <h3 v-if="turn.answers.length > 1 || loaded.length > 1" class="muted">{{ answer.model }}</h3>
                <answer :answer="answer" :is-tinted="isTinted" @look="look" />
              </div>
            </div>
          </div>
        </div>
        <form class="panel composer" @submit.prevent="ask">
          <textarea class="input" v-model="prompt" rows="3" :placeholder="isChat ? 'Ask something' : 'A text to go on with'"
            aria-label="Prompt" @keydown.enter.exact.prevent="ask"></textarea>
          <div class="row">
            <label class="check"><input type="checkbox" v-model="isTinted" />Tint tokens by probability</label>
            <span style="flex: 1"></span>
            <button v-if="isRunning" class="button stop" type="button" @click="stop" data-test="stop">Stop</button>
            <button class="button primary" type="submit" :disabled="isRunning || !prompt.trim() || !lanes.length" data-test="send">Send</button>
          </div>
          <p v-if="problem" class="banner bad" role="alert">{{ problem }}</p>
        </form>
      </div>
      <aside class="panel settings">
        <label v-if="isChat" class="field">System message<textarea class="input" v-model="system" rows="2" placeholder="none"></textarea></label>
        <fieldset v-for="group in groups">
          <legend>{{ group.title }}</legend>
          <template v-for="field in group.fields">
            <label v-if="field.kind === 'check'" class="check wide"><input type="checkbox" v-model="values[field.name]" />{{ field.label }}</label>
            <label v-else class="field" :class="{ wide: field.kind !== 'number' }">{{ field.label }}
              <textarea v-if="field.kind === 'lines'" class="input" rows="2" style="min-height: 0" v-model="values[field.name]"></textarea>
              <input v-else class="input" :type="field.kind === 'number' ? 'number' : 'text'" :step="field.step" :min="field.min" :max="field.max"
                :placeholder="field.hint" v-model="values[field.name]" :name="field.name" />
            </label>
          </template>
        </fieldset>
      </aside>
      <div v-if="looked" class="popover" :style="{ left: looked.x + 'px', top: looked.y + 'px' }" role="tooltip" data-test="logprobs">
        <div v-for="token in looked.tokens">
          <div v-for="one in ranked(token)" class="candidate" :class="{ chosen: one.isChosen }">
            <code>{{ visible(one.token) }}</code><span class="track"><span :style="{ width: 100 * Math.exp(one.logprob) + '%' }"></span></span>
            <span>{{ percent(Math.exp(one.logprob)) }}</span><span class="muted">{{ one.logprob.toFixed(2) }}</span>
          </div>
        </div>
      </div>
    </section>`,
  data: () => ({
    isChat: true,
    isTinted: false,
    lanes: [],
    prompt: "",
    system: "",
    values: initialValues(),
    turns: [],
    problem: null,
    looked: null,
    maxLanes: MAX_LANES,
    groups: FIELDS,
  }),
  setup: () => ({ live, loaded }),
  mounted: watch,
  watch: {
    loaded: {
      immediate: true,
      handler(entries) {
        const names = entries.map(({ model }) => model);
        const kept = this.lanes.filter((name) => names.includes(name));
        if (kept.length !== this.lanes.length || !kept.length) this.lanes = kept.length ? kept : names.slice(0, 1);
      },
    },
    isChat: "clear",
  },
  computed: {
    isRunning() {
      return this.turns.some(({ answers }) => answers.some(({ isRunning }) => isRunning));
    },
  },
  methods: {
    percent,
    Math,
    async ask() {
      if (this.isRunning || !this.prompt.trim() || !this.lanes.length) return;
      this.problem = null;
      let fields;
      try {
        fields = readFields(this.values);
      } catch (error) {
        this.problem = error.message;
        return;
      }
      const turn = { prompt: this.prompt, answers: this.lanes.map(newAnswer) };
      const inputs = turn.answers.map(({ model }) => this.inputOf(model, turn.prompt));
      this.turns.push(turn);
      this.prompt = "";
      this.controller = new AbortController();
      const options = { isChat: this.isChat, fields, signal: this.controller.signal };
      await Promise.all(turn.answers.map((answer, place) => stream(answer, { ...options, input: inputs[place] })));
    },
    /** What a model is asked: the text alone, or the whole conversation that it has had. */
    inputOf(model, prompt) {
      if (!this.isChat) return prompt;
      const before = this.turns.flatMap((turn) => {
        const answer = turn.answers.find((one) => one.model === model);
        const text = answer?.choices.length ? textOf(answer.choices[0]) : "";
        return text ? [{ role: "user", content: turn.prompt }, { role: "assistant", content: text }] : [];
      });
      const system = this.system.trim() ? [{ role: "system", content: this.system }] : [];
      return [...system, ...before, { role: "user", content: prompt }];
    },
    stop() {
      this.controller.abort();
    },
    clear() {
      this.controller?.abort();
      this.turns = [];
    },
    look(piece, event) {
      if (!piece?.tokens.length) {
        this.looked = null;
        return;
      }
      const box = event.target.getBoundingClientRect();
      const x = Math.max(8, Math.min(box.left, window.innerWidth - 335));
      this.looked = { tokens: piece.tokens, x, y: box.bottom + 6 };
    },
    /** The most probable tokens, the chosen one among them. */
    ranked({ token, logprob, top }) {
      const rows = top.map((one) => ({ ...one, isChosen: one.token === token }));
      return rows.some(({ isChosen }) => isChosen) ? rows : [...rows, { token, logprob, isChosen: true }];
    },
    visible: (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎") || "∅",
  },
};
