"""HTTP: what a client sees. Text and the OpenAI wire format become token ids here, and back. Knows no tensors."""
