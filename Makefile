# Two cores or many: everything below is bounded by the number of processors found.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: run test lint soak test-gpu test-browser bench clean help

run: $(STAMP)  ## the whole quickstart pipeline
	@$(BIN)/gptmill run quickstart

test: lint  ## lint, types, import contracts and all tests
	@$(BIN)/python -m pytest

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

soak: $(STAMP)  ## long kill and endurance tests (a quarter of an hour)
	@$(BIN)/python -m pytest -m soak --timeout=7200

test-gpu: $(STAMP)  ## tests that need a GPU
	@$(BIN)/python -m pytest -m gpu

test-browser: $(STAMP)  ## what a browser shows of MLflow and the report; needs Chromium
	@$(BIN)/python -c "import playwright" 2>/dev/null || $(BIN)/python -m pip install --quiet -c constraints.txt -e ".[browser]"
	@$(BIN)/python -m pytest -m browser

bench: $(STAMP)  ## the figures of benchmarks/RESULTS.md
	@$(BIN)/python benchmarks/pipeline.py
	@$(BIN)/python benchmarks/memory.py
	@$(BIN)/python benchmarks/scaling.py
	@$(BIN)/python benchmarks/data.py
	@$(BIN)/python benchmarks/score.py

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "gptmill needs Python 3.11: $(PYTHON) was not found; set PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned set into $(VENV) (once, about 4 minutes)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

clean:  ## remove the environment and caches; keeps .gptmill
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'
