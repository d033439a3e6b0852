# Two commands do it all on a fresh machine with Python: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test check bench published transfer online conformance contract docs crash thousand clean

demo: $(VENV)/.demo  ## a deployed model learns new classes, with and without protection
	$(BIN)/everlearn demo --out demo

test: $(VENV)/.dev  ## all tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

check: $(VENV)/.dev  ## style, types, import directions, doctests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/python -m pytest --doctest-modules everlearn -q

bench: $(VENV)/.dev  ## speed against the bare PyTorch loop
	$(BIN)/python benchmarks/bench.py

published: $(VENV)/.dev  ## published numbers, rerun, and the pages that quote them; needs EVERLEARN_DATA
	$(BIN)/everlearn bench published --out benchmarks/results/published.json --docs docs

transfer: $(VENV)/.dev  ## what ways of transfer are worth, measured again; hours on four cores; needs EVERLEARN_DATA
	$(BIN)/everlearn bench transfer --out benchmarks/results/transfer.json --docs docs/transfer-results.md

online: $(VENV)/.dev  ## what learning from streams is worth, measured again; hours on four cores; needs EVERLEARN_DATA
	$(BIN)/everlearn bench online --out benchmarks/results/depth.json
	$(BIN)/python benchmarks/depth.py benchmarks/results/depth.json --weights 100000 --docs docs
	$(BIN)/python benchmarks/prequential.py --docs docs/online-results.md
	$(BIN)/python benchmarks/drift.py --docs docs/online-results.md
	$(BIN)/python benchmarks/backtests.py --docs docs --pictures

conformance: $(VENV)/.dev  ## every method through the checks of everlearn.conformance
	$(BIN)/python -m everlearn.conformance

contract: $(VENV)/.dev  ## every method, each property, each kind of model: in the tests each kind has its turn
	EVERLEARN_CONTRACT=all $(BIN)/python -m pytest tests/contract tests/conformance tests/equivalence -n auto --maxprocesses 4 --dist worksteal

docs: $(VENV)/.dev  ## the documentation, in site/
	$(BIN)/mkdocs build --strict

crash: $(VENV)/.dev  ## kill -9, more often than in the tests
	EVERLEARN_KILLS=200 $(BIN)/python -m pytest tests/crash -n 2

thousand: $(VENV)/.dev  ## a thousand experiences with every method: what is kept does not grow
	EVERLEARN_THOUSAND=all $(BIN)/python -m pytest tests/contract tests/conformance -k many_ -n 2 --dist worksteal

# torch first and by its pin, so that nothing else decides which build is taken.
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt torch==$$(sed -n 's/^torch==//p' constraints.txt)
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache
