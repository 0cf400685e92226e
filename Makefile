# Two commands do everything on a fresh machine:  make demo   make test
# Each target creates .venv by itself; uv is used where it is present, pip otherwise.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PYTHONDONTWRITEBYTECODE ?=

.PHONY: demo test test-all lint format bench clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml constraints.txt scripts/bootstrap.sh
	PYTHON="$(PYTHON)" sh scripts/bootstrap.sh $(VENV)

demo: $(STAMP)  ## the main job on real data; DATA=your.h5ad LABEL=cell_type replaces the shipped cells
	$(BIN)/cellwright demo $(if $(DATA),--data $(DATA)) $(if $(LABEL),--label $(LABEL)) $(if $(OUT),--out $(OUT))

test: $(STAMP)  ## the default tests
	OMP_NUM_THREADS=1 NUMBA_CACHE_DIR=$(CURDIR)/.numba_cache $(BIN)/python -m pytest -q -n 2 -m "not slow and not gpu and not weights"

test-all: $(STAMP)  ## the default tests and the slow ones
	OMP_NUM_THREADS=1 NUMBA_CACHE_DIR=$(CURDIR)/.numba_cache $(BIN)/python -m pytest -q -n 2 -m "not gpu and not weights"

lint: $(STAMP)  ## style of the code
	$(BIN)/ruff check src tests bench scripts examples studies
	$(BIN)/ruff format --check src tests bench scripts examples studies

format: $(STAMP)  ## rewrite the code in the house style
	$(BIN)/ruff format src tests bench scripts examples studies
	$(BIN)/ruff check --fix src tests bench scripts examples studies

bench: $(STAMP)  ## speed and memory, as JSON rows in bench/results
	$(BIN)/python bench/tokens.py --record
	$(BIN)/python bench/attention.py --record
	$(BIN)/python bench/embed.py --record
	$(BIN)/python bench/embed.py --family scfoundation --record
	$(BIN)/python bench/step.py --record
	$(BIN)/python bench/generate.py --record
	$(BIN)/python bench/denoise.py --record
	$(if $(DATA),$(BIN)/python bench/tasks.py --data $(DATA) --record)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .numba_cache .hypothesis
