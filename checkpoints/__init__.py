"""A model name becomes a folder of safetensors: the demo model, a local folder, a hub id, or a GGUF file to import."""
