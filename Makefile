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
NODE_DEPLOY := deploy/validate/node
NODE_EXAMPLE := examples/node
NODE_PHONES := services/notifier/tests/node
COMPOSE_ANSWERS = docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1
ROLE ?= customer
ID ?= c-1
SEED ?= 1
MINUTES ?= 10

.PHONY: help setup lock demo up down token test test-unit test-faults chaos lint format typecheck contracts contract-tools deploy-tools validate-deploy dashboards docs-settings verify-ledger bench-intake bench-relay bench-matching bench-positions bench-fanout bench-timers bench-e2e clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 16

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

up: setup ## start everything: compose where a Docker engine answers, else the local stack
	@if [ "$(WEELO_STACK)" != local ] && $(COMPOSE_ANSWERS); then \
		$(BIN)/python -m deploy.compose.prepare && WEELO_UID=$$(id -u) docker compose up --build --detach --wait gateway expiry \
		&& echo "http://127.0.0.1:18000 is the entrance; a token: make token ROLE=customer ID=c-1; stop it: make down"; \
	else $(BIN)/python -m deploy.local up; fi

down: setup ## stop what `make up` started; the containers' data stay
	@if [ -f .env ] && $(COMPOSE_ANSWERS); then docker compose --profile '*' down; fi
	@$(BIN)/python -m deploy.local down

token: setup ## print a token for the local stack: make token ROLE=customer ID=c-1
	@$(BIN)/weelo token $(ROLE) $(ID)

test: setup contract-tools deploy-tools ## run all tests but the long ones, on real servers of their own
	@$(BIN)/python -m deploy.local fetch
	$(BIN)/pytest -m "not faults"

test-unit: setup ## run the tests that need no servers
	$(BIN)/pytest libs services tools

test-faults: setup ## run the long tests that kill, freeze and cut things off
	@$(BIN)/python -m deploy.local fetch
	$(BIN)/pytest -m faults

chaos: setup ## break things at random under traffic, then check the ledger: make chaos SEED=1 MINUTES=10
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m tools.chaos --seed $(SEED) --minutes $(MINUTES)

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
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory --silent $(NODE_CHECKS)/node_modules/.installed $(NODE_EXAMPLE)/node_modules/.installed $(NODE_PHONES)/node_modules/.installed; \
	else echo "npm is not there: the checks with kafkajs, the AsyncAPI parser and Node's ws are left out"; fi
	@command -v kcat >/dev/null || echo "kcat is not there (Debian: apt-get install kcat): the checks with it are left out"
	@command -v chromium >/dev/null || echo "chromium is not there (Debian: apt-get install chromium): the check with a real browser is left out"

deploy-tools: ## install dclint, which validate-deploy asks, where npm is on the machine
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory --silent $(NODE_DEPLOY)/node_modules/.installed; \
	else echo "npm is not there: docker-compose.yml cannot be checked"; fi
	@command -v prometheus >/dev/null || echo "prometheus is not there (Debian: apt-get install prometheus): rules, and dashboards on the running services, cannot be checked"

validate-deploy: setup deploy-tools ## check all of deploy/ without a cluster, an account or an engine
	@$(BIN)/python -m deploy.validate

dashboards: setup ## write the dashboards, the PrometheusRule and docs/metrics.md anew from their descriptions and the code
	@$(BIN)/python -m deploy.observability

docs-settings: setup ## write docs/settings.md anew from the services' Settings classes
	@$(BIN)/python -m deploy.settings_reference

%/node_modules/.installed: %/package.json %/package-lock.json
	cd $* && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

verify-ledger: setup ## check the ledger of the running local stack
	@$(BIN)/weelo ledger verify

bench-intake: setup ## measure creating orders beside one statement's limit (some two minutes)
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m bench.intake

bench-relay: setup ## measure the outbox relay beside sending one by one
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m bench.relay

bench-matching: setup ## measure the index of captains beside Redis and PostgreSQL, and its restart (some three minutes)
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m bench.matching

bench-positions: setup ## measure positions from Kafka into the index beside GEOADD (some two minutes)
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m bench.positions

bench-fanout: setup contract-tools ## measure pushing to 5,000 sockets beside C and Node (some two minutes)
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m bench.fanout

bench-timers: setup ## measure a million timers beside polling Redis and PostgreSQL (some four minutes)
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m bench.timers

bench-e2e: setup ## measure a booking to the captain's socket through all four services (some two minutes)
	@$(BIN)/python -m deploy.local fetch
	@$(BIN)/python -m bench.e2e

clean: ## remove what the tools and the local stack wrote, but not .venv
	rm -rf $(NODE_CHECKS)/node_modules $(NODE_DEPLOY)/node_modules $(NODE_EXAMPLE)/node_modules $(NODE_PHONES)/node_modules .run .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-report.json
