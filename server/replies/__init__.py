"""What a chat model's text holds beside the answer: its reasoning, and calls of tools."""
