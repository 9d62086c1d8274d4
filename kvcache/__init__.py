"""Owns blocks and bytes: what a key/value head costs, which block belongs to whom, and the tensors themselves."""
