PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Tests wait for processes, servers and disks: four at once keep two cores busy.
PYTEST := $(BIN)/pytest -q -n 4 --dist loadfile --no-loadscope-reorder
COVER  := --cov=segkit --cov-report=term:skip-covered --cov-fail-under=90

# A run is many short processes: without bytecode on disk each would compile all it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all bench lint lab lock clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Make .venv from requirements.lock (hashes checked) and install segkit into it

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "segkit needs python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 setup"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "python3 -m venv failed: install the package python3-venv (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "installing the packages of requirements.lock into $(VENV), about a minute …"
	@sed -n '/^uv==/,/# via/p' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation -e .
	@$(BIN)/python -c "import segkit.cli.main, segkit.pipeline.notebooks, segkit.analysis.report, segkit.analysis.figures, segkit.database.sync, ipykernel.kernelapp"
	@touch $@

run: $(READY)  ## Segment the bundled sample with the offline model and the embedded Postgres
	@$(BIN)/segkit run sample --category "Coffee Makers" --model offline

test: $(READY) lint  ## Lint, type-check, execute the notebooks, test; under 10 minutes
	$(PYTEST) -m "not long"

test-all: $(READY) lint  ## The same and the long suites, with coverage
	$(PYTEST) $(COVER)

bench: $(READY)  ## Measure speed and quality against named baselines
	$(BIN)/python tests/benchmarks/asking.py
	$(BIN)/python tests/benchmarks/storing.py
	$(BIN)/python tests/benchmarks/database.py
	$(BIN)/python tests/benchmarks/offline_quality.py
	$(BIN)/python tests/benchmarks/service.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

lab: $(READY)  ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

lock: $(READY)  ## Make requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock

clean:  ## Remove .venv and what tools leave behind; runs and .segkit stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
