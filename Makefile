# Each target sets up .venv by itself. Everything is installed at the versions in constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
PIP := @$(BIN)/python -m pip install -qq -c constraints.txt
BENCHMARKS := $(sort $(wildcard benchmarks/[a-z]*.py))

.PHONY: demo serve test check bench faults docs clean

demo: .venv/.core  ## train, measure and predict on a generated data set; leaves runs/demo (then demo-2, ...)
	$(BIN)/fullyconv demo

serve: .venv/.serve  ## a page in the browser with the model of the demo, which is trained if there is none yet
	@test -e runs/demo/best.safetensors || $(BIN)/fullyconv demo -o runs/demo
	$(BIN)/fullyconv serve runs/demo/best.safetensors

test: .venv/.dev  ## the tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4

check: .venv/.dev  ## format, lint, types, import order
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev  ## every benchmark, one after the other
	@for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(BIN)/python $$benchmark || exit 1; done

faults: .venv/.dev  ## kill, cut, flip, fill the disk: a table of tries and failures, in about an hour
	$(BIN)/python faults/run.py

docs: .venv/.dev  ## the documentation, in docs/_build/html
	$(BIN)/python -m sphinx -n -W --keep-going -q docs docs/_build/html

clean:
	rm -rf .venv docs/_build dist build

# The package alone is enough for the demo.
.venv/.core: pyproject.toml constraints.txt
	@echo "Installing into .venv; the first time takes a few minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --upgrade "pip>=25.1"
	$(PIP) -e .
	@touch $@

.venv/.serve: .venv/.core
	$(PIP) -e ".[serve]"
	@touch $@

.venv/.dev: .venv/.core
	@echo "Installing what tests, checks and documentation need."
	$(PIP) -e . --group dev
	@touch $@
