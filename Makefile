# Every target sets itself up: it needs Python 3.11+, git and make, nothing else. A second run installs nothing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROTO  := protos/nextact/v1/behavior.proto
PEERS  := .peers

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-triton lint format protos bench bench-peers train evaluate evaluate-published clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

$(STAMP): requirements.lock client/pyproject.toml server/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nextact needs Python 3.11 or newer: make PYTHON=...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e client -e server
	@touch $(STAMP)

setup: $(STAMP) ## Make the virtual environment with pinned dependencies

demo: $(STAMP) ## The main job in one command: serve real behaviour, show what was expected and how good it was
	$(BIN)/python examples/demo.py

serve: $(STAMP) ## Run the server with the shipped models until Ctrl-C
	$(BIN)/nextact-server serve

test: $(STAMP) ## Run all tests
	$(BIN)/python -m pytest

test-triton: $(STAMP) ## Hold answers against the real Triton's (installs it beside, 200 MB)
	@bench/peers/install.sh $(PYTHON) $(PEERS) triton
	$(BIN)/python -m pytest -rs tests/triton

lint: $(STAMP) ## Check style, types, import rules, the contract and that the stubs are in step
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/python protos/generate.py --check

format: $(STAMP) ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP) ## Generate the client's stubs from the contract
	$(BIN)/python protos/generate.py

bench: $(STAMP) ## Measure speed beside its limits (about 10 minutes)
	$(BIN)/python -m bench

bench-peers: $(STAMP) ## Measure KServe v2 beside Triton, MLServer and KServe (installs them; wants h2load)
	@bench/peers/install.sh $(PYTHON) $(PEERS) triton mlserver kserve
	$(BIN)/python -m bench --only identity --only reload

train: $(STAMP) ## Train the shipped next-action model anew (CONFIG=..., OUT=...)
	$(BIN)/nextact-server train $(or $(CONFIG),examples/movielens/train.toml) $(if $(OUT),--out $(OUT))

evaluate: $(STAMP) ## Judge the shipped checkpoint on users it never saw (or VERSION=... CONFIG=... TARGETS=...)
	$(BIN)/nextact-server evaluate $(VERSION) $(if $(CONFIG),--config $(CONFIG)) $(if $(TARGETS),--targets $(TARGETS))

evaluate-published: $(STAMP) ## Judge the published checkpoints of examples/accuracy (NEXTACT_DATA=...)
	@for version in examples/accuracy/*/1; do \
	  $(BIN)/nextact-server evaluate $$version --config $$(dirname $$version)/train.toml \
	    --out build/evaluation/$$(basename $$(dirname $$version)) || exit 1; done

clean: ## Remove the environment and everything built
	rm -rf $(VENV) $(PEERS) build runs .mypy_cache .ruff_cache .hypothesis .pytest_cache client/*.egg-info server/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
