"""Load on a model, and what it took: shared by `headcount bench` (over HTTP) and by comparisons (over engine clients)."""
