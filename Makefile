# Everything happens in .venv; nothing is installed globally.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test test-slow test-native lint check clean

help:
	@echo "make demo       set up, then train with GGDR on the bundled images and measure the result"
	@echo "make test       set up, then run the tests"
	@echo "make test-slow  set up, then run the slow tests too"
	@echo "make test-native  set up, then run the tests of numbers with compiled ops"
	@echo "make lint       set up, then ruff, codespell and mypy"
	@echo "make clean      remove the virtual environment and caches"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Error: Python 3.11 or newer is needed, '$(PYTHON)' is older; try make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'torch>=2.14.1' 'torchvision>=0.29.1'
	$(BIN)/python -m pip install --quiet --editable '.[efficientnet,tensorboard,lmdb,export,video,analysis,plots,dev,compare]'
	@touch $(STAMP)

demo: setup
	$(BIN)/python tools/demo.py

# Two processes, a file to one of them; each test computes with one thread.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

# WITHOUT=fuzz leaves out the longest of them, as continuous integration does.
WITHOUT ?= gpu
test-slow: setup
	$(BIN)/python -m pytest -m 'slow and not gpu and not $(WITHOUT)' -n 2 --dist loadfile

# Ops, networks, losses and training once more, with compiled ops in place of plain PyTorch.
test-native: setup
	GGDR_OPS=native $(BIN)/python -m pytest -n 2 --dist loadfile tests/parity tests/training/test_networks.py \
		tests/training/test_objective.py tests/training/test_ggdr.py tests/training/test_augment.py tests/training/test_phases.py \
		tests/training/test_training_loop.py tests/torch_utils/test_convolution.py tests/torch_utils/test_ops.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/codespell
	$(BIN)/mypy

check: lint test

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
