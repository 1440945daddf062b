# Each target makes the environment it needs in .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
DEMO_OUT ?= build/demo

CHECK = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
PYTEST = $(BIN)/python -m pytest --dist loadgroup --no-loadscope-reorder

.PHONY: demo test quick check bench bench-gpu matrix clean

demo: .venv/ready  ## the embedded example: about 12 minutes on 2 cores
	$(BIN)/open-clip-ext demo --out $(DEMO_OUT) $(DEMO_ARGS)

# One process more than cores, as one of them often waits for SLURM. After `exec` pytest tells what all of it took.
test: .venv/ready  ## lint, types, all tests: 13 minutes on 2 cores
	$(CHECK) && exec $(PYTEST) --numprocesses $$(($$(nproc) + 1)) $(TEST_ARGS)

quick: .venv/ready  ## lint, types and the light tests: 4 minutes on 2 cores
	$(CHECK) && exec $(PYTEST) --numprocesses auto -m "not (cluster or real_start or trainer)" $(TEST_ARGS)

check: .venv/ready  ## lint and types
	$(CHECK)

bench: .venv/ready  ## what a step costs: about 10 minutes on 2 cores; figures in build/bench.json
	$(BIN)/python tests/benchmarks/run.py $(BENCH_ARGS)

bench-gpu: .venv/ready  ## the same on one GPU, in bf16: at most 8 minutes; figures in build/bench-gpu.json
	$(BIN)/python tests/benchmarks/gpu.py $(BENCH_ARGS)

matrix: .venv/ready  ## every open_clip_torch with the oldest and the newest torch: 16 minutes on 2 cores
	$(BIN)/python tests/matrix/run.py $(MATRIX_ARGS)

.venv/ready: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]' 'open_clip_torch[training]'
	touch $@

clean:
	rm -rf .venv build dist
