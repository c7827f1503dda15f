# Everything a newcomer needs. `make demo`, `make test` and `make lint` do all of their own set-up in .venv.

VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
OUT    := runs/study
HOURS  := 1
STEPS  := 300
MINUTES := 17
PROMPT := a driving techno track with a saw lead at 130 bpm
# Several processes, each with whole files of tests, whose fixtures are made once, and with a Ray cluster of its own.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile
# An empty one is the package's own.
BUNDLE :=
PORT   := 8000

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help hear demo test test-slow lint serve study bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

hear: $(VENV)/demo.stamp ## music.wav from PROMPT="..." with the model that comes along
	$(BIN)/ssmttm generate "$(PROMPT)" --seconds 20 --out music.wav $(if $(BUNDLE),--bundle $(BUNDLE))

demo: $(VENV)/demo.stamp ## compose, train and hear it in about MINUTES=17: runs/demo/report.html
	$(BIN)/python jobs/demo.py --minutes $(MINUTES)

test: $(VENV)/dev.stamp ## fast tests
	$(PYTEST) -m "not slow and not gpu"

test-slow: $(VENV)/kernels.stamp ## kills, several processes, long runs
	$(PYTEST) -m slow

lint: $(VENV)/dev.stamp ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(VENV)/demo.stamp ## answer HTTP requests on PORT=8000 (BUNDLE=URI for another model than the package's own)
	$(BIN)/python -m serve port=$(PORT) $(if $(BUNDLE),bundle=$(BUNDLE))

study: $(VENV)/demo.stamp ## three sizes of two backbones, two seeds each: runs/study/report.html
	test -e $(OUT)/corpus/manifest.jsonl || $(BIN)/ssmttm corpus compose --hours $(HOURS) --out $(OUT)/corpus
	test -e $(OUT)/codec/report.json || $(BIN)/python jobs/train_codec.py corpus.source=$(OUT)/corpus codec.path=$(OUT)/codec
	test -e $(OUT)/tokens/dataset.json || \
	  $(BIN)/python jobs/preprocess.py corpus.source=$(OUT)/corpus codec.path=$(OUT)/codec corpus.out=$(OUT)/tokens
	$(BIN)/python tuning/scaling_study.py train.data=$(OUT)/tokens train.steps=$(STEPS) train.validate_every=30 train.micro_batch=8 \
	  --sizes 2,3,4 --width-per-layer 32 --backbones prefix_simba,cross_transformer --seeds 0,1 --out $(OUT)
	$(BIN)/python tuning/report.py $(OUT)

bench: $(VENV)/dev.stamp ## our backbones beside their rivals, side by side: tests/benchmarks/results
	$(BIN)/python tests/benchmarks/language_models.py
	$(BIN)/python tests/benchmarks/language_models.py --size paper --lengths 512 --batch 1 --rounds 3 --passes 1 --repeats 5
	$(BIN)/python tests/benchmarks/guided_decoding.py --bundle $(or $(BUNDLE),ssmttm/weights/mini)
	$(BIN)/python tests/benchmarks/long_decoding.py
	$(BIN)/python tests/benchmarks/slots.py
	$(BIN)/python tests/benchmarks/break_even.py

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# PYTHON=/path/to/python chooses the interpreter; otherwise the first of these that is new enough.
$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "error: Python 3.11 or newer was not found; install it or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$found --version): about 2.5 GB, two to three minutes, once."; \
	$$found -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "error: $$found cannot make a virtual environment; install its venv package" >&2; exit 1; }

# Without their dependencies: tinysoundfont's pyaudio, which only live playback needs, fails to build without PortAudio;
# encodec's torchaudio, which only its file reading needs, cannot be imported beside torch for CPU.
$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[demo]'
	$(PIP) install --quiet --no-deps tinysoundfont==0.3.7
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	$(PIP) install --quiet --no-deps tinysoundfont==0.3.7 encodec==0.1.1
	@touch $(VENV)/demo.stamp $@

# What the Triton kernels are compared with plain torch by, without a GPU: Triton, for its interpreter, and mamba-ssm as
# plain Python. Where they cannot be had the comparison is skipped.
$(VENV)/kernels.stamp: $(VENV)/dev.stamp
	{ $(PIP) install --quiet 'triton>=3.5' setuptools wheel && \
	  MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE \
	  $(PIP) install --quiet --no-deps --no-build-isolation 'mamba-ssm>=2.3'; } || \
	  echo "no Triton or mamba-ssm: the kernels are not compared" >&2
	@touch $@
