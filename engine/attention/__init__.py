"""Attention over the paged KV cache: one Protocol, a static table of backends."""
