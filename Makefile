# The kit's commands; `make help` lists them. README.md has the same without make.
.DEFAULT_GOAL := help
SUITS := -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))"
PYTHON ?= $(firstword $(shell for p in python3 python3.13 python3.12 python3.11; do $$p $(SUITS) 2>/dev/null && echo $$p; done))
SUITED = $(or $(PYTHON),false) $(SUITS) || { echo "PYTHON=$(PYTHON): the kit needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
PYTHON312 ?= $(firstword $(shell for p in python3.12 $(HOME)/.pyenv/versions/3.12*/bin/python3.12; do $$p -c "" 2>/dev/null && echo $$p; done))
VENV := .venv
BIN := $(VENV)/bin
# an environment belongs to one version of Python: another one, given as PYTHON=..., replaces it
version_of = $(shell $(or $(1),false) -c "import sys; print('%d.%d' % sys.version_info[:2])" 2>/dev/null)
STAMP := $(VENV)/.python-$(call version_of,$(PYTHON))
KAGGLE_STAMP := .venv-kaggle/.python-$(call version_of,$(or $(PYTHON312),$(PYTHON)))
CHECK_STAMP := .venv-check/.python-$(call version_of,$(PYTHON))
BENCH_STAMP := .venv-bench/.python-$(call version_of,$(PYTHON))
DATA ?= data/phantom
CHOSEN := $(if $(filter file,$(origin DATA)),,--set "DATA=$(DATA)")
# a path may hold blanks, and begin with ~
override DATA := $(if $(filter ~/%,$(firstword $(DATA))),$(subst ~/,$(HOME)/,$(DATA)),$(DATA))
TABLE := $(subst $(subst ,, ),\ ,$(DATA))/train.csv
export TF_CPP_MIN_LOG_LEVEL ?= 2

demo: $(STAMP) $(TABLE)  ## synthetic competition, three notebooks, a scored submissions/submission.csv
	$(BIN)/python notebooks/execute.py 01_eda 02_train 03_inference --set "DATA=$(DATA)" --set RUNS=runs/demo
	$(BIN)/python -m kitlib.scoring "$(DATA)/truth.csv" submissions/submission.csv --data "$(DATA)" --ledger 5 --quiet
	$(BIN)/python -m kitlib.figures submissions/submission.csv "$(DATA)" --viewer
	$(BIN)/python -m kitlib.postprocess "$(DATA)" submissions/submission.csv
	@echo "Open pages/01_eda.html, pages/02_train.html, pages/03_inference.html, and submissions/submission-viewer.html, the score viewer."

# two processes, each test file in one of them
PARALLEL := -n 2 --dist loadfile
test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest $(PARALLEL)

test-kaggle: $(KAGGLE_STAMP)  ## all tests on the versions of Kaggle's image
	.venv-kaggle/bin/python -m pytest $(PARALLEL)

test-jax: $(VENV)/.jax  ## the tests of the pure-Keras rooms on the JAX backend
	KERAS_BACKEND=jax $(BIN)/python -m pytest tests/layers tests/models

# these three need no TensorFlow, and have a small environment of their own
check: $(CHECK_STAMP)  ## style, and notebooks that match their scripts
	.venv-check/bin/ruff check . && .venv-check/bin/ruff format --check . && .venv-check/bin/python notebooks/generate.py --check

fix: $(CHECK_STAMP)  ## mend style
	.venv-check/bin/ruff check --fix . ; .venv-check/bin/ruff format .

notebooks: $(CHECK_STAMP)  ## generate each ipynb from its script
	.venv-check/bin/python notebooks/generate.py

pages: $(STAMP) $(TABLE)  ## run all notebooks and render them to pages/*.html
	$(BIN)/python notebooks/execute.py $(CHOSEN)

figures: $(STAMP) $(TABLE)  ## the pictures of README.md, from the phantom and its pages (make demo)
	$(BIN)/python -P docs/draw.py "$(DATA)" docs/pictures --viewer submissions/submission-viewer.html
	$(BIN)/python -m phantom.figures "$(DATA)" data/pictures
	@if [ -d pages/previews ]; then cp pages/previews/*.png docs/pictures/; fi

# not the benchmarks that train for half an hour or more: run those by name
LONG := $(patsubst %,benchmarks/%.py,difficulty comparison encoders command real roles volume prior axes peers experiment gpu)
bench: $(BENCH_STAMP)  ## run the benchmarks beside their peers, tables into benchmarks/results/
	@for script in $(filter-out $(LONG),$(wildcard benchmarks/*.py)); do echo "== $$script"; .venv-bench/bin/python $$script --save || exit 1; done

bundle: $(STAMP)  ## what goes to Kaggle, into kaggle/bundle: RUNS="runs/..." KAGGLE_USER=name [ENCODER=name] [ANY_DATA=1]
	$(BIN)/python kaggle/bundle.py $(RUNS) --user "$(KAGGLE_USER)" $(if $(ENCODER),--encoder "$(ENCODER)") $(if $(ANY_DATA),--any-data)

kaggle-check: $(KAGGLE_STAMP)  ## run the inference notebook offline as Kaggle would, in an environment with Kaggle's versions: [RUNS=...]
	.venv-kaggle/bin/python kaggle/check.py $(RUNS)

clean:  ## remove environments, caches, pages and the phantom; data, runs and submissions stay
	rm -rf .venv .venv-check .venv-kaggle .venv-bench pages data/phantom build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): requirements.txt pyproject.toml
	@$(SUITED)
	@[ -e $@ ] || { $(PYTHON) -m venv --clear $(VENV) && $(BIN)/python -m pip install -q --upgrade pip; }
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	@touch $@

$(CHECK_STAMP): requirements.txt
	@$(SUITED)
	@[ -e $@ ] || $(PYTHON) -m venv --clear .venv-check
	.venv-check/bin/python -m pip install -q -c requirements.txt jupytext ruff
	@touch $@

$(VENV)/.jax: $(STAMP)
	$(BIN)/python -m pip install -q "jax>=0.6"
	@touch $@

$(KAGGLE_STAMP): requirements.txt constraints-kaggle.txt pyproject.toml
	@[ -n "$(or $(PYTHON312),$(PYTHON))" ] || { echo "no Python 3.12 found; name one: make PYTHON312=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@[ -e $@ ] || $(or $(PYTHON312),$(PYTHON)) -m venv --clear .venv-kaggle
	.venv-kaggle/bin/python -m pip install -q -r requirements.txt -c constraints-kaggle.txt
	.venv-kaggle/bin/python -m pip install -q --no-deps -e .
	@touch $@

$(BENCH_STAMP): requirements.txt benchmarks/requirements.txt pyproject.toml
	@[ -e $@ ] || $(PYTHON) -m venv --clear .venv-bench
	.venv-bench/bin/python -m pip install -q -r benchmarks/requirements.txt
	.venv-bench/bin/python -m pip install -q --no-deps -e .
	@touch $@

$(TABLE): | $(STAMP)
	$(BIN)/python -m phantom "$(DATA)" --cases 16 --days 2 --processes 2

.PHONY: demo test test-kaggle test-jax check fix notebooks pages figures bench bundle kaggle-check clean help
