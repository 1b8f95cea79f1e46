# Every target sets up .venv by itself. PYTHON may name another interpreter of at least 3.11.
PYTHON ?= python3
BIN := .venv/bin
QUIET := --quiet --disable-pip-version-check --no-compile
# What is imported is compiled once, by its first import and not at set-up, also where Python is told to write nothing.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: ablation test lint docs clean

ablation: .venv/stamp
	$(BIN)/radar ablate ablations/studies/ordering.yaml

test: .venv/stamp  # three on two cores: tests wait for processes; in the order of the files: the largest are not the longest
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: .venv/stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/stamp  # the site, in build/site; the notebooks run, which takes minutes
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m docs.pages build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build  # not --quiet, which would hide warnings from strictness

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch first and by the range of pyproject.toml, so that pip takes its CPU build where one is offered.
.venv/stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(QUIET) "torch>=2.9,<2.14"
	$(BIN)/python -m pip install $(QUIET) -e '.[dev]'
	touch $@
