# Two commands do everything on a fresh machine: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
DOCUMENTED := $(VENV)/.documented
EXTRAS := sim,train,data,remote,mcap,lance,gym,serve,dashboard,dev
# What only some users need, and tests want to see working.
TEST_EXTRAS := ray,view,quant,deepspeed,browser,zhixing,vive,ur,fr3,peers,docs
comma := ,
# Threads that wait busily slow the tests' worker processes down many times over.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error

.PHONY: help setup demo docs figures test fuzz fuzz-safety fuzz-serving lint format bench-inference bench-openpi test-openpi \
	test-vla-eval test-lerobot test-ray test-calibrate check-lerobot check-transformers check-resolve clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(INSTALLED)  ## Make .venv with everything that tests and the demo need
	@$(if $(filter setup,$(MAKECMDGOALS)),echo "ready: . $(BIN)/activate; rdt2 doctor",:)

$(INSTALLED): pyproject.toml requirements/constraints.txt scripts/setup.sh scripts/system_packages.sh
	bash scripts/setup.sh "$(PYTHON)" "$(VENV)" $(EXTRAS)
	@touch $@

$(TESTABLE): $(INSTALLED) scripts/browser.sh
	bash scripts/setup.sh "$(PYTHON)" "$(VENV)" $(EXTRAS),$(TEST_EXTRAS)
	bash scripts/browser.sh $(BIN)/python
	-bash scripts/system_packages.sh $(BIN)/python cameras
	@touch $@

demo: setup  ## Run the committed models on two simulated UR5e arms, write a report
	$(BIN)/rdt2 demo

$(DOCUMENTED): $(INSTALLED)
	bash scripts/setup.sh "$(PYTHON)" "$(VENV)" $(EXTRAS),docs
	@touch $@

docs: $(DOCUMENTED)  ## Build the site of all guides into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "Open build/site with: $(BIN)/python -m http.server -d build/site"

figures: setup  ## Draw the figures of docs/ again (half a minute)
	$(BIN)/python scripts/figures.py docs/images

# In the order of files, so that none of the long ones comes last and leaves a process without work.
# What is judged by the clock runs alone, so that other tests take no turn of it away; each driver, whose
# library keeps threads of its own, in a process of its own (5: a file without such tests).
test: $(TESTABLE)  ## Run all tests
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not realtime"
	$(TEST_ENV) $(BIN)/python -m pytest -m realtime --reruns 2 --reruns-delay 2 --ignore tests/peers
	for file in tests/peers/test_*.py; do \
	  $(TEST_ENV) $(BIN)/python -m pytest -m realtime --reruns 2 --reruns-delay 2 $$file || [ $$? = 5 ] || exit 1; done

# Each run draws other recordings; what fails is printed with the seed that makes it again.
FUZZ ?= 400
fuzz: $(TESTABLE)  ## Feed converters and checks with recordings gone wrong, others each time (ten minutes)
	RDT2_MUTATIONS=$(FUZZ) $(TEST_ENV) $(BIN)/python -m pytest -n 2 tests/data/test_mutations.py

# Each run draws other wishes; a failure prints one that breaks a limit.
FUZZ_SAFETY ?= 20000
fuzz-safety: $(TESTABLE)  ## Ask two arms for what must not happen, 20,000 sequences (half an hour)
	RDT2_SAFETY_EXAMPLES=$(FUZZ_SAFETY) $(TEST_ENV) $(BIN)/python -m pytest tests/control/test_guard_fuzz.py tests/control/test_loop_fuzz.py

# Each run draws other messages; a failure prints one that is not answered.
FUZZ_SERVING ?= 10000
fuzz-serving: $(TESTABLE)  ## Send a policy server 10,000 messages gone wrong, through a real socket (two minutes)
	RDT2_WIRE_EXAMPLES=$(FUZZ_SERVING) $(TEST_ENV) $(BIN)/python -m pytest tests/serving/test_server.py -k fuzz --timeout 1800

# Arms that move for minutes, in real time: let nothing else run.
test-calibrate: $(TESTABLE)  ## Calibrate a robot of peers: tool, arms, table, latency, gripper, cameras (six minutes)
	RDT2_LONG=1 $(TEST_ENV) $(BIN)/python -m pytest -m realtime --reruns 2 --reruns-delay 2 --timeout 900 \
	  tests/peers/test_calibrate.py

