# make demo    set up, build the demo's artifacts of both families and validate them
# make test    set up, then lint, types and all tests but the long sweeps
# make check   lint, types and the fast tests
# make soak    all tests and sweeps (over an hour; needs strace, npm and a network)
# make damage  plant damage in artifacts, and see what `exporter validate` finds (about an hour)
# make newest  set up .newest, then the demo and some tests with the newest transformers
# make docs    write the generated parts of docs/
#
# VENV=folder puts the environment elsewhere; PYTHON=python3.12 chooses the interpreter.
# ONNXRUNTIME=onnxruntime chooses its smaller wheel, for CPUs; an environment has one of the two.

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The exact pin lets pip take a CPU build of torch where one is available (a local folder, a mirror).
TORCH := torch==2.13.0
ONNXRUNTIME ?= onnxruntime-gpu
# Tests of one file share what they build. Not reordered, so that no long file is left to the end.
WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo test check soak damage newest docs lint tools

help:
	@sed -n -e 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/.ready
	$(BIN)/exporter build recipes/wav2vec2-demo-int8.yaml --output artifacts
	$(BIN)/exporter validate artifacts/wav2vec2-demo-int8
	$(BIN)/exporter build recipes/whisper-demo-int8.yaml --output artifacts
	$(BIN)/exporter validate artifacts/whisper-demo-int8
	@echo 'The command: . $(VENV)/bin/activate && exporter --help'

# The longest file first, so that no worker is left alone with it.
test: lint
	$(BIN)/python -m pytest -q $(WORKERS) -m "not sweep" tests/tune/test_demo.py tests

check: lint
	$(BIN)/python -m pytest -q $(WORKERS) -m "not slow and not sweep"

# First the tests that measure time, alone; then the others, the long sweeps first.
soak: lint
	rm -rf .soak
	$(BIN)/python -m pytest -v tests -m alone --junitxml=.soak/alone.xml
	$(BIN)/python -m pytest -v $(WORKERS) tests/soak tests --ignore tests/docs/test_reliability.py -m "not alone" \
	  --junitxml=.soak/together.xml
	$(BIN)/python -m tests.soak.table .soak/*.xml

# Single-threaded, since the steps of each command are forks. What is built is kept in .damage/.
damage: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.damage --json .damage/plants.json
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.damage --honest --json .damage/honest.json

# An environment of its own, because optimum holds transformers back in that of `make test`.
NEWEST := .newest/environment
TESTED := tests/families tests/runtime tests/checkpoint tests/build/test_contract.py \
  tests/build/test_ctc_contract.py tests/hub/test_push.py tests/hub/test_pull.py tests/hub/test_client.py

newest: $(NEWEST)/.ready
	for name in wav2vec2 whisper; do \
	  $(NEWEST)/bin/exporter build recipes/$$name-demo-int8.yaml --output .newest/artifacts --force && \
	  $(NEWEST)/bin/exporter validate .newest/artifacts/$$name-demo-int8 || exit 1; done
	$(NEWEST)/bin/python -m pytest -q $(WORKERS) -m "not sweep and not optimum" $(TESTED)

$(NEWEST)/.ready: pyproject.toml | tools
	@echo "installing into $(NEWEST) (minutes, the first time)"
	@$(PYTHON) -m venv $(NEWEST)
	@$(NEWEST)/bin/python -m pip --disable-pip-version-check --quiet install $(TORCH) \
	  'transformers>=5' --editable '.[test,$(ONNXRUNTIME)]'
	@touch $@

docs: $(VENV)/.ready
	$(BIN)/python -m docs.generate

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict exporter benchmarks

tools:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: apt install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11: make PYTHON=python3.11 ..."; exit 1; }
	@command -v $${CXX:-g++} >/dev/null || { echo "error: $${CXX:-g++} not found: apt install g++"; exit 1; }

$(BIN)/python: | tools
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -f $(BIN)/python; echo "error: cannot create an environment: apt install python3-venv"; exit 1; }

# A stamp older than pyproject.toml means that dependencies may have changed.
$(VENV)/.ready: pyproject.toml | tools $(BIN)/python
	@echo "installing into $(VENV) (minutes, the first time)"
	@$(PIP) install $(TORCH) --editable '.[validate,$(ONNXRUNTIME)]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml | tools $(BIN)/python
	@echo "installing into $(VENV), with the development tools (minutes, the first time)"
	@$(PIP) install $(TORCH) --editable '.[dev,$(ONNXRUNTIME)]'
	@touch $@ $(VENV)/.ready
