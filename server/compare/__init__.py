"""Variants of one model with other numbers of key/value heads: planned, built, served in turn, measured. No torch."""
