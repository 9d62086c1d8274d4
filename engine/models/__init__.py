"""What a model is: a declarative spec, the one decoder that runs it, and a page per family that writes the spec."""
