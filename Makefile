# Needs python3 with venv and pip, and make. Each target installs what it needs into .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help study test check docs clean

help:  ## Say what each target does.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

# torch first and pinned: a plain `torch` takes the newest. For another build (CUDA, CPU only) install it into .venv before.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

study: .venv/installed  ## Run the quickstart study; ends with the report's place.
	$(BIN)/neftune study recipes/quickstart.yaml

test: .venv/installed-dev  ## Run the tests (all but gpu and network).
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not gpu and not network'

check: .venv/installed-dev  ## Lint, formatting, types, import layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: .venv/installed-dev  ## Build the documentation into site/.
	$(BIN)/mkdocs build --strict --quiet

clean:  ## Remove what the targets made, studies excepted.
	rm -rf .venv site dist .pytest_cache .ruff_cache
