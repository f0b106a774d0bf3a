# make demo   a refinement from simulated images, and a chain to local refinement
# make test   tests (WORKERS=2 at once), but for the slowest; make test-all   all of them
# make lint, make types, make benchmark, make env, make clean
# make gpu   on a CUDA device: its tests, its checker, its table of times
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
STAMP := .venv/installed
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: env demo test test-all gpu lint types benchmark clean

env: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Protomer needs Python 3.11 or newer; found: $$($(PYTHON) --version). Give another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: env
	$(BIN)/protomer run workflow/demo.yaml --folder demo
	$(BIN)/protomer run workflow/examples/protomer.yaml --folder demo/protomer
	@echo "Done. Open demo/chain_report.html in a browser; the map is demo/consensus/map.mrc."
	@echo "The chain from a moving homodimer to one protomer ends in demo/protomer/of_subtracted/report.html."

test: env
	$(PYTEST) -m "not slow"

test-all: env
	$(PYTEST)

gpu: env
	$(BIN)/python -m pip install --quiet --editable '.[test,gpu]'
	$(BIN)/python -m pytest tests/test_cuda_arithmetic.py tests/test_cuda_maps.py tests/test_cuda_ptx.py tests/test_cuda_twins.py
	@if command -v compute-sanitizer >/dev/null; then \
	  for tool in memcheck racecheck; do \
	    PYTHONPATH=tests compute-sanitizer --error-exitcode 1 --tool $$tool $(BIN)/python tests/cuda_e_step.py cuda "$$(mktemp -d)" || exit 1; \
	  done; \
	else echo "compute-sanitizer is not on the path: the kernels' memory accesses are not checked"; fi
	$(BIN)/python benchmarks/gpu_registers.py
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/gpu_iteration.py --disk "$${TMPDIR:-/tmp}"

lint: env
	$(BIN)/ruff check .

types: env
	$(BIN)/mypy pipeline kernels

benchmark: env
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache pipeline/*.egg-info *.egg-info
