# The one door: `make help` lists what can be done.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .install-stamp
DIST := dist

.PHONY: help install services demo test lint attacks attacks-cuda test-gpu fuzz vectors mutants browser-test api-cases bench bench-workers bench-scaling bench-verify bench-gpu bench-planner bench-launches bench-peers cross wheel crash gateway cluster-demo gateway-test clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP)  ## virtual environment, dependencies and CPU kernels in .venv (once)

$(STAMP): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make install PYTHON=/path/to/python3.11"; exit 1; }
	"$(PYTHON)" -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	# torch first and pinned: whatever pulls a plain torch would bring gigabytes of CUDA libraries
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[dev]'
	# without a C++ compiler on the machine, zig's is one
	command -v c++ g++ clang++ >/dev/null || $(BIN)/pip install --quiet ziglang
	$(BIN)/python -m prover.kernels.build
	touch $(STAMP)

services:  ## PostgreSQL by apt-get, if it is absent; without it the tests that need it are skipped
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
	  $$as_root apt-get update -qq && \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql; }

demo: $(STAMP)  ## audited fine-tune of a tiny LLaMA, verified in a new process
	$(BIN)/python -m examples.demo

test: $(STAMP)  ## all tests of a CI run, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadscope

lint: $(STAMP)  ## style, types of the code an auditor reads, import contracts
	$(BIN)/ruff check .
	$(BIN)/mypy --strict protocol verifier
	$(BIN)/python -m pytest -q tests/test_imports.py

attacks: $(STAMP)  ## all attack campaigns, one line each; a survivor fails (about an hour on one core; CASES=n honest statements)
	$(BIN)/python -m pytest -m attacks

test-gpu: $(STAMP)  ## tests of the CUDA backend on this machine's GPU (pip install '.[gpu]' first)
	VERILORA_TEST_GPU=1 $(BIN)/python -m pytest tests/gpu tests/prover tests/vectors tests/attacks/test_on_cuda.py

attacks-cuda: $(STAMP)  ## every attack test of a CI run on the CUDA backend, on a card that is not there (about two minutes)
	VERILORA_TEST_BACKEND=cuda $(BIN)/python -m pytest -n 2 --dist loadscope tests/attacks

fuzz: $(STAMP)  ## coverage-guided hostile input for the verifier (FUZZ_SECONDS for each of nine targets, by default 60)
	$(BIN)/pip install --quiet atheris==3.0.0
	$(BIN)/python -m tests.campaigns.fuzz --seconds $(or $(FUZZ_SECONDS),60)

vectors: $(STAMP)  ## make the known-answer vectors anew, under two hash seeds, and compare them with tests/vectors
	$(BIN)/python -m tests.campaigns.vectors

mutants: $(STAMP)  ## change protocol and verifier in one place at a time: does a test fail? (an hour or more; SAMPLE=n takes n, RESULTS=FILE continues)
	$(BIN)/python -m tests.campaigns.mutants --sample $(or $(SAMPLE),0) $(if $(RESULTS),--results $(RESULTS))

browser-test: $(STAMP)  ## pages in headless Chromium (installed by apt-get if absent); SCREENSHOTS=FOLDER keeps pictures
	@command -v chromium >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
	  $$as_root apt-get update -qq && \
	  $$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; }
	$(BIN)/python -m pytest -m browser tests/api

api-cases: $(STAMP)  ## 10,000 generated requests against the API's description
	CASES=14000 $(BIN)/python -m pytest -s tests/api/test_schema.py

crash: $(STAMP) services  ## whole runs while workers, flows, servers, database, disk and clock fail (about a quarter of an hour)
	$(BIN)/python -m pytest -m cluster tests/crash

fidelity: $(STAMP)  ## 200 steps against PEFT in fp32, SGD and AdamW (about ten minutes)
	$(BIN)/python -m benchmarks.fidelity --plot docs/fidelity.png

bench: $(STAMP)  ## speeds as ratios to the machine's own multiplication and SHA-256 rates
	$(BIN)/python -m benchmarks

bench-workers: $(STAMP)  ## proving by one and two workers of a pool: scaling, and what orchestration costs
	$(BIN)/python -m benchmarks.workers

bench-scaling: $(STAMP)  ## one layer task by tokens, width, rank, layers and threads; docs/scaling.png
	$(BIN)/python -m benchmarks.scaling --plot docs/scaling.png

bench-verify: $(STAMP)  ## processor seconds of verifying one layer task on one core, up to one of LLaMA-2-7B (about two minutes)
	$(BIN)/python -m benchmarks.verifying

bench-gpu: $(STAMP)  ## the device's rates, kernels and whole steps of 1.1B, 7B and 13B, verified (OPTIONS="--shape llama-2-7b --tokens 512 --provers 8 --limit 250")
	$(BIN)/python -m benchmarks.gpu $(OPTIONS)

bench-planner: $(STAMP)  ## memory and processor time of tasks: foretold beside measured
	$(BIN)/python -m benchmarks.planner

bench-launches: $(STAMP)  ## what proofs of real shapes ask of a GPU, counted with CuPy on a card that computes nothing
	$(BIN)/pip install --quiet nvidia-cuda-nvdisasm==13.5.37
	$(BIN)/python -m benchmarks.launches

bench-peers: $(STAMP)  ## the same statements proved here and by ezkl, which is installed first (half an hour, 10 GB)
	$(BIN)/pip install --quiet '.[peers]'
	$(BIN)/python -m benchmarks.peers

cross: $(STAMP)  ## compile-check the kernels for aarch64 (installs ziglang; minutes when its cache is cold)
	$(BIN)/pip install --quiet ziglang
	$(BIN)/python -m pytest tests/prover/test_kernels_build.py

wheel: $(STAMP)  ## the auditor's program: dist/verilora_verifier-*.whl, protocol and verifier alone
	rm -rf build/verifier && mkdir -p build/verifier
	cp -r protocol verifier build/verifier && mv build/verifier/verifier/pyproject.toml build/verifier
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(DIST) build/verifier

gateway:
	@command -v radosgw >/dev/null && command -v ceph-mon >/dev/null && command -v ceph-osd >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
	  $$as_root apt-get update -qq && $$as_root env DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends radosgw ceph-mon ceph-osd ceph-common; }

cluster-demo: $(STAMP) services gateway  ## a cluster on loopback: an audited run survives a killed prover and is verified by an auditor
	$(BIN)/python -m examples.cluster

gateway-test: $(STAMP) gateway  ## the S3 stores on a real server: installs Ceph's RADOS gateway by apt-get, starts it on loopback, stops it
	$(BIN)/python -m examples.gateway $(BIN)/python -m pytest -m gateway tests/storage tests/e2e

clean:  ## remove what can be made again (never var/, which holds runs)
	rm -rf .venv $(STAMP) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find prover -name '*.so' -delete
