# Front door. `make` alone lists the commands.
PYTHON ?= python3
VENV    = .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check --quiet

# Images for containers often set it: then every process compiles all that it imports again, seconds each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-train lint format types audit hooks docs bench study clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## fetch a real model and real news, extract, train 9 heads, print the leaderboard
	@echo "==> dvc repro: fetch, prepare, extract, train, analyse, evaluate, report (what is up to date is not run again)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -P -m ilse.warm $(BIN)/dvc repro # stages share one import of the packages
	@echo
	@cat results/leaderboard.txt
	@echo
	@echo "report: $(CURDIR)/results/report.html"

test: $(VENV)/.test ## run the whole test suite
	@echo "==> pytest"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-train: .venv-train/.train ## run the trainer's tests where only the extras 'train', 'tune' and 'export' are installed
	@echo "==> the trainer's tests, without transformers, dask and tokenizers"
	@.venv-train/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/trainer tests/test_imports.py $(ARGS)

lint: $(VENV)/.dev ## check style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.dev ## mend style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.dev ## check types
	@$(BIN)/mypy

audit: .venv-audit/.made ## ask PyPI whether a tested version has a known vulnerability; what it cannot say counts as one
	@.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

hooks: $(VENV)/.dev ## run the checks before each commit
	@$(BIN)/pre-commit install

docs: $(VENV)/.docs ## build the documentation into site/; a warning is an error
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs site
	@echo "documentation: $(CURDIR)/site/index.html"

bench: $(VENV)/.bench ## run the benchmarks; each prints one JSON object as its last line (ARGS=--quick)
	@for name in store tokens extraction scale scale_out storage_types training token_heads contention faults versioning statistics hostile architectures; do echo "==> $$name"; $(BIN)/python -m benchmarks.$$name $(ARGS) || exit 1; done

study: $(VENV)/.study ## run the study of docs/study.md on DATA=folder, a folder a task (hours)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.study "$(DATA)" $(ARGS)

clean: ## remove the environments, scratch work and caches; data, models and results stay
	rm -rf $(VENV) .venv-train .venv-audit site data/scratch .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

# Of its own: what audits the tested versions is none of them.
.venv-audit/.made:
	@$(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python -m pip --disable-pip-version-check --quiet install pip-audit==2.10.1
	@touch $@

# An environment is made once and brought up to date when its list of packages changes. Only what is imported gets
# compiled, when it is: compiling all packages takes a third of the time.
$(VENV)/.demo: EXTRAS := extract,train,dvc
$(VENV)/.study: EXTRAS := extract,train,dvc,lora
$(VENV)/.test: EXTRAS := test
$(VENV)/.bench: EXTRAS := bench
$(VENV)/.dev:  EXTRAS := dev
$(VENV)/.docs: EXTRAS := docs
.venv-train/.train: VENV := .venv-train
.venv-train/.train: EXTRAS := tune,export,check

$(VENV)/.demo $(VENV)/.study $(VENV)/.test $(VENV)/.bench $(VENV)/.dev $(VENV)/.docs .venv-train/.train: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "==> $(VENV): making the environment"; $(PYTHON) -m venv $(VENV); }
	@echo "==> $(VENV): installing ilse-cache[$(EXTRAS)] with the tested versions (a minute or two the first time)"
	@$(PIP) install --no-compile -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@
