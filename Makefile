PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUNS   := $(VENV)/.runs
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
# uv installs in seconds; where it has no wheel for this machine, pip does the same.
install = $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(1) || $(PIP) install --require-hashes -r $(1)
# Tests wait for processes, servers and disks: four at once keep two cores busy.
PYTEST := $(BIN)/pytest -q -n 4 --dist loadfile --no-loadscope-reorder
COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-header --quiet
# All extras but dbt, which is a program beside segkit and brings forty packages.
EXTRAS := api lab build dev mlflow otlp dask
COVER  := --cov=segkit --cov-report=term:skip-covered --cov-fail-under=90

# A run is many short processes: without bytecode on disk each would compile all it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all bench lint lab lock clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use
run: $(RUNS)  ## Segment the bundled sample: no key needed, a PostgreSQL of its own
	@$(BIN)/segkit run sample --category "Coffee Makers" --model offline

lab: $(READY)  ## Open JupyterLab on working copies of the notebooks (work/); tracked files stay clean
	@$(BIN)/python -m segkit.pipeline.notebooks.working_copies notebooks work
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) work/00_prepare_run.ipynb

setup: $(READY)  ## Install everything (tests, JupyterLab, service) into .venv, hashes checked

# What a run needs comes first, and alone for `make run`: it is half of all.
$(RUNS): requirements-run.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "segkit needs python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12 setup"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "python3 -m venv failed: install the package python3-venv (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "installing the packages of requirements-run.lock into $(VENV), under a minute …"
	@sed -n '/^uv==/,/# via/p' requirements-run.lock > $(VENV)/uv.lock
	@$(PIP) install --require-hashes -r $(VENV)/uv.lock
	@$(call install,requirements-run.lock)
	@$(PIP) install --no-index --no-deps --no-build-isolation -e .
	@$(BIN)/python -c "import segkit.cli.main, segkit.pipeline.notebooks.run, segkit.analysis.report, segkit.analysis.figures, segkit.database.sync, ipykernel.kernelapp, papermill"
	@touch $@

$(READY): $(RUNS) requirements.lock
	@echo "installing what tests, JupyterLab and the service need …"
	@$(call install,requirements.lock)
	@touch $@

##@ Develop
test: $(READY) lint  ## Lint, then test: what CI runs
	$(PYTEST) -m "not long"

test-all: $(READY) lint  ## The same with the long tests, and coverage
	@$(BIN)/python tests/support/llama.py install .llama
	@$(BIN)/python tests/support/outside_tools.py .tools
	$(PYTEST) $(COVER)

lint: $(READY)  ## Check style, types and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

bench: $(READY)  ## Measure speed and quality against named baselines (minutes)
	$(BIN)/python tests/benchmarks/asking.py
	$(BIN)/python tests/benchmarks/storing.py
	$(BIN)/python tests/benchmarks/database.py
	$(BIN)/python tests/benchmarks/offline_quality.py
	$(BIN)/python tests/benchmarks/sampling.py
	$(BIN)/python tests/benchmarks/service.py
	$(BIN)/python tests/benchmarks/trust.py
	$(BIN)/python tests/benchmarks/equal_lines.py
	$(BIN)/python tests/benchmarks/cascade.py
	$(BIN)/python tests/benchmarks/batches.py
	$(BIN)/python tests/benchmarks/cluster.py
	$(BIN)/python tests/benchmarks/providers.py
	$(BIN)/python tests/benchmarks/scale.py

lock: $(READY)  ## Make both lock files anew from pyproject.toml
	$(COMPILE) $(addprefix --extra ,$(EXTRAS)) -o requirements.lock
	$(COMPILE) --extra build --constraint requirements.lock -o requirements-run.lock

clean:  ## Remove .venv and what tools leave behind; runs and .segkit stay
	rm -rf $(VENV) .llama .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
