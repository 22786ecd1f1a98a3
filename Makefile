# HOC Spine. Needs make, git and Python 3.11+; everything else is installed into .venv from pinned, hashed requirements.
#
#   make run     play one governed run over real documents and verify its proof offline (a first look; repeatable)
#   make serve   start the server
#   make test    run every test on SQLite and PostgreSQL
#   make check   run every gate: format, lint, types, architecture, API document
#   make bench   run the benchmarks

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin

# The first Python that is new enough and can make an environment; PYTHON=... on the command line overrides.
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.13 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

# A PYTHONPATH or PYTHONHOME from outside would reach into the environment.
unexport PYTHONPATH PYTHONHOME

PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The requirements are complete, so nothing has to be resolved.
INSTALL := $(PIP) install --no-compile --no-deps --require-hashes --requirement
INSTALL_PROJECT := $(PIP) install --no-deps --no-build-isolation --no-index --editable .
# pip compiles on one core, and not the project, which every process of a first run would then compile.
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib backend/app backend/verifier

# A worker waits for its server a third of the time: one more than the two cores that this is meant for.
WORKERS ?= 3
LOCK := $(VENV)-lock

.PHONY: help run serve test check bench venv lock clean

help:
	@sed -n 's/^#   //p' Makefile

run: $(VENV)/.runtime
	@$(BIN)/hoc demo

serve: $(VENV)/.runtime
	@$(BIN)/hoc migrate
	@$(BIN)/hoc serve

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

check: $(VENV)/.dev
	@$(BIN)/python backend/scripts/ci/check_all.py

bench: $(VENV)/.dev
	@cd backend && ../$(BIN)/python -m benchmarks

venv: $(VENV)/.dev

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with the venv module is needed (set PYTHON=...)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The stamps are older than the files they were made from exactly when something has to be installed again.
$(VENV)/.runtime: $(VENV)/.made requirements/runtime.txt pyproject.toml
	$(INSTALL) requirements/runtime.txt
	$(INSTALL_PROJECT)
	-$(COMPILE)
	@touch $@

# dev.txt holds runtime.txt too, at the same versions, so it makes both stamps.
$(VENV)/.dev: $(VENV)/.made requirements/dev.txt pyproject.toml
	$(INSTALL) requirements/dev.txt
	$(INSTALL_PROJECT)
	-$(COMPILE)
	@touch $(VENV)/.runtime $@

# Compile requirements/*.in into the pinned files, for every supported Python at once. UPGRADE=--upgrade takes newer versions.
lock:
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip --quiet install 'uv>=0.13,<0.14'
	for name in runtime dev; do (cd requirements && ../$(LOCK)/bin/uv pip compile --universal --python-version 3.11 \
		--generate-hashes --no-annotate --custom-compile-command 'make lock' $(UPGRADE) --quiet \
		--output-file $$name.txt $$name.in) || exit 1; done
	rm -rf $(LOCK)

clean:
	rm -rf $(VENV) $(LOCK) .mypy_cache .pytest_cache .ruff_cache .hypothesis backend/*.egg-info
