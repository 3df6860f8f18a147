# Two commands matter: `make demo` and `make test`. Both do all set-up by themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
HOME_DIR ?= demo-home

.DEFAULT_GOAL := help
.PHONY: help demo test lint test-fast clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

# torch first and by version: a bare `torch` takes gigabytes of GPU libraries.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,postgres]'
	touch $@

demo: $(VENV)/.installed  ## the whole idea on a simulated market: rows to a promoted model and a consumed event
	@$(BIN)/retrain-worker demo --home $(HOME_DIR)

test: $(VENV)/.installed lint  ## every test, with coverage
	$(BIN)/python -m pytest -n 2 --dist loadscope --cov --cov-report=term -q

test-fast: $(VENV)/.installed  ## the tests that need no child process and no server
	$(BIN)/python -m pytest -q tests/unit tests/architecture

lint: $(VENV)/.installed  ## ruff, mypy --strict, import rules
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:  ## what set-up and runs have made
	rm -rf $(VENV) demo-home build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
