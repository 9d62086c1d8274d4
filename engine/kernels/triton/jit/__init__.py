"""Device code in Triton's language; its launchers are one folder up. Importing this needs Triton.

Triton is untyped, so mypy sees these functions as `Any`: what their arguments are stands in a comment at each pointer.
Constants in capitals are known when a kernel is compiled; another value of one is another kernel.
"""