lint: setup  ## Style, docstrings, floors, what nothing calls, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=src $(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python scripts/dead_code.py
	$(BIN)/mypy

# The newest versions for who installs without our constraints, and those of the constraints for who runs `make setup`.
RESOLVE := $(BIN)/uv pip compile --quiet --no-annotate --no-header --python-platform x86_64-manylinux_2_28 pyproject.toml
check-resolve: setup  ## Are there versions that go together, of everything, for each Python? (asks the package index)
	for python in 3.10 3.11 3.12 3.13; do \
	  $(RESOLVE) --python-version $$python --extra all --output-file /dev/null && \
	  $(RESOLVE) --python-version $$python $(addprefix --extra ,$(subst $(comma), ,$(EXTRAS),$(TEST_EXTRAS))) \
	    --constraint requirements/constraints.txt --output-file /dev/null || exit 1; \
	  echo "Python $$python: rdt2[all] and the tests' versions resolve"; done

format: setup  ## Put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# lerobot needs other versions of torch and huggingface-hub, hence an environment of its own (several GB).
LEROBOT := .venv-lerobot
# uv finds it on the PATH, and what pyenv keeps here; it would fetch it otherwise.
LEROBOT_PYTHON ?= $(or $(lastword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python)),3.12)
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

# Tools of others that this works with, each in an environment of its own, with this project beside it.
PEERS := .venv-peers
PEER_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
$(PEERS)/openpi/.installed: $(INSTALLED) scripts/peer.sh
	bash scripts/peer.sh $(BIN) "$(PYTHON)" $(PEERS)/openpi ".[sim,gym,serve]" openpi-client==0.1.2 "numpy<2" typing_extensions
	@touch $@

$(PEERS)/vla-eval/.installed: $(INSTALLED) scripts/peer.sh
	bash scripts/peer.sh $(BIN) "$(PYTHON)" $(PEERS)/vla-eval ".[sim,gym,serve]" vla-eval==0.8.0 -e packages/vla_eval_rdt2
	@touch $@

# Its torch is older than ours, and with CUDA: six GB.
$(PEERS)/lerobot/.installed: $(INSTALLED) scripts/peer.sh
	bash scripts/peer.sh $(BIN) "$(LEROBOT_PYTHON)" $(PEERS)/lerobot ".[sim,gym,train,serve]" "lerobot[training,hardware]==0.6.1" \
	  -e packages/lerobot_policy_rdt2 -e packages/lerobot_robot_rdt2sim
	@touch $@

test-openpi: $(PEERS)/openpi/.installed  ## openpi's own client and runtime ask the policy server (a minute)
	RDT2=$(BIN)/rdt2 $(PEER_ENV) $(PEERS)/openpi/bin/python -m pytest tests/peers/test_openpi.py \
	  tests/benchmarks/test_benchmarks.py -k openpi

bench-openpi: $(PEERS)/openpi/.installed  ## openpi's runtime drives 40 scenes through the server, and directly (half an hour)
	$(PEER_ENV) $(PEERS)/openpi/bin/python benchmarks/openpi_cell.py --json reports/benchmarks/openpi_cell.json

test-vla-eval: $(PEERS)/vla-eval/.installed  ## The harness vla-eval measures a policy in the cell (a minute)
	$(PEER_ENV) $(PEERS)/vla-eval/bin/python -m pytest packages/vla_eval_rdt2/tests

test-lerobot: $(PEERS)/lerobot/.installed  ## LeRobot trains the policy and drives the cell (five minutes, 6 GB of packages)
	$(PEER_ENV) $(PEERS)/lerobot/bin/python -m pytest packages/lerobot_policy_rdt2/tests

test-ray: $(TESTABLE)  ## Replicas of a policy in a local Ray cluster, one of them killed (a minute)
	RDT2_RAY=1 $(TEST_ENV) $(BIN)/python -m pytest tests/serving/test_replicas.py

bench-inference: setup  ## Time both policies beside the naive baseline (ten minutes)
	$(BIN)/python benchmarks/inference.py --preset mid --threads 2 --json reports/benchmarks/inference-mid.json

clean:  ## Remove the environment and caches
	rm -rf $(VENV) $(LEROBOT) $(OTHERS) $(PEERS) .pytest_cache .mypy_cache .ruff_cache
