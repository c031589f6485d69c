# Everything a person needs, on a machine with Python 3.11+, make and gcc. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2
# Services that some tests start by themselves; on other systems install their like.
SYSTEM_PACKAGES := postgresql redis-server chromium chromium-driver ffmpeg

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo demo-backbone test test-slow soak lint bench docs system up down clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "expected Python 3.11 or newer, found " + sys.version.split()[0] + "; give one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins torch, so that pip takes the CPU or CUDA build of that version that the machine's index offers.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[dev,docs,flow,tensorboard]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed  ## create .venv and install the command `scale`

install-dev: $(VENV)/.installed-dev  ## the same, with what tests and benchmarks need

demo: $(VENV)/.installed  ## the whole job on videos that it draws itself (no data, no network)
	$(BIN)/scale demo --folder demo

demo-backbone: $(VENV)/.installed  ## make the backbone that ships with the demo again (some minutes)
	$(BIN)/python -m flows.demo_backbone --folder build/demo-backbone

lint: $(VENV)/.installed-dev  ## ruff, import contracts, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint  ## lint and the fast tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -m 'not slow and not soak' -n $(WORKERS) --dist loadgroup

test-slow: $(VENV)/.installed-dev  ## kill loops, samples of soaks, real-server pipelines (under 50 minutes with `make test`)
	$(BIN)/python -m pytest -m 'slow and not soak' -n $(WORKERS) --dist loadgroup --timeout 900

soak: $(VENV)/.installed-dev  ## hundreds of rounds of kills, damage and ends (hours); prints its tables
	$(BIN)/python -m pytest -m soak -s --timeout 0

SHORT_store := --short
SHORT_probe := --short
bench: $(VENV)/.installed-dev  ## the short benchmarks; tables go to benchmarks/results/
	@for name in store probe train object_store; do echo "== $$name"; $(BIN)/python -m benchmarks.$$name $(SHORT_$$name) || exit 1; done

docs: $(VENV)/.installed-dev  ## the docs as a site in build/site; refuses links that lead nowhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

system:  ## Debian packages that some tests start as real services (needs root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SYSTEM_PACKAGES)

up:  ## Prefect server, Postgres and a worker in containers (see docs/runbook.md)
	docker compose up -d --build

down:  ## stop them; volumes stay
	docker compose down

clean:  ## remove .venv and what the demo made
	rm -rf $(VENV) demo build *.egg-info
