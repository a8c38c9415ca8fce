# Every target works on a machine that has only Python 3.11 (or python3 >= 3.10), git and make.

PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
WORKERS ?= 2
# What the targets named test... run; nothing means everything.
TESTS ?=
VENV := .venv
BIN := $(VENV)/bin
# Made after an installation; a change of pyproject.toml makes it stale.
STAMP := $(VENV)/.installed
# The same with the lowest version of each dependency that pyproject.toml allows.
LOWEST := .venv-lowest
LOWEST_STAMP := $(LOWEST)/.installed
# The same with keras_hub, which brings a version of TensorFlow of its own choice.
HUB := .venv-hub
HUB_STAMP := $(HUB)/.installed

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help install demo test test-lowest test-newest test-without-onednn test-hub slow lint format wheel bench examples clean

help:
	@echo "make demo      train the circle network, remove its nodes, print tables, draw pictures"
	@echo "make test      all tests that are not marked slow; TESTS=tests/graph for some of them"
	@echo "make slow      the slow tests"
	@echo "make lint      style, format, and types of the public face, checked"
	@echo "make format    style and format, mended"
	@echo "make wheel     the wheel, built in build/wheel and used from there"
	@echo "make bench     every script in benchmarks/"
	@echo "make examples  every script in examples/"
	@echo "make test-lowest          the tests with the lowest versions of all dependencies"
	@echo "make test-newest          the tests with the newest versions of all dependencies"
	@echo "make test-hub             the tests of models of keras_hub, with keras_hub installed"
	@echo "make test-without-onednn  the tests as on processors for which TensorFlow does without oneDNN"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $(STAMP)

# Unlike pip, uv can be told to take the lowest versions.
$(LOWEST_STAMP): pyproject.toml
	@$(LOWEST)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/python -m uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e ".[dev]"
	@touch $(LOWEST_STAMP)

$(HUB_STAMP): pyproject.toml
	@$(HUB)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(HUB)
	$(HUB)/bin/python -m pip install --quiet -e ".[dev,hub]"
	@touch $(HUB_STAMP)

demo: $(STAMP)
	$(BIN)/python examples/circle_node_removal.py

test: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) $(TESTS)

test-lowest: $(LOWEST_STAMP)
	$(LOWEST)/bin/python -m pytest -q -n $(WORKERS) $(TESTS)

# Differs from `make test` only where the environment is older than some of the versions in it.
test-newest: $(STAMP)
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager -e ".[dev]"
	$(BIN)/python -m pytest -q -n $(WORKERS) $(TESTS)

test-without-onednn: $(STAMP)
	TF_ENABLE_ONEDNN_OPTS=0 $(BIN)/python -m pytest -q -n $(WORKERS) $(TESTS)

# Elsewhere these tests are skipped.
test-hub: $(HUB_STAMP)
	$(HUB)/bin/python -m pytest -q -n $(WORKERS) $(or $(TESTS),tests/hub)

slow: $(STAMP)
	$(BIN)/python -m pytest -q -n $(WORKERS) -m slow $(TESTS)

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: $(STAMP)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

# Used from the root folder, where nothing of the checkout is in the way.
wheel: $(STAMP)
	rm -rf build  # What an earlier build left in build/lib would come along.
	$(BIN)/python -m build --wheel --outdir build/wheel .
	$(BIN)/python -m pip install --quiet --no-deps --target build/wheel/unpacked build/wheel/*.whl
	cd / && $(abspath $(BIN))/python $(CURDIR)/.ci/import_wheel.py $(CURDIR)/build/wheel/unpacked

# Those that need keras_hub are run by hand.
OF_HUB := benchmarks/backbones.py benchmarks/transformers.py

bench: $(STAMP)
	@set -e; for script in $(filter-out $(OF_HUB),$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script; done

# The nets behind the figures take over an hour to train; examples/real_nets.py is run by hand.
examples: $(STAMP)
	@set -e; for script in $(filter-out examples/real_nets.py,$(wildcard examples/*.py)); do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) $(LOWEST) $(HUB) output build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
