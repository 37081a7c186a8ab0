# What a newcomer runs: `make demo` and `make test`. Everything goes into .venv, from the versions in constraints.txt.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help install demo test test-all chaos check format clean

help:
	@echo "make demo      install, and run the whole job on synthetic micrographs (about 3 minutes)"
	@echo "make test      install, and run the tests (about 12 minutes)"
	@echo "make test-all  the tests, and those that take minutes each"
	@echo "make chaos     a hundred nights that are broken into (about an hour)"
	@echo "make check     linters, types and the import contract"
	@echo "make install   the set-up alone, into $(VENV)"
	@echo "make format    put the code into its form"
	@echo "make clean     remove what was installed and written here"

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group test --group lint
	touch $@

demo: install
	$(BIN)/spermseg demo --out demo

test: install
	$(PYTEST) -m "not long"

test-all: install
	$(PYTEST)

chaos: install
	$(BIN)/python benchmarks/trust/chaos.py --rounds 100

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
