# Everything a developer types. `make help` lists it.

# Python 3.11 or newer: the first of these that is. Another one: make PYTHON=/path/to/python ...
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# More for a tool: make test ARGS="-k window", make bench ARGS=--json
ARGS ?=

# The lock names neither an index nor a platform's build of torch: torch brings its own CUDA packages where it needs them.
COMPILE := $(BIN)/pip-compile --quiet --allow-unsafe --strip-extras --no-header --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --no-emit-options --annotation-style line
# `make run` installs all of them; the schema extra has a lock of its own, see below.
RUNTIME := --extra redis --extra server --extra worker --extra wordpiece
CLEAN_LOCK := $(BIN)/python requirements/clean_lock.py

.DEFAULT_GOAL := help
.PHONY: help run demo test lint type bench lock format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## install, start everything, send the demonstration traffic, serve on port 8000 until Ctrl-C
	@exec $(BIN)/windrow demo --keep $(ARGS)

demo: $(VENV)/.runtime ## the same, but stop after the demonstration
	@exec $(BIN)/windrow demo $(ARGS)

# Most tests wait, for processes to start and for leases to run out: two files at a time, in the order of tests/conftest.py.
test: $(VENV)/.dev ## install what the tests need and run them all; one by one: make test ARGS="-n 0"
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev ## style, formatting and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(VENV)/.dev ## types: strict for scheduler, normal for the rest
	$(BIN)/mypy -p windrow -p benchmarks

format: $(VENV)/.dev ## rewrite the sources as `make lint` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.runtime ## over HTTP beside the bare engine and plain Celery
	@exec $(BIN)/python -m benchmarks http $(ARGS)

lock: $(VENV)/.dev ## pin again from pyproject.toml; make lock ARGS=--upgrade takes newer releases
	$(COMPILE) $(ARGS) $(RUNTIME) --output-file requirements/lock.txt pyproject.toml requirements/pins.in
	$(CLEAN_LOCK) requirements/lock.txt
	$(COMPILE) $(ARGS) --constraint requirements/lock.txt $(RUNTIME) --extra dev --output-file requirements/dev.txt pyproject.toml requirements/pins.in
	$(CLEAN_LOCK) requirements/dev.txt
	$(COMPILE) $(ARGS) --constraint requirements/lock.txt --extra schema --output-file requirements/schema.txt pyproject.toml requirements/pins.in
	$(CLEAN_LOCK) requirements/schema.txt --beyond requirements/lock.txt

clean: ## remove everything that the targets above made, the environment too
	rm -rf $(VENV) build dist *.egg-info .windrow .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find scheduler worker api windrow benchmarks tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Windrow needs Python 3.11 or newer; name one with make PYTHON=..." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamps make an environment that is up to date cost nothing.
$(VENV)/.runtime: requirements/lock.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) install -r requirements/lock.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# xgrammar asks for triton, which is larger than everything but torch, for a function that Windrow does not call; where it
# is wanted, torch brings it.
$(VENV)/.dev: requirements/dev.txt requirements/schema.txt $(VENV)/.runtime
	$(PIP) install -r requirements/dev.txt
	$(PIP) install --no-deps -r requirements/schema.txt
	@touch $@
