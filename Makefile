# `make demo`, `make benchmark`, `make bench` and `make test` do everything. Each first makes what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A torch that the system's Python already has is kept, by letting the environment see it.
SEE_SYSTEM := $(shell $(PYTHON) -c "import importlib.util as u; print('--system-site-packages' if u.find_spec('torch') else '')" 2>/dev/null)

.PHONY: help demo benchmark bench test lint visdom clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

$(INSTALLED): requirements.txt requirements-dev.txt pyproject.toml
	@echo "Installing into $(VENV) (once; a minute or two)"
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "error: expected Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(SEE_SYSTEM) $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	@touch $@

demo: $(INSTALLED)  ## the whole method on the embedded cohort, ending with a page to look at
	@$(BIN)/python -m phantom.demo

benchmark: $(INSTALLED)  ## errors of the shipped weights against the truth, on a small cohort
	@$(BIN)/python -m evaluation.benchmark --cohort phantom --checkpoint weights/phantom_sagittal.safetensors \
	  --checkpoint_coronal weights/phantom_coronal.safetensors --patients 6 --calibration_patients 6 --jobs 2 \
	  --root dataset/benchmark_small --out output/benchmark_small

bench: $(INSTALLED)  ## how much faster than the plain loops, each checked for the same result
	@$(BIN)/python -m benchmarks.run_all --device auto

test: $(INSTALLED)  ## the test suite
	@$(BIN)/python -m pytest

lint: $(INSTALLED)  ## style and types
	@$(BIN)/ruff check . && $(BIN)/mypy .

# Older pips take the first variable for builds, newer ones the second.
visdom: $(INSTALLED)  ## add the live training view
	@PIP_CONSTRAINT=requirements-visdom-build.txt PIP_BUILD_CONSTRAINT=requirements-visdom-build.txt \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-visdom.txt

clean:  ## remove the environment and caches, never data or results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
