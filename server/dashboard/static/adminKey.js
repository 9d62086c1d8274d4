// Asks for the admin key where a route has answered that it needs one.

import { setAdminKey } from "headcount/api.js";

/** True for an answer that only another key would change. */
export const needsAdminKey = (error) => error.status === 401 || error.status === 403;

export const AdminKey = {
  emits: ["given"],
  template: `
    <form class="banner row" @submit.prevent="give">
      <span><b>This needs the admin key.</b> It stays in this tab.</span>
      <input class="input mono" type="password" v-model="key" autocomplete="off" aria-label="Admin key" style="width: 220px" />
      <button class="button" type="submit" :disabled="!key">Use it</button>
    </form>`,
  data: () => ({ key: "" }),
  methods: {
    give() {
      setAdminKey(this.key.trim());
      this.$emit("given");
    },
  },
};
