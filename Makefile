# `make ask` and `make test` do all their own set-up: a virtual environment and a pinned install, once.

VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# What `make ask` asks.
AUDIO ?= examples/scene-3.flac
QUESTION ?= Which sound is heard just before the kick?
CHOICES ?= --choices choir seven tabla guitar

.PHONY: ask test check site bench clean help

ask: $(VENV)/installed  ## answer a question about an example recording
	$(BIN)/relisten ask "$(AUDIO)" "$(QUESTION)" $(CHOICES)

test: $(VENV)/installed-dev  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/installed-dev  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(VENV)/installed-dev  ## build the documentation site into out/site; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs out/site

bench: $(VENV)/installed  ## measure the engine beside the naive loop
	$(BIN)/python -m benchmarks.engine

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing relisten into $(VENV): once, a few minutes."
	$(INSTALL) -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing relisten and what its tests need into $(VENV): once, a few minutes."
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/installed

# The first Python of 3.11 or newer that can make virtual environments.
$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$($$python --version)."; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "relisten needs Python 3.11 or newer, with venv; none was found." >&2; \
	echo "Install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python)" >&2; \
	echo "or name it: make ask PYTHON=/path/to/python3.12" >&2; \
	exit 1
