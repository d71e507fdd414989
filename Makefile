# Two commands do everything on a fresh machine: `make quickstart` and `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
LOCK := deploy/locks/cpu.txt
TORCH := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
UV := uv==0.13.8
RUN_DIR ?= runs/quickstart

.PHONY: quickstart test check format lock install install-gpu clean

quickstart: install
	@$(BIN)/r1ray train conf/quickstart.yaml run.dir=$(RUN_DIR)

# Set MARKERS="" to run slow tests too.
MARKERS ?= not gpu and not slow
test: install
	$(BIN)/python -m pytest -m "$(MARKERS)" $(TESTS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/.installed

# PyPI's plain torch is a CUDA build, so the CPU build comes first and alone: from the indexes this machine is set up
# with, else from PyTorch's own. The lock is complete and leaves out torchvision and its like, whose CUDA builds break
# a CPU torch; hence --no-deps. DeepSpeed comes as source, and builds against the torch that is there.
$(VENV)/.installed: $(LOCK) pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), f"r1ray is locked for Python 3.11, got {sys.version}: set PYTHON=/path/to/python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "$(TORCH)" \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --no-deps "$(TORCH)" --index-url $(TORCH_INDEX)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(UV)" setuptools wheel ninja
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation-package deepspeed -r $(LOCK)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

# A GPU machine takes vLLM with its ordinary dependencies.
install-gpu:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -e ".[gpu,dev]"

# Resolves the lock anew from pyproject.toml.
lock: install
	$(BIN)/uv pip compile pyproject.toml --extra cpu --extra dev --python-version 3.11 \
		--override deploy/locks/overrides.txt --no-emit-package torch --no-annotate --no-header -o $(LOCK)

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
