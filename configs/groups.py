"""The headings under which `--help` lists the settings."""

from cyclopts import Group

MODEL = Group.create_ordered("Model")
CACHE = Group.create_ordered("KV cache")
SCHEDULER = Group.create_ordered("Scheduler")
HTTP = Group.create_ordered("HTTP")
TRACING = Group.create_ordered("Tracing")
COMPARISON = Group.create_ordered("Comparison")
WORKLOAD = Group.create_ordered("Workload")
