// Every two heads of a layer: how alike they are.

import { kindOf } from "headcount/headGrid.js";

/** A Vue component: `values` [num_q_heads][num_q_heads] between 0 and 1 as colours. */
export const HeadPairs = {
  props: { title: String, hint: String, layer: Object, values: Array },
  template: `
    <figure>
      <h3>{{ title }}</h3>
      <div class="pairs" role="img" :aria-label="title" :style="{ '--kind': 'var(--' + kindOf(layer) + ')', '--heads': layer.num_q_heads }">
        <template v-for="(row, one) in values">
          <i v-for="(value, other) in row" :title="'heads ' + one + ' and ' + other + ': ' + value" :data-value="value"><span :style="{ opacity: value }"></span></i>
        </template>
      </div>
      <figcaption class="note">{{ hint }}</figcaption>
    </figure>`,
  methods: { kindOf },
};
