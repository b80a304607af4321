# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
EXTRAS := sim,train,data,remote,mcap,lance,gym,dev
# Threads that wait busily slow the tests' worker processes down many times over.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error

.PHONY: help setup demo test fuzz fuzz-safety lint format bench-inference check-lerobot check-transformers clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(INSTALLED)  ## Make .venv with everything that tests and the demo need

$(INSTALLED): pyproject.toml requirements/constraints.txt scripts/setup.sh scripts/system_packages.sh
	bash scripts/setup.sh "$(PYTHON)" "$(VENV)" $(EXTRAS)
	@touch $@

# What only some users need, and tests want to see working.
$(TESTABLE): $(INSTALLED)
	bash scripts/setup.sh "$(PYTHON)" "$(VENV)" $(EXTRAS),ray,view,quant,deepspeed
	@touch $@

demo: setup  ## Run the committed models on two simulated UR5e arms, write a report
	$(BIN)/rdt2 demo

test: $(TESTABLE)  ## Run all tests
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile

# Each run draws other recordings; what fails is printed with the seed that makes it again.
FUZZ ?= 400
fuzz: $(TESTABLE)  ## Feed converters and checks with recordings gone wrong, others each time (ten minutes)
	RDT2_MUTATIONS=$(FUZZ) $(TEST_ENV) $(BIN)/python -m pytest -n 2 tests/data/test_mutations.py

# Each run draws other wishes; a failure prints one that breaks a limit.
FUZZ_SAFETY ?= 20000
fuzz-safety: $(TESTABLE)  ## Ask two arms for what must not happen, 20,000 sequences (half an hour)
	RDT2_SAFETY_EXAMPLES=$(FUZZ_SAFETY) $(TEST_ENV) $(BIN)/python -m pytest tests/control/test_guard_fuzz.py

lint: setup  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## Put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# lerobot needs other versions of torch and huggingface-hub, hence an environment of its own (several GB).
LEROBOT := .venv-lerobot
LEROBOT_PYTHON ?= 3.12
check-lerobot: setup  ## Open a LeRobot v3 dataset written here in lerobot 0.6.1
	test -x $(LEROBOT)/bin/python || $(BIN)/uv venv --python "$(LEROBOT_PYTHON)" $(LEROBOT)
	$(BIN)/uv pip install --python $(LEROBOT)/bin/python "lerobot[dataset]==0.6.1"
	rm -rf $(LEROBOT)/check && mkdir $(LEROBOT)/check
	$(BIN)/python scripts/check_lerobot.py write $(LEROBOT)/check
	HF_HUB_OFFLINE=1 $(LEROBOT)/bin/python scripts/check_lerobot.py read $(LEROBOT)/check

# What people have; each in an environment of its own.
OTHERS := .venv-transformers
check-transformers: setup  ## Open a VLM written here in transformers 4.51 and 4.57
	rm -rf $(OTHERS)/check && mkdir -p $(OTHERS)/check
	$(BIN)/python scripts/check_transformers.py write $(OTHERS)/check
	for version in 4.51 4.57; do \
	  test -x $(OTHERS)/$$version/bin/python || "$(PYTHON)" -m venv $(OTHERS)/$$version; \
	  $(OTHERS)/$$version/bin/pip install -q "transformers==$$version.*" torch pillow && \
	  $(OTHERS)/$$version/bin/python scripts/check_transformers.py read $(OTHERS)/check || exit 1; \
	done

bench-inference: setup  ## Time both policies beside the naive baseline (ten minutes)
	$(BIN)/python benchmarks/inference.py --preset mid --threads 2 --json reports/benchmarks/inference-mid.json

clean:  ## Remove the environment and caches
	rm -rf $(VENV) $(LEROBOT) $(OTHERS) .pytest_cache .mypy_cache .ruff_cache
