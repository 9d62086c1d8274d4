import { get } from "headcount/api.js";
import { COLORS, cellSize, colorOf, draw, placeAt, prepare } from "headcount/blocks.js";
import { bytes, count, percent } from "headcount/format.js";
import { live, loaded, watch } from "headcount/live.js";
import { isDark } from "headcount/theme.js";

const INTERVAL_MS = 1000;
const MAX_BLOCKS = 20000;
const MAX_OWNERS = 12;
const STATES = { f: "free", o: "owned", s: "shared", c: "cached" };

export default {
  template: `
    <section class="stack">
      <div v-if="problem ?? live.problem" class="banner bad" role="alert"><b>{{ problem ?? live.problem }}</b></div>
      <div v-else-if="live.isLoaded && !loaded.length" class="banner"><b>No model is ready yet.</b></div>
      <div class="row" v-if="loaded.length > 1">
        <div class="segments" role="group" aria-label="Model">
          <button v-for="entry in loaded" type="button" :aria-pressed="entry.model === model" @click="choose(entry.model)">{{ entry.model }}</button>
        </div>
      </div>
      <div v-if="map" class="panel">
        <div class="panel-head">
          <h2>{{ count(map.num_blocks) }} blocks of {{ map.block_size }} tokens</h2>
          <span class="note">{{ bytes(map.bytes_per_block) }} each</span>
        </div>
        <div class="inline-legend" style="margin-bottom: 14px">
          <span v-for="row in totals" :data-test="row.name" :data-value="row.number"><i :style="{ background: row.color }"></i>{{ row.name }}
            <b>{{ count(row.number) }}</b></span>
        </div>
        <div class="block-canvas" ref="frame">
          <canvas ref="canvas" @mousemove="look" @click="look" @mouseleave="looked = null" aria-label="A cell for each block" role="img"></canvas>
        </div>
        <div class="row" v-if="map.num_blocks > limit" style="margin-top: 12px">
          <button class="button" type="button" :disabled="offset === 0" @click="turn(-limit)">Earlier</button>
          <button class="button" type="button" :disabled="offset + limit >= map.num_blocks" @click="turn(limit)">Later</button>
          <span class="note">blocks {{ count(offset) }} to {{ count(offset + map.states.length - 1) }}</span>
        </div>
      </div>
      <div v-else-if="!problem && !live.problem" class="skeleton" style="min-height: 320px"></div>
      <div v-if="map" class="panel">
        <div class="panel-head"><h2>Owners</h2><span class="note" v-if="owners.length">point at one to see its blocks</span></div>
        <p v-if="!owners.length" class="muted">{{ isHidden ? 'Who owns them is told to the admin key only.' : 'No request holds a block now. Send one and watch it fill.' }}</p>
        <div v-for="owner in owners.slice(0, maxOwners)" class="owner" @mouseenter="chosen = owner.index" @mouseleave="chosen = null">
          <i :style="{ background: owner.color }"></i><code>{{ owner.id }}</code>
          <span class="muted">{{ count(owner.blocks) }} blocks, {{ count(owner.shared) }} of them shared</span><span>{{ bytes(owner.blocks * map.bytes_per_block) }}</span>
        </div>
        <p v-if="owners.length > maxOwners" class="note">and {{ count(owners.length - maxOwners) }} more</p>
      </div>
      <div v-if="looked" class="popover" :style="{ left: looked.x + 'px', top: looked.y + 'px' }" role="tooltip">
        <b>Block {{ count(looked.block) }}</b>: {{ looked.state }}<br />
        {{ looked.filled }} of {{ map.block_size }} slots filled, {{ percent(looked.filled / map.block_size) }}
        <div v-for="id in looked.owners"><code>{{ id }}</code></div>
      </div>
    </section>`,
  data: () => ({ model: null, map: null, offset: 0, problem: null, looked: null, chosen: null, limit: MAX_BLOCKS, maxOwners: MAX_OWNERS }),
  setup: () => ({ live, loaded, isDark }),
  mounted() {
    watch();
    this.resizing = new ResizeObserver(() => this.redraw());
    document.addEventListener("visibilitychange", this.poll);
  },
  unmounted() {
    clearTimeout(this.timer);
    this.resizing.disconnect();
    document.removeEventListener("visibilitychange", this.poll);
  },
  watch: {
    loaded: {
      immediate: true,
      handler(entries) {
        if (!entries.some(({ model }) => model === this.model) && entries.length) this.choose(entries[0].model);
      },
    },
    chosen: "redraw",
    isDark: { handler: "redraw", flush: "post" },
  },
  computed: {
    totals() {
      const rest = [...this.map.states];
      const number = (letter) => rest.filter((one) => one === letter).length;
      return Object.entries(STATES).map(([letter, name]) => ({ name, number: number(letter), color: COLORS[name] }));
    },
    isHidden() {
      return !this.map.request_ids.length && /[os]/.test(this.map.states);
    },
    owners() {
      const found = this.map.request_ids.map((id, index) => ({ id, index, color: colorOf(id), blocks: 0, shared: 0 }));
      this.prepared.owners.forEach((indices, block) => {
        for (const index of indices) {
          found[index].blocks += 1;
          found[index].shared += this.map.states[block] === "s" ? 1 : 0;
        }
      });
      return found.filter(({ blocks }) => blocks).sort((one, other) => other.blocks - one.blocks);
    },
  },
  methods: {
    bytes,
    count,
    percent,
    choose(model) {
      this.model = model;
      this.offset = 0;
      this.map = null;
      this.poll();
    },
    turn(step) {
      this.offset += step;
      this.poll();
    },
    async poll() {
      clearTimeout(this.timer);
      if (document.hidden || !this.model) return;
      const wanted = `model=${encodeURIComponent(this.model)}&offset=${this.offset}&limit=${MAX_BLOCKS}`;
      try {
        const map = await get(`/v1/kv/blocks?${wanted}`, { isAdmin: true });
        if (map.model !== this.model || map.offset !== this.offset) return;
        this.prepared = prepare(map);
        this.map = Object.freeze(map);
        this.problem = null;
        await this.$nextTick();
        if (this.$refs.frame) this.resizing.observe(this.$refs.frame);
        this.redraw();
      } catch (error) {
        this.problem = error.message;
      }
      clearTimeout(this.timer);
      this.timer = setTimeout(this.poll, INTERVAL_MS);
    },
    redraw() {
      if (this.map && this.$refs.canvas) draw(this.$refs.canvas, this.$refs.frame.clientWidth, this.map, this.prepared, this.chosen);
    },
    look(event) {
      const { canvas, frame } = this.$refs;
      const place = placeAt(canvas, event, cellSize(frame.clientWidth, this.map.states.length), this.map.states.length);
      this.looked = place === null ? null : {
        block: this.offset + place,
        state: STATES[this.map.states[place]],
        filled: this.map.filled_slots[place],
        owners: this.prepared.owners[place].map((index) => this.map.request_ids[index]),
        x: Math.max(8, Math.min(event.clientX + 14, window.innerWidth - 335)),
        y: event.clientY + 16,
      };
    },
  },
};
