# The one door: `make help` lists what can be done.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .install-stamp

.PHONY: help install demo test lint attacks bench cross clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

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

demo: $(STAMP)  ## audited fine-tune of a tiny LLaMA, verified in a new process
	$(BIN)/python -m examples.demo

test: $(STAMP)  ## all tests of a CI run
	$(BIN)/python -m pytest

lint: $(STAMP)  ## style, types of the code an auditor reads, import contracts
	$(BIN)/ruff check .
	$(BIN)/mypy --strict protocol verifier
	$(BIN)/python -m pytest -q tests/test_imports.py

attacks: $(STAMP)  ## longer run of tampering: every byte of toy proofs
	$(BIN)/python -m pytest -m attacks

bench: $(STAMP)  ## speeds as ratios to the machine's own multiplication and SHA-256 rates
	$(BIN)/python -m benchmarks

cross: $(STAMP)  ## compile-check the kernels for aarch64 (installs ziglang; minutes when its cache is cold)
	$(BIN)/pip install --quiet ziglang
	$(BIN)/python -m pytest tests/prover/test_kernels_build.py

clean:  ## remove what can be made again (never var/, which holds runs)
	rm -rf .venv $(STAMP) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find prover -name '*.so' -delete
