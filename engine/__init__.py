"""Token ids in, token ids out: schedule, execute, update. Knows no HTTP and no text."""
