# Each target does its own set-up: a virtual environment in .venv, installed once.
# `make demo PYTHON=/path/to/python3.12` chooses the interpreter.
CANDIDATES := python3 python3.12 python3.11 python3.13
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
DATA ?= ../shared/data
BIN := .venv/bin
# Side by side, each process on one core. `pytest PATH` runs a few in one.
TESTS := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadgroup
READY := .venv/.installed

.PHONY: help demo test check format bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     the whole run on a rendered room; the page is demo/index.html"
	@echo "make test     the default tests: offline, on the processor, about a quarter of an hour"
	@echo "make check    style, types, layers, then the tests: what has to pass"
	@echo "make format   lay out the code"
	@echo "make bench    the rows of benchmarks/, on the real images in DATA"
	@echo "make clean    remove .venv and demo/"

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "reloc needs Python 3.11 or newer: install it, or pass PYTHON=..." >&2; exit 1; }
	@echo "installing into .venv (once, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	@rm -rf demo
	@$(BIN)/reloc demo --out demo

test: $(READY)
	@$(TESTS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(TESTS)

bench: $(READY)
	@test -d "$(DATA)" || { echo "no data at $(DATA): pass DATA=..., docs/data.md says where to get it" >&2; exit 1; }
	@$(BIN)/reloc bench --methods thumbnail sift sift:orb --out benchmarks/rows.jsonl --scenes \
		"$(DATA)/7scenes/redkitchen" "$(DATA)/7scenes/redkitchen --split hard" \
		"$(DATA)/7scenes/redkitchen --unknown-focal" "$(DATA)/south_building" "$(DATA)/fox"
	@$(BIN)/reloc bench --methods ace --seeds 0 1 2 --out benchmarks/rows.jsonl --scenes \
		"$(DATA)/7scenes/redkitchen" "$(DATA)/7scenes/redkitchen --split hard" \
		"$(DATA)/south_building"

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo
