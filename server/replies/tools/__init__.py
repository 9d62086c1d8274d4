"""How models write calls of tools: one file a format, chosen by the chat template."""
