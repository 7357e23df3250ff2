# Every target works without activating the virtual environment. `make` alone lists them. No target changes committed files,
# except `make figures` and `make full`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# As kvlib sets it, for the tests too, which load torch first.
export OMP_WAIT_POLICY ?= PASSIVE
# Bytes that the C library keeps in reserve: giving memory back after every layer costs a tenth of the time.
export MALLOC_TOP_PAD_ ?= 67108864

.PHONY: help setup workbook test attack lab figures full clean

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
	$(BIN)/python -m pytest -q -n 3 --dist loadfile
	$(BIN)/python -m pytest -q -n 2 --nbmake notebooks

attack: setup  ## every injected fault of the engine's tests, of which `make test` takes a sample
	ATTACK=all $(BIN)/python -m pytest -q tests/attack

# Jupyter refuses root without being told, and in a container everybody is root. LAB: more options, such as --port=9999.
lab: setup  ## JupyterLab with the page of results and with copies of the notebooks; they lie in results/lab/ and are yours
	@mkdir -p results/lab/.original
	@for notebook in notebooks/*.ipynb; do \
	    name=$$(basename "$$notebook"); \
	    if [ ! -e "results/lab/$$name" ] || cmp -s "results/lab/$$name" "results/lab/.original/$$name"; then \
	        cp "$$notebook" "results/lab/$$name"; \
	        cp "$$notebook" "results/lab/.original/$$name"; \
	    elif ! cmp -s "$$notebook" "results/lab/.original/$$name"; then \
	        echo "$$notebook has changed since results/lab/$$name was copied: rename the copy to get the new one"; \
	    fi; \
	done
	@$(BIN)/kvlib page >/dev/null || echo "the page of results could not be written; JupyterLab opens without it"
	$(BIN)/jupyter lab results --LabApp.default_url=/lab/tree/index.html \
	    $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

figures: setup  ## redraw figures/ from the data stored beside them, without a model
	$(BIN)/kvlib figures

full: setup  ## list what rests on the reader with its time, then do all of it again, from one commit
	$(BIN)/python data/full.py

# What a run has measured may have taken hours, so it is deleted only after a question on a terminal. results/nbmake/ holds
# the small runs of `make test`; results/lab/ holds the user's own copies of the notebooks and is never deleted.
clean:  ## delete caches; ask before results are deleted; figures/, .venv and results/lab/ stay
	rm -rf .pytest_cache .import_linter_cache .ruff_cache .hypothesis *.egg-info results/nbmake
	find kvlib tests notebooks data benchmarks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +
	@found=$$(find results -mindepth 1 -maxdepth 1 ! -name lab 2>/dev/null); \
	if [ -n "$$found" ]; then \
	    find results -mindepth 1 -maxdepth 1 ! -name lab -exec du -sh {} +; \
	    answer=no; \
	    if [ -t 0 ]; then printf 'Delete these results? [y/N] '; read -r answer; fi; \
	    case "$$answer" in \
	        [yY]|[yY][eE][sS]) find results -mindepth 1 -maxdepth 1 ! -name lab -exec rm -rf {} + ;; \
	        *) echo "These results stay. Delete results/ yourself, or answer y on a terminal." ;; \
	    esac; \
	fi
	@if [ -d results/lab ]; then echo "results/lab/ stays: it holds your copies of the notebooks."; fi
