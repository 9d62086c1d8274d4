# `make serve` and `make test` do everything on a fresh machine; see CONTRIBUTING.md.
#
# PYTHON       the interpreter that makes the virtual environment (3.11 or newer)
# TORCH_INDEX  wheel index to take PyTorch's build from; see deploy/install.sh
# ARGS         more arguments, e.g. make serve ARGS="--port 8001 --preset cpu"

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL_INPUTS := pyproject.toml constraints.txt deploy/install.sh

.PHONY: serve test check interpret soak bench clean
.DELETE_ON_ERROR:

serve: $(VENV)/.installed
	@exec $(RUN) -m headcount serve $(ARGS)

test: $(VENV)/.installed-dev
	$(RUN) -m pytest -m "not soak" $(ARGS)

# The same commands as .pre-commit-config.yaml; a test holds the two together.
check: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(RUN) -m pytest tests/architecture

# The GPU's kernels, in Triton's interpreter, and compiled for GPUs that need not be there. Triton is large: not for everybody.
interpret: $(VENV)/.installed-dev
	$(RUN) -m pip install --quiet --no-deps --constraint constraints.txt triton
	$(RUN) -m pytest tests/engine/kernels tests/engine/attention -k "triton or tuning" -m "not soak" $(ARGS)

soak: $(VENV)/.installed-dev
	$(RUN) -m pytest -m soak $(ARGS)

# Measures a server that runs already.
bench: $(VENV)/.installed
	$(RUN) -m headcount bench $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "headcount needs Python 3.11 or newer, and $(PYTHON) is not: name one with make PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Python's venv module is missing: on Debian, apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: $(INSTALL_INPUTS) | $(RUN)
	@deploy/install.sh $(abspath $(RUN)) -e .
	@touch $@

$(VENV)/.installed-dev: $(INSTALL_INPUTS) | $(RUN)
	@deploy/install.sh $(abspath $(RUN)) -e '.[dev,tracing]'
	@touch $(VENV)/.installed $@
