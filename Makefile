# `make help` lists the commands. Each one builds the virtual environment it needs from PyPI; all that must
# be there before is make and a Python of at least 3.11.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The first Python on the path that is new enough; `make PYTHON=/path/to/python ...` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
RUN := $(VENV)/bin/python
# Processes the tests are spread over.
JOBS ?= 2
# More arguments for what is run: `make test ARGS="-k codec"`, `make demo ARGS=--crash`.
ARGS ?=
SOURCES := wfes projections/wfes_projections tests $(wildcard benchmarks)

# Where `make ci` installs the wheel it built, to test that and not the source tree.
WHEELS := build/wheel
WHEEL_VENV := build/wheel-venv
WHEEL_RUN := $(WHEEL_VENV)/bin/python

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# $(call new_venv,FOLDER): a fresh virtual environment, also where Debian split ensurepip off into python3-venv.
define new_venv
	@if [ -z "$(PYTHON)" ]; then \
		echo "wfes needs Python 3.11 or newer, and none was found; try: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@rm -rf $(1)
	@if "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then "$(PYTHON)" -m venv $(1); \
	elif "$(PYTHON)" -m pip --version >/dev/null 2>&1; then \
		"$(PYTHON)" -m venv --without-pip $(1) && "$(PYTHON)" -m pip -q --python $(1)/bin/python install pip; \
	else \
		echo "This Python cannot make virtual environments: install python3-venv" >&2; \
		echo "(Debian, Ubuntu: sudo apt-get install python3-venv), then run make again." >&2; exit 1; fi
endef

.PHONY: help demo test chaos ci bench lint format types python clean

help:  ## This list
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '  make %-8s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.user  ## A real workflow on this machine's standard library, with a report at the end
	@yes=; [ -t 0 ] || yes=--yes; $(RUN) -m wfes demo $$yes $(ARGS)

test: $(VENV)/.dev  ## All tests, on the source tree
	@$(RUN) -m pytest -n $(JOBS) $(ARGS)

chaos: $(VENV)/.dev  ## Ten minutes of kills, cuts and crashes on PostgreSQL; ARGS="--seconds 60 --instances 200"
	@PYTHONPATH=tests/acceptance/kit $(RUN) tests/acceptance/kit/chaos.py $(ARGS)

ci: lint types  ## Everything: format, lint, types, import contracts, tests against the built wheel
	@rm -rf $(WHEELS)
	$(RUN) -m build --wheel --outdir $(WHEELS)
	$(call new_venv,$(WHEEL_VENV))
	@echo "installing the wheel with what its tests need"
	@$(WHEEL_RUN) -m pip install -q "$$(ls $(WHEELS)/wfes-*.whl)[cli,test]"
	PYTHONSAFEPATH=1 WFES_TEST_INSTALLED=1 $(WHEEL_RUN) -m pytest -n $(JOBS) $(ARGS)

bench: $(VENV)/.dev  ## The benchmarks; each prints JSON
	@for question in benchmarks/[a-z]*.py; do echo "== $$question"; $(RUN) "$$question" $(ARGS) || exit 1; done

lint: $(VENV)/.dev  ## Format check, lint and import contracts
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(VENV)/bin/lint-imports

types: $(VENV)/.dev  ## mypy and pyright, both strict
	$(RUN) -m mypy $(SOURCES)
	$(RUN) -m pyright --pythonpath $(RUN)

format: $(VENV)/.dev  ## Formats the code and mends what ruff can mend
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

python:
	@echo "$(PYTHON)"

clean:  ## Removes environments, caches and build results
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@echo "making $(VENV)"
	$(call new_venv,$(VENV))

$(VENV)/.user: pyproject.toml | $(VENV)/bin/python
	@$(RUN) -m pip install -q -e '.[cli]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing what tests and checks need"
	@$(RUN) -m pip install -q -e '.[dev]'
	@touch $@ $(VENV)/.user
