"""Attention-head surgery and analysis on checkpoints: files in, files out."""
