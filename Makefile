# Everything a person or CI does here. Needs python3 (>= 3.11, with venv), cargo and a C compiler; all else goes into .venv.

PYTHON ?= python3
TRACE ?=
OUT ?=

VENV := .venv
BIN := $(VENV)/bin
# One interpreter for maturin, clippy and cargo test: PyO3 builds again whenever it changes.
export PYO3_PYTHON := $(abspath $(BIN)/python)
# A Python that already runs inside another environment must not leak it into this one.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

ENGINE_SOURCES := Cargo.toml Cargo.lock pyproject.toml $(shell find crates -name '*.rs' -o -name Cargo.toml)
PYTEST := $(BIN)/python -m pytest
HEAP_LOOP := --manifest-path benches/heap_loop/Cargo.toml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help build demo parts kafka postgres fleet fleet-status fleet-down test soak lint bench docs clean lock pytest cargo-test

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: $(VENV)/.engine ## Make .venv with the command .venv/bin/opendt, the engine in release mode

demo: build ## Run the closed loop over a week; TRACE=DIR for a recorded one, OUT=DIR for the results
	$(BIN)/opendt demo $(if $(TRACE),--trace '$(TRACE)') $(if $(OUT),-o '$(OUT)')

parts: ## Install the real programs that tests need, as far as this machine allows
	@PYTHON='$(PYTHON)' scripts/parts.sh

kafka: ## Run a Kafka broker on this machine until Ctrl-C; DIR=DIR keeps its state, PORT=9092
	@'$(PYTHON)' -m scripts.kafka $(if $(DIR),--dir '$(DIR)') $(if $(PORT),--port '$(PORT)')

postgres: ## Run a PostgreSQL server on this machine until Ctrl-C; DIR=DIR keeps its state, PORT=5432
	@'$(PYTHON)' -m scripts.postgres $(if $(DIR),--dir '$(DIR)') $(if $(PORT),--port '$(PORT)')

fleet: $(VENV)/.runtime ## Run seven Kubernetes clusters; CLUSTERS=7 KWOK=nodes REAL=real nodes, of each. As root
	@$(BIN)/python -m scripts.fleet up $(if $(CLUSTERS),--clusters '$(CLUSTERS)') $(if $(KWOK),--kwok '$(KWOK)') $(if $(REAL),--real '$(REAL)')

fleet-status: $(VENV)/.runtime ## What of them runs, and the round trips between them beside the matrix
	@$(BIN)/python -m scripts.fleet status

fleet-down: $(VENV)/.runtime ## End them, and what an earlier fleet left behind
	@$(BIN)/python -m scripts.fleet down

test: parts lint cargo-test pytest ## All that CI runs: parts, lint, Rust and Python tests

soak: build $(VENV)/.dev ## The property tests again, with many more examples
	OPENDT_SOAK=1 $(PYTEST) --timeout=3600
	OPENDT_SOAK=1 cargo test --locked --workspace --exclude opendt-python --release

lint: build $(VENV)/.dev ## Formatting, lint, types, layers, stubs, documents
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m mypy.stubtest opendt._engine --mypy-config-file pyproject.toml
	$(BIN)/python scripts/docs.py --check
	cargo fmt --all --check
	cargo fmt $(HEAP_LOOP) --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked $(HEAP_LOOP) -- -D warnings

cargo-test: $(VENV)/.engine
	cargo test --locked --workspace --exclude opendt-python

pytest: build $(VENV)/.dev
	$(PYTEST)

bench: build $(VENV)/.dev ## Measure; writes benches/RESULTS.md. ARGS='--only PATTERN' or ARGS=--quick for a part
	$(BIN)/python benches/run.py $(ARGS)

docs: build $(VENV)/.dev ## Write the generated pages again and check every link
	$(BIN)/python scripts/docs.py

lock: $(VENV)/.dev ## Pin newer versions (LOCK=--upgrade) of what pyproject.toml asks for, with hashes, without addresses
	scripts/lock.sh '$(BIN)/uv' $(LOCK)
	cargo update --workspace

clean: ## Remove all that was made here
	rm -rf $(VENV) target benches/heap_loop/target dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src -name '_engine*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@scripts/prerequisites.sh '$(PYTHON)'
	'$(PYTHON)' -m venv $(VENV)

$(VENV)/.runtime: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt | $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# Editable: Python sources are used in place, the compiled module lands beside them; cargo builds only what changed.
$(VENV)/.engine: $(ENGINE_SOURCES) $(VENV)/.runtime
	@scripts/prerequisites.sh '$(BIN)/python'
	. $(BIN)/activate && PIP_QUIET=1 maturin develop --release --locked --quiet
	@touch $@
