# Two commands are enough: `make demo` and `make test`. Both make .venv when it is missing or out of date.
#
#   PYTHON=python3.12      the interpreter to make .venv with (3.11 or newer)
#   TORCH=torch==2.12.0    another torch than the pinned one: a version, a wheel or a path; say it with every command
#   CONFIG=my.yaml         another config for `make demo`

PYTHON ?=
TORCH  ?=
CONFIG ?= examples/digits/config.yaml

BIN  := .venv/bin
# With a torch of one's own, everything is pinned but torch.
PINS := $(if $(TORCH),.venv/constraints.txt,constraints.txt)
PIP  := -m pip install --quiet -c $(PINS) $(TORCH)

# Threads of torch that spin while they wait make small models ten times slower on a machine that is busy otherwise.
OMP_WAIT_POLICY ?= PASSIVE
export OMP_WAIT_POLICY

.DEFAULT_GOAL := help
.PHONY: help demo demo-mlflow test faults lint bench guard peers wheel-test docs clean FORCE

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(BIN)/.installed ## train on real handwritten digits with a plugin listening
	$(BIN)/frameworm train --config $(CONFIG)
	@echo
	@echo 'What to try next:'
	@echo '  $(BIN)/frameworm runs list'
	@echo '  $(BIN)/frameworm train --config $(CONFIG) --set optimizer.lr=3e-4 --epochs 20'
	@echo '  $(BIN)/frameworm train --config $(CONFIG) --log-format json'
	@echo '  $(BIN)/python examples/python_api.py'
	@echo '  docs/tutorial.md: a picture, a model and a plugin of your own'

demo-mlflow: $(BIN)/.installed-mlflow ## the same, kept in MLflow (mlflow.db in this folder) by a process of its own
	$(BIN)/frameworm train --config examples/digits/mlflow.yaml
	@echo
	@echo 'To look at it: $(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db'

test: $(BIN)/.installed-dev ## run the whole suite
	$(BIN)/python -m pytest -n auto --dist loadfile

faults: $(BIN)/.installed-dev ## inject every fault that delivery must survive, in full (a quarter of an hour)
	FRAMEWORM_FAULTS=full $(BIN)/python -m pytest --timeout=900 tests/faults tests/bus tests/frameworm/delivery

lint: $(BIN)/.installed-dev ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(BIN)/.installed-dev ## measure everything: the guarded ratios, then absolute times
	$(BIN)/python -m benchmarks.guard --report
	$(BIN)/python -m pytest benchmarks/absolute.py --quiet --benchmark-columns=min,median,iqr,rounds

guard: $(BIN)/.installed-dev ## fail when an event, a step or the start-up costs more than its bar
	$(BIN)/python -m benchmarks.guard

peers: $(BIN)/.installed ## measure the same step and the same event in other libraries (in an environment of their own)
	$(BIN)/python -m venv build/peers
	build/peers/bin/python $(PIP) -e '.[peers]'
	build/peers/bin/python -m benchmarks.peers

wheel-test: $(BIN)/.installed-dev ## run the suite against the built wheel, out of the checkout's sight
	sh .ci/wheel-test $(BIN)/python

docs: $(BIN)/.installed-dev ## write anew what docs/ takes from the program, and its picture
	$(BIN)/python -m docs.generate
	$(BIN)/python -m docs.picture

clean: ## remove what installing, building, testing and caching left; runs/ stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A dangling link (its interpreter is gone) counts as missing, so the environment is made anew.
$(BIN)/python:
	@python=$$(sh .ci/find-python '$(PYTHON)') && echo "$$python -m venv .venv" && "$$python" -m venv --clear .venv

$(BIN)/.installed: pyproject.toml $(PINS) | $(BIN)/python
	$(BIN)/python $(PIP) -e .
	@touch $@

$(BIN)/.installed-mlflow: pyproject.toml $(PINS) | $(BIN)/python
	$(BIN)/python $(PIP) -e '.[mlflow]'
	@touch $(BIN)/.installed $@

$(BIN)/.installed-dev: pyproject.toml $(PINS) | $(BIN)/python
	$(BIN)/python $(PIP) -e '.[dev]'
	@touch $(BIN)/.installed $@

# Rewritten only when TORCH or the pins changed, so that only then anything is installed again.
.venv/constraints.txt: FORCE | $(BIN)/python
	@{ grep -v '^torch==' constraints.txt; echo '# torch: $(TORCH)'; } > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
