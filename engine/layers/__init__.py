"""The parts of a decoder layer: each holds its parameters and calls one kernel."""
