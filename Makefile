# Emend. `make` lists the targets; the two that matter are `make up` and `make test`.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= auto
# Most of what tests do is wait for other processes.
TEST_PROCESSES ?= 2
# Not .lock, which uv itself takes: it would wait for us.
ALONE := $(PYTHON) deploy/alone.py $(VENV)/.one-make
export PYTHONUTF8 = 1

.DEFAULT_GOAL := help
.PHONY: help up test check pages check-pages secrets setup setup-dev compose-up compose-down test-compose lock format clean
PAGE_SOURCES := $(shell find ui -name node_modules -prune -o -name dist -prune -o -name '*.py' -prune \
    -o -name __pycache__ -prune -o -type f -print)

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

up: setup ## Install what is missing, build the pages and start everything; Ctrl-C stops it
	@$(MAKE) --no-print-directory pages || echo "warning: the pages could not be built (see above); all else works" >&2
	@$(BIN)/emend up

test: setup-dev ## Set up, then ruff, mypy --strict, the pages' checks and every test
	@$(MAKE) --no-print-directory pages
	@$(MAKE) --no-print-directory check

check: check-pages ## The same checks without the set-up
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

pages: setup ui/dist/.built ## Build the web pages (ui/), with the Node of .venv where there is none
	@:

ui/dist/.built: $(PAGE_SOURCES) deploy/node.sh
	@VENV=$(VENV) $(ALONE) sh deploy/node.sh build
	@touch $@

check-pages: ui/dist/.built ## TypeScript, lint and layout, and vitest of the pages
	@VENV=$(VENV) sh deploy/node.sh check
	@VENV=$(VENV) sh deploy/node.sh test

secrets: ## Make the passwords that docker-compose.yml asks for, once, in .env
	@$(PYTHON) deploy/make_secrets.py

setup: $(VENV)/.installed-$(TORCH) ## Make .venv and install from requirements.lock (TORCH=cpu|cuda decides by hand)

setup-dev: $(VENV)/.installed-dev-$(TORCH)

# The stamps' names hold TORCH, and one choice removes the others' stamps: a changed choice installs again.
$(VENV)/.installed-$(TORCH): requirements.lock pyproject.toml deploy/install.sh
	@VENV=$(VENV) PYTHON=$(PYTHON) TORCH=$(TORCH) $(ALONE) sh deploy/install.sh requirements.lock
	@rm -f $(VENV)/.installed*
	@touch $@

$(VENV)/.installed-dev-$(TORCH): $(VENV)/.installed-$(TORCH) requirements-dev.lock deploy/test-packages.sh
	@VENV=$(VENV) PYTHON=$(PYTHON) TORCH=$(TORCH) $(ALONE) sh deploy/install.sh requirements-dev.lock
	@sh deploy/test-packages.sh
	@touch $@

compose-up: ## Build the images and start docker-compose.yml; `make secrets` first
	@docker compose version >/dev/null 2>&1 || { echo "make compose-up needs Docker and its plugin compose (v2):" \
		"\`docker compose version\` does not work here" >&2; exit 1; }
	docker compose up --build --detach --wait
	@url=$$(sed -n 's/^EMEND_PUBLIC_URL=//p' .env | tail -n 1); url=$${url:-http://localhost}; \
	printf 'Emend is up.\n  draw     %s\n  viewer   %s\n  gateway  %s\n  MLflow   %s\n  Grafana  %s\n%s\n' "$$url/" "$$url/runs/" \
		"$$url/docs" "$$url/mlflow/" "$$url/grafana/" "The first start trains version 1: docker compose logs --follow orchestrator"

compose-down: ## Stop what `make compose-up` started; nothing is lost
	docker compose down

test-compose: setup-dev ## Run the compose deployment for real, with a Docker engine of its own: root on Debian, ten minutes and more
	$(BIN)/pytest tests/compose/test_compose.py --verbose

lock: ## Resolve pyproject.toml anew into the lock files
	$(BIN)/uv pip compile --quiet --universal --no-header --no-annotate --no-emit-index-url pyproject.toml --output-file requirements.lock
	for name in ui gateway viewer serving mlflow; do \
		$(BIN)/uv pip compile --quiet --universal --no-header --no-annotate --no-emit-index-url --constraint requirements.lock \
			deploy/requirements/$$name.in --output-file deploy/requirements/$$name.lock; done
	$(BIN)/uv pip compile --quiet --universal --no-header --no-annotate --no-emit-index-url --extra dev --constraint requirements.lock pyproject.toml --output-file requirements-dev.lock

format: ## Let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv, the built pages and caches; data/ stays
	rm -rf $(VENV) ui/node_modules ui/dist .mypy_cache .ruff_cache .pytest_cache
