"""One page a family: Hugging Face config -> DecoderSpec, Hugging Face tensor names -> ours. No torch."""
