"""The arithmetic. base.py says what a set of kernels is, select.py which one runs where.

reference.py is plain PyTorch: it runs everywhere and is the oracle of every other set. cpu/ is native code for the CPU,
triton/ for GPUs.
"""
