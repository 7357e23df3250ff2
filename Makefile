# Every target works without activating the virtual environment. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# As kvlib sets it, for the tests too, which load torch first.
export OMP_WAIT_POLICY ?= PASSIVE
# Bytes that the C library keeps in reserve: giving memory back after every layer costs a tenth of the time.
export MALLOC_TOP_PAD_ ?= 67108864

.PHONY: help setup workbook test attack lab figures clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(READY)  ## virtual environment in .venv with the pinned versions

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq -c constraints.txt -e '.[test]'
	@touch $@

workbook: setup  ## run the notebooks, print the table of criteria
	$(BIN)/kvlib workbook

test: setup  ## ruff, import rules, pytest, and all notebooks with small parameters
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q
	$(BIN)/python -m pytest -q --nbmake notebooks

attack: setup  ## every injected fault of the engine's tests, of which `make test` takes a sample
	ATTACK=all $(BIN)/python -m pytest -q tests/attack

lab: setup  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

figures: setup  ## redraw figures/ from the data stored beside them, without a model
	$(BIN)/kvlib figures

clean:  ## delete results/ and caches; figures/ and .venv stay
	rm -rf results .pytest_cache .import_linter_cache .ruff_cache .hypothesis *.egg-info
	find kvlib tests notebooks data -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
