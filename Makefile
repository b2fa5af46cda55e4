# Weelo dispatch. `make help` lists what there is; every target works on a fresh clone.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := libs/common services/order-api services/dispatcher services/notifier services/expiry tools/weelo_cli
CODE := libs services deploy tests tools bench
NODE_CHECKS := tests/contract/node
ROLE ?= customer
ID ?= c-1

.PHONY: help setup lock demo up down token test test-unit test-faults lint format typecheck contracts contract-tools verify-ledger bench-intake bench-relay clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(STAMP) ## make .venv with everything pinned in requirements.lock

$(STAMP): requirements.lock $(addsuffix /pyproject.toml,$(PACKAGES))
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed (found %d.%d): install it, or set PYTHON=" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "The venv module of Python is missing: install it (Debian: python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(addprefix -e ,$(PACKAGES))
	@touch $@

lock: ## pin all dependencies anew, with hashes (needs uv)
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-package weelo-common libs/common/pyproject.toml services/*/pyproject.toml tools/weelo_cli/pyproject.toml requirements-dev.in -o requirements.lock

demo: setup ## run a whole evening in Delhi on the local stack, and check the ledger
	@ORDER_LIFETIME_S=$${ORDER_LIFETIME_S:-20} WEELO_RUN_DIR=$${WEELO_RUN_DIR:-.run/demo} WEELO_PORT_BASE=$${WEELO_PORT_BASE:-free} \
		$(BIN)/python -m deploy.local run -- $(CURDIR)/$(BIN)/python -m tools.demo

up: setup ## start the local stack and leave it running
	@$(BIN)/python -m deploy.local up

down: setup ## stop the local stack
	@$(BIN)/python -m deploy.local down

token: setup ## print a token for the local stack: make token ROLE=customer ID=c-1
	@$(BIN)/python -m tools.token $(ROLE) $(ID)

test: setup contract-tools ## run all tests but the long ones, on real servers of their own
	@$(BIN)/python -m deploy.local fetch
	$(BIN)/pytest -m "not faults"

test-unit: setup ## run the tests that need no servers
	$(BIN)/pytest libs services tools

test-faults: setup ## run the long tests that kill, freeze and cut things off
	@$(BIN)/python -m deploy.local fetch
	$(BIN)/pytest -m faults

lint: setup ## ruff (lint and format), the direction of imports, the event contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m tools.contracts check

format: setup ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

typecheck: setup ## mypy, strict
	$(BIN)/mypy $(CODE)

contracts: setup ## make the event contract's files anew (schemas/); refuses what breaks v1
	@$(BIN)/python -m tools.contracts write

contract-tools: ## install others' tools that the contract is checked with, where npm is on the machine
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory --silent $(NODE_CHECKS)/node_modules/.installed; \
	else echo "npm is not there: the checks with kafkajs and the AsyncAPI parser are left out"; fi
	@command -v kcat >/dev/null || echo "kcat is not there (Debian: apt-get install kcat): the checks with it are left out"

$(NODE_CHECKS)/node_modules/.installed: $(NODE_CHECKS)/package.json $(NODE_CHECKS)/package-lock.json
	cd $(NODE_CHECKS) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

verify-ledger: setup ## check the ledger of the running local stack
	@$(BIN)/python -m tools.ledger

bench-intake: setup ## measure creating orders beside one statement's limit (some four minutes)
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m bench.intake

bench-relay: setup ## measure the outbox relay beside sending one by one
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m bench.relay

clean: ## remove what the tools and the local stack wrote, but not .venv
	rm -rf $(NODE_CHECKS)/node_modules .run .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-report.json
