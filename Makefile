# Each target makes the environment it needs in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
DEMO_OUT ?= build/demo

.PHONY: demo test check bench clean

demo: .venv/ready  ## the embedded example: about 12 minutes on 2 cores
	$(BIN)/open-clip-ext demo --out $(DEMO_OUT) $(DEMO_ARGS)

test: .venv/ready check  ## lint, types, all tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready  ## what a step costs: about 10 minutes on 2 cores; figures in build/bench.json
	$(BIN)/python tests/benchmarks/run.py $(BENCH_ARGS)

.venv/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]' 'open_clip_torch[training]'
	touch $@

clean:
	rm -rf .venv build dist
