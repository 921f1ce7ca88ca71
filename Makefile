# The kit's commands; `make help` lists them. README.md has the same without make.
.DEFAULT_GOAL := help
PYTHON ?= python3
PYTHON312 ?= $(firstword $(shell for p in python3.12 $(HOME)/.pyenv/versions/3.12*/bin/python3.12; do $$p -c "" 2>/dev/null && echo $$p; done))
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data/phantom
NOTEBOOKS := $(wildcard notebooks/*.py)
export TF_CPP_MIN_LOG_LEVEL ?= 2

demo: $(VENV)/.stamp $(DATA)/train.csv  ## synthetic competition, three notebooks, a scored submissions/submission.csv
	$(BIN)/python notebooks/execute.py 01_eda 02_train 03_inference --set DATA=$(abspath $(DATA)) --set RUNS=$(abspath runs/demo)
	$(BIN)/python -m kitlib.postprocess $(DATA) submissions/submission.csv
	@echo "Open pages/01_eda.html, pages/02_train.html and pages/03_inference.html; the run lies below runs/demo."

# two processes, each test file in one of them
PARALLEL := -n 2 --dist loadfile
test: $(VENV)/.stamp  ## all tests
	$(BIN)/python -m pytest $(PARALLEL)

test-kaggle: .venv-kaggle/.stamp  ## all tests on the versions of Kaggle's image
	.venv-kaggle/bin/python -m pytest $(PARALLEL)

JAX_TESTS := tests/layers tests/models
test-jax: $(VENV)/.jax  ## the tests of the pure-Keras modules on the JAX backend
	KERAS_BACKEND=jax $(BIN)/python -m pytest $(JAX_TESTS)

check: $(VENV)/.stamp  ## style, and notebooks that match their scripts
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python notebooks/generate.py --check

fix: $(VENV)/.stamp  ## mend style
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

notebooks: $(VENV)/.stamp  ## generate each ipynb from its script
	$(BIN)/python notebooks/generate.py

pages: $(VENV)/.stamp $(DATA)/train.csv  ## run all notebooks and render them to pages/*.html
	$(BIN)/python notebooks/execute.py

figures: $(VENV)/.stamp $(DATA)/train.csv  ## the pictures of README.md, from the phantom and its pages (make demo)
	$(BIN)/python -P docs/draw.py $(DATA) docs/pictures
	$(BIN)/python -m phantom.figures $(DATA) data/pictures
	@if [ -d pages/previews ]; then cp pages/previews/*.png docs/pictures/; fi

bench: .venv-bench/.stamp  ## run the benchmarks beside their peers, tables into benchmarks/results/ (not the two that train for an hour)
	@for script in $(filter-out benchmarks/difficulty.py benchmarks/comparison.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; .venv-bench/bin/python -P $$script --save || exit 1; done

bundle: $(VENV)/.stamp  ## what goes to Kaggle, into kaggle/bundle: RUNS="runs/..." KAGGLE_USER=name
	$(BIN)/python kaggle/bundle.py $(RUNS) --user $(or $(KAGGLE_USER),USERNAME)

kaggle-check: .venv-kaggle/.stamp  ## run the inference notebook offline as Kaggle would: public, rerun, hostile rerun
	.venv-kaggle/bin/python kaggle/check.py $(RUNS)

clean:  ## remove environments, caches, pages and the phantom; data, runs and submissions stay
	rm -rf .venv .venv-kaggle .venv-bench pages data/phantom build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.stamp: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

$(VENV)/.jax: $(VENV)/.stamp
	$(BIN)/python -m pip install -q "jax>=0.6"
	@touch $@

.venv-kaggle/.stamp: requirements.txt constraints-kaggle.txt pyproject.toml
	$(or $(PYTHON312),$(PYTHON)) -m venv .venv-kaggle
	.venv-kaggle/bin/python -m pip install -q -r requirements.txt -c constraints-kaggle.txt
	.venv-kaggle/bin/python -m pip install -q --no-deps -e .
	@touch $@

.venv-bench/.stamp: requirements.txt benchmarks/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install -q -r benchmarks/requirements.txt
	.venv-bench/bin/python -m pip install -q --no-deps -e .
	@touch $@

$(DATA)/train.csv: | $(VENV)/.stamp
	$(BIN)/python -m phantom $(DATA) --cases 16 --days 2 --processes 2

.PHONY: demo test test-kaggle test-jax check fix notebooks pages figures bench bundle kaggle-check clean help
