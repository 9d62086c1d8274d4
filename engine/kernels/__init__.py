"""The arithmetic: plain PyTorch in reference.py, which is the CPU path and the oracle of every other kernel."""
