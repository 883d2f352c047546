# The commands of a developer; `make help` lists them.

# The first of these that is Python 3.11 or newer. To use another one: make PYTHON=/path/to/python ...
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Additional arguments for a tool: make test ARGS="-k window", make bench ARGS="--json report.json"
ARGS ?=

# The lock names neither an index nor a platform's build of torch, and not the CUDA packages that torch itself pins.
COMPILE := $(BIN)/pip-compile --quiet --allow-unsafe --strip-extras --no-header --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --no-emit-options --annotation-style line
# The extras that `make run` installs.
RUNTIME := --extra redis --extra schema --extra server --extra worker --extra wordpiece
CLEAN_LOCK := $(BIN)/python requirements/clean_lock.py

.DEFAULT_GOAL := help
.PHONY: help run demo test check lint type bench lock format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.runtime ## install, start everything, send the demonstration traffic, serve on port 8000 until Ctrl-C
	@exec $(BIN)/windrow demo --keep $(ARGS)

demo: $(VENV)/.runtime ## the same, but stop after the demonstration
	@exec $(BIN)/windrow demo $(ARGS)

# Runs two test files at a time, in the order of tests/conftest.py, because most tests wait for processes and leases.
test: $(VENV)/.dev ## install the test dependencies and run all tests; one at a time: make test ARGS="-n 0"
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: lint type ## the quick checks before a commit: lint, types, unit and contract tests
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q tests/unit tests/contract $(ARGS)

lint: $(VENV)/.dev ## check style, formatting and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(VENV)/.dev ## check types: strict for scheduler, normal for the rest
	$(BIN)/mypy -p windrow -p benchmarks

format: $(VENV)/.dev ## format the sources so that `make lint` passes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.runtime ## measure Windrow over HTTP against the engine alone and plain Celery
	@exec $(BIN)/python -m benchmarks http $(ARGS)

lock: $(VENV)/.dev ## compile the locks from pyproject.toml; newer releases: make lock ARGS=--upgrade
	$(COMPILE) $(ARGS) $(RUNTIME) --output-file requirements/lock.txt pyproject.toml requirements/pins.in
	$(CLEAN_LOCK) requirements/lock.txt
	$(COMPILE) $(ARGS) --constraint requirements/lock.txt $(RUNTIME) --extra dev --output-file requirements/dev.txt pyproject.toml requirements/pins.in
	$(CLEAN_LOCK) requirements/dev.txt

clean: ## remove everything that the targets above created, including .venv
	rm -rf $(VENV) build dist *.egg-info .windrow .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find scheduler worker api windrow benchmarks tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Windrow needs Python 3.11 or newer; name one with make PYTHON=..." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamp files skip the installation if the environment is up to date.
$(VENV)/.runtime: requirements/lock.txt pyproject.toml | $(VENV)/bin/python
	$(PIP) install -r requirements/lock.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	$(PIP) install -r requirements/dev.txt
	@touch $@
