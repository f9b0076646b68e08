# make prune: search on the embedded demo; make test: every test, in two processes; make lint: style and types.
# All of them set up .venv first, with the pinned versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup prune test lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[test,dev]"
	@touch $@

prune: setup
	$(RUN) tools/prune_greedy.py --map_tol 0.02

test: setup
	$(RUN) -m pytest -n 2 --dist worksteal

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
