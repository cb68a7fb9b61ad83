# People and CI call the same targets. Every target installs what it needs: Python (>= 3.11, with venv) and make are enough.
#   make PYTHON=python3.12 ...        another interpreter
#   make PIP_FLAGS="--index-url ..."  where packages come from (a mirror, a CPU-only index of torch)

PYTHON       ?= python3
PIP_FLAGS    ?=
PYTEST_FLAGS ?=
NAME         ?=

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
QUIET := --disable-pip-version-check --quiet

OTHER_PYTHON = echo "hint: name another: make install PYTHON=python3.11" >&2; exit 1

# Containers often set it; hundreds of processes would then compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint types contracts pytest faults bench wheel constraints clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## install streamfm and its tools into .venv

# The stamp is touched last, so an installation that was broken off is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory $(VENV)
	@echo "installing streamfm and its tools into $(VENV): some minutes the first time"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip $(QUIET) install $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: $(VENV)
$(VENV):
	@command -v "$(PYTHON)" >/dev/null || { echo "error: '$(PYTHON)' not found" >&2; $(OTHER_PYTHON); }
	@"$(PYTHON)" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: streamfm needs Python >= 3.11 with venv; '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1)" >&2; $(OTHER_PYTHON); }
	@rm -rf $@ && "$(PYTHON)" -m venv $@ || { rm -rf $@; \
	  echo "error: '$(PYTHON)' cannot make virtual environments (Debian, Ubuntu: apt install python3-venv)" >&2; $(OTHER_PYTHON); }

demo: install  ## simulate an app store, train, export, let SQL answer, and close the loop
	$(BIN)/streamfm demo

test: install lint types contracts pytest  ## lint, types, import contracts and tests: what CI runs

lint: install  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## mypy, strict, on the three packages
	$(BIN)/mypy

contracts: install  ## import-linter: who may import whom
	$(BIN)/lint-imports

pytest: install  ## the tests alone, two files at a time; PYTEST_FLAGS="-k encoder" for some
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(PYTEST_FLAGS)

faults: install  ## fault campaigns on genuine Kafka (../shared/kafka, Java): an hour
	$(BIN)/pytest -m faults $(PYTEST_FLAGS)

bench: install  ## every benchmark in turn; NAME=frappe for one
	@set -e; for script in $(if $(NAME),benchmarks/$(NAME).py,$(sort $(wildcard benchmarks/[a-z]*.py))); do \
	  echo "== $$script"; $(BIN)/python "$$script"; done

wheel: install  ## build the wheel and try it in a fresh environment, outside the checkout
	$(BIN)/python scripts/try_wheel.py $(PIP_FLAGS)

constraints:  ## pin anew what a fresh installation brings
	$(PYTHON) scripts/pin_constraints.py $(PIP_FLAGS)

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
