# Every target makes what it needs. The environment in .venv is made once and reused; tests and demo
# run the installed package, which is installed anew when its source changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCE := $(shell find src -type f -not -name '*.pyc') pyproject.toml README.md

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

demo: $(VENV)/package-experiments  ## compare SGD, Adam, SAM and bSAM on handwritten digits
	@$(BIN)/bsam compare digits

test: $(VENV)/package-dev  ## tests, doctests, the README's examples
	@$(BIN)/python -m pytest

lint: $(VENV)/package-dev  ## style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/ty check --python $(VENV)

docs: $(VENV)/package-docs  ## the documentation as web pages in docs/_build
	@$(BIN)/sphinx-build -W --keep-going -q docs docs/_build
	@echo "open docs/_build/index.html"

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bsam needs Python 3.11 or newer; try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# What an extra needs, then the package itself without looking at dependencies again.
$(VENV)/needs-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what is needed ($*) into $(VENV); the first time takes a few minutes"
	$(PIP) -c constraints.txt hatchling ".[$*]"
	@touch $@

$(VENV)/package-%: $(VENV)/needs-% $(SOURCE)
	$(PIP) --no-build-isolation --no-deps --force-reinstall .
	@touch $@

.PRECIOUS: $(VENV)/needs-%
