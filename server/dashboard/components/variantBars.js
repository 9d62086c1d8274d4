export default { template: `<div class="panel empty">…</div>` };
