# Every target works on a machine that has only Python 3.11 (or python3 >= 3.10), git and make.

PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# Made after an installation; a change of pyproject.toml makes it stale.
STAMP := $(VENV)/.installed

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help install demo test slow lint format bench examples clean

help:
	@echo "make demo      train the circle network, remove its nodes, print tables, draw pictures"
	@echo "make test      all tests that are not marked slow"
	@echo "make slow      the slow tests"
	@echo "make lint      style and format, checked"
	@echo "make format    style and format, mended"
	@echo "make bench     every script in benchmarks/"
	@echo "make examples  every script in examples/"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/circle_node_removal.py

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS)

slow: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m slow

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(STAMP)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(STAMP)
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

# The nets behind the figures take over an hour to train; examples/real_nets.py is run by hand.
examples: $(STAMP)
	@set -e; for script in $(filter-out examples/real_nets.py,$(wildcard examples/*.py)); do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) output build *.egg-info .pytest_cache .ruff_cache .hypothesis
