# Two commands do everything a newcomer needs: `make run` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ARGS   ?=
# Tests run in two processes, a file in one of them; those of apps, which take longest, come first.
SPLIT  := --numprocesses 2 --dist loadfile --no-loadscope-reorder

export FLWR_TELEMETRY_ENABLED ?= 0

.PHONY: run compare test test-slow lint format docs clean

# Simulate a federation, e.g. make run ARGS="rounds=10 method=exits"
run: $(READY)
	$(BIN)/python run_simulation.py $(ARGS)

# Draw several runs into one page, e.g. make compare RUNS="runs/a runs/b"
compare: $(READY)
	$(BIN)/python -m server_app.compare $(RUNS) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(SPLIT) -m "not slow" $(ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Write docs/settings.md from the files of settings/.
docs: $(READY)
	$(BIN)/python docs/make_settings.py

# The environment: exact versions from the lock file, then the package itself, editable.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedgraft needs Python 3.11 or newer; run make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info
