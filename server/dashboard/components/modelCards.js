import { bytes, count, percent } from "headcount/format.js";
import { HeadPicture, kindsOfLayers } from "headcount/heads.js";
import { live, watch } from "headcount/live.js";

/** The whole device in pieces: the ledger, with the KV cache split into what it holds now. They sum to its total. */
function pieces({ ledger, bytes: cache }) {
  return [
    ["weights", "Weights", ledger.weights_bytes],
    ["filled", "KV: filled", cache.filled],
    ["wasted", "KV: waste in last blocks", cache.wasted],
    ["cached", "KV: cached prefixes", cache.cached],
    ["kv-free", "KV: free", cache.total - cache.used - cache.cached],
    ["workspace", "Workspace", ledger.workspace_bytes],
    ["graphs", "Graphs", ledger.graphs_bytes],
    ["framework", "Framework", ledger.framework_bytes],
    ["other", "Other programs", ledger.other_bytes],
    ["unaccounted", "Unaccounted", ledger.unaccounted_bytes],
    ["free", "Free", ledger.free_bytes],
  ]
    .map(([color, name, size]) => ({ color, name, size, share: size / ledger.total_bytes }))
    .filter(({ size }) => size !== 0);
}

const Ledger = {
  props: { entry: Object },
  template: `
    <figure>
      <figcaption class="panel-head" style="margin-bottom: 8px">
        <h3>Memory of the device</h3>
        <span class="note" data-test="ledger-total" :data-value="entry.ledger.total_bytes">{{ bytes(entry.ledger.total_bytes) }}</span>
      </figcaption>
      <div class="ledger" role="img" aria-label="The parts of the device's memory, listed below">
        <span v-for="piece in pieces" :style="{ flexGrow: Math.max(0, piece.share), flexBasis: 0, background: fill(piece.color) }"
              :title="piece.name + ': ' + bytes(piece.size) + ', ' + percent(piece.share)"></span>
      </div>
      <div class="legend">
        <div v-for="piece in pieces" :data-test="'ledger-' + piece.color" :data-value="piece.size" data-piece>
          <i :style="{ background: fill(piece.color) }"></i><span class="name">{{ piece.name }}</span>
          <span class="value">{{ bytes(piece.size) }}</span>
        </div>
      </div>
    </figure>`,
  computed: {
    pieces() {
      return pieces(this.entry);
    },
  },
  methods: {
    bytes,
    percent,
    // The free part of the KV cache is striped: it is taken, and holds nothing.
    fill: (name) =>
      name === "kv-free" ? "repeating-linear-gradient(135deg, var(--cached) 0 2px, var(--free) 2px 7px)" : `var(--${name})`,
  },
};

export default {
  components: { HeadPicture, Ledger },
  template: `
    <section class="stack" aria-label="Models">
      <div v-if="live.isLoaded && !live.models.length && !live.problem" class="panel empty">No model is served.</div>
      <article v-for="entry in shown" :key="entry.model" class="panel stack" :data-model="entry.model">
        <div class="panel-head" style="margin: 0">
          <h2>{{ entry.model }}</h2>
          <span v-if="entry.geometry" class="kind" :class="entry.attention_type">{{ entry.attention_type.toUpperCase() }}</span>
          <span class="chip" :class="state(entry)">{{ entry.state }}</span>
          <span v-if="entry.geometry" class="note">{{ entry.attention_backend }} · {{ entry.geometry.dtype }}, KV {{ entry.geometry.kv_cache_dtype }}</span>
        </div>
        <p v-if="!entry.geometry" class="muted">{{ entry.failure ?? 'Its weights are being loaded.' }}</p>
        <div v-else class="columns">
          <div class="stack">
            <figure v-for="kind in kinds(entry)">
              <head-picture :queries="kind.num_q_heads" :kv="kind.num_kv_heads" />
              <figcaption class="note" style="margin-top: 8px">
                {{ kind.num_q_heads }} query heads on {{ kind.num_kv_heads }} KV {{ kind.num_kv_heads === 1 ? 'head' : 'heads' }},
                in each of {{ kind.num_layers }} layers<template v-if="kind.sliding_window">, window of {{ count(kind.sliding_window) }} tokens</template>
              </figcaption>
            </figure>
            <dl class="facts">
              <div><dt>A token takes</dt><dd data-test="bytes-per-token" :data-value="entry.geometry.bytes_per_token">{{ bytes(entry.geometry.bytes_per_token) }}</dd></div>
              <div><dt>Tokens that fit</dt><dd data-test="capacity" :data-value="entry.capacity.tokens">{{ count(entry.capacity.tokens) }}</dd></div>
              <div><dt>Longest context</dt><dd>{{ count(entry.max_model_len) }}</dd></div>
              <div><dt>Such requests at once</dt><dd>{{ count(entry.capacity.requests_of_max_model_len) }}</dd></div>
            </dl>
          </div>
          <ledger :entry="entry" />
        </div>
      </article>
      <div v-if="!live.isLoaded" class="skeleton" style="min-height: 260px"></div>
    </section>`,
  setup: () => ({ live }),
  mounted: watch,
  computed: {
    shown: () => live.models.filter(({ model }) => !live.selected || model === live.selected),
  },
  methods: {
    bytes,
    count,
    kinds: (entry) => kindsOfLayers(entry.geometry),
    state: (entry) => ({ ready: "good", loading: "warn" })[entry.state] ?? "bad",
  },
};
