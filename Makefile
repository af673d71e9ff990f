# Two commands do everything: `make demo` and `make test`; both make .venv first.
.PHONY: env demo test lint docs lock wheel clean
.DELETE_ON_ERROR:

PYTHON ?= python3.12
# Processes of the test suite; 0: all tests in one.
TEST_PROCESSES ?= 2
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.aqvolt-installed

env: $(STAMP)

# Every dependency from the lock file (exact versions, hashes), then the project itself, editable.
$(STAMP): requirements.lock pyproject.toml Makefile
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found; install Python 3.12 or run make PYTHON=/path/to/python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: env
	$(BIN)/aqvolt demo --workdir demo

test: env
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site, into site/; a warning is an error, and nothing is fetched.
docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -W ignore -m mkdocs build --strict --quiet

# All extras but gpaw (it compiles C), and the development tools; no download addresses.
lock:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip compile --quiet pyproject.toml --group dev --group docs --extra mlip --extra m3gnet --extra train --extra embedded --extra mp --extra lithiation --extra benchmarks --extra hub --extra query \
	  --extra report --extra s3 --universal --python-version 3.12 --prerelease if-necessary \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file requirements.lock >/dev/null

wheel: env
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist .

clean:
	rm -rf $(VENV) build dist demo site *.egg-info
