# One-word commands. `make demo` and `make test` need nothing but Python 3.11+ and make.

# JAX for Python 3.12 and later runs the training step 1.5 times as fast on a CPU as the one for 3.11, so a
# newer Python is preferred. pyenv hides versions that are not selected, so it is asked too.
PYTHON ?= $(shell for version in 3.12 3.13 3.14 3.11 3; do \
  for python in "python$$version" "$$(pyenv prefix $$version 2>/dev/null)/bin/python"; do \
    "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && exit; \
  done; done)
VENV := .venv
BIN := $(VENV)/bin
# Huge pages and a heap that is not given back: glibc reads this before the process starts, so it cannot be set later.
TUNED := GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000:glibc.malloc.top_pad=1000000000
DATA ?= ../shared/data
RUNS := runs

.PHONY: help setup demo test test-long lint format types data train-report evaluate-report score-clips \
        peers compare-keras compare-detectors benchmark-training clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 22

setup: $(VENV)/ready  ## .venv with all that demo, tests and training need

$(VENV)/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer with venv was found; set PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" --version
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "installing into $(VENV) (about 700 MB, some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## score the sample pictures and the sample clip with the shipped model
	@$(BIN)/fakeface classify samples/*.jpg
	@$(BIN)/fakeface score samples/*.mp4 --fps 2

test: setup  ## all tests but the long ones
	@$(BIN)/python -m pytest -m 'not long' -q

test-long: setup  ## the tests that take minutes
	@$(BIN)/python -m pytest -m long -q

lint: setup  ## style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup  ## put the style right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup  ## types
	@$(BIN)/mypy

$(RUNS)/manifest.parquet: | setup
	$(BIN)/fakeface data merge ciplab:$(DATA)/ciplab 140k:$(DATA)/140k \
	  csv:$(DATA)/faces.csv@dfdc,hardfake,oldgan --train-only hardfake oldgan --output $@
	$(BIN)/fakeface data audit $@

data: $(RUNS)/manifest.parquet  ## merge, audit and cut the faces of DATA
	$(BIN)/fakeface data build $(RUNS)/manifest.parquet --output $(RUNS)/data

train-report: data  ## train the model that ships into runs/report-cnn
	$(TUNED) $(BIN)/fakeface train --data $(RUNS)/data/fake_faces/faces-150 --output $(RUNS)/report-cnn \
	  --learning-rate 3e-4 --epochs 16

evaluate-report: setup  ## the shipped model on the test split, into runs/report-cnn/test
	$(BIN)/fakeface evaluate --data $(RUNS)/data/fake_faces/faces-150 --output $(RUNS)/report-cnn/test

score-clips: setup  ## the shipped model on every labelled clip of DATA
	$(BIN)/python scripts/score_clips.py $(DATA)/videos.csv

compare-detectors: setup  ## face detectors on DATA and on pictures without faces: docs/detectors.md
	$(BIN)/python scripts/compare_detectors.py $(DATA)

.venv-peers/ready: pyproject.toml constraints.txt
	@test -x .venv-peers/bin/python || "$(PYTHON)" -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check 'tensorflow>=2.19' 'keras>=3.9' scipy pillow pyarrow
	@touch $@

peers: .venv-peers/ready  ## an environment of its own with Keras and TensorFlow

compare-keras: data peers  ## the same recipe in Keras on the same split, into runs/keras
	$(BIN)/python scripts/compare_keras.py --data $(RUNS)/data/fake_faces/faces-150 --output $(RUNS)/keras \
	  --peer-python .venv-peers/bin/python --learning-rate 3e-4 --epochs 16

benchmark-training: setup  ## training step: the CPU formulation against plain Flax
	$(TUNED) $(BIN)/python scripts/benchmark.py training

clean:  ## remove caches and environments, not runs
	rm -rf $(VENV) .venv-peers .pytest_cache .mypy_cache .ruff_cache *.egg-info
