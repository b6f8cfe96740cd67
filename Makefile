# `make demo` and `make test` set everything up by themselves; a second call installs nothing.

PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
WORKERS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.simlab-installed
UV := $(shell command -v uv 2>/dev/null)

# uv does not read pip's settings; give it the folder of local wheels, if there is one.
UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifneq ($(strip $(UV_FIND_LINKS)),)
export UV_FIND_LINKS
endif

# One thread for each process: the tests and the demo already use every core they are given.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format clean

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## create the virtual environment and install simlab into it

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here; set PYTHON, as in: make PYTHON=/usr/bin/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "simlab needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON, as in: make PYTHON=/usr/bin/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
ifneq ($(UV),)
	@test -x $(BIN)/python || $(UV) venv --quiet --python "$$(command -v $(PYTHON))" $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
else
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
endif
	@touch $@

demo: $(STAMP) ## compare policies in Feed-v0 and evaluate a policy on real logs (under 3 minutes)
	$(BIN)/simlab compare --policies random popularity "learned(mf)" "learned(mf, debias=ips)" oracle far-sighted --workers 2 --out $(RUNS)/demo-compare --overwrite
	$(BIN)/simlab evaluate open-bandit:random/men --policy bernoulli-ts --out $(RUNS)/demo-evaluate --overwrite
	@echo
	@echo "The reports are here; open them in a browser:"
	@echo "  $(abspath $(RUNS)/demo-compare/report.html)"
	@echo "  $(abspath $(RUNS)/demo-evaluate/report.html)"

test: lint ## run the full test command: lint, types, layers, tests, doctests
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(STAMP) ## check style, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the files in our style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and every cache; runs stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find simlab envs agents causal tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
