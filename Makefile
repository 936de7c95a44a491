# Everything below runs in its own virtual environment: no root, no system packages, no browser.
# `make` lists the targets; `make demo` and `make test` are all that a first look needs.

PYTHON      ?= python3
# PyTorch's CPU builds, as https://pytorch.org/get-started/locally says; macOS and Windows get theirs from PyPI.
# For an NVIDIA GPU: make demo TORCH_INDEX=(the address of your package index)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Two workers suit the smallest machine; the tests of a file share what they make, so that one worker gets all of them.
PYTEST_ARGS ?= -n 2 --dist loadfile

VENV := .venv
ifeq ($(OS),Windows_NT)
BIN  := $(VENV)/Scripts
else
BIN  := $(VENV)/bin
endif
PY   := $(BIN)/python
PIP  := $(PY) -m pip --disable-pip-version-check
ASSETS := src/emotag_hf/assets
CODE := src tests space benchmarks conversion_scripts docs/site_hooks.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-all quality format docs bench assets clean

help: ## list these targets
	@$(PYTHON) -c "import re; [print('  make %-10s %s' % m) for m in re.findall(r'^([a-z-]+):.*?## (.*)$$', open('Makefile').read(), re.M)]"

# --- the environment, in three steps, each only as big as its targets need -----------------------------------------

$(VENV)/.package: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'emotag_hf needs Python 3.11 or newer, $(PYTHON) is ' + sys.version.split()[0] + '; try make PYTHON=python3.11')"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install -q pip; }
	@echo "Installing PyTorch ..."
	@if [ "$$(uname -s)" = Linux ]; then \
	  $(PIP) install -q --retries 1 --no-deps --index-url $(TORCH_INDEX) $$(grep ^torch== constraints.txt) || \
	  echo "$(TORCH_INDEX) was not reached; PyTorch comes from pip's own index, perhaps with CUDA."; \
	fi
	@echo "Installing emotag_hf ..."
	@$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.package requirements-tracking.txt
	@echo "Installing the test tools ..."
	@$(PIP) install -q -c constraints.txt -e ".[dev,eval]" -r requirements-tracking.txt
	@$(PIP) install -q --no-deps -c constraints.txt mediapipe || \
	  echo "MediaPipe has no wheel for this Python or system; the tests that look for a face will be skipped."
	@touch $@

$(VENV)/.all: $(VENV)/.dev
	@echo "Installing every extra for the full tests ..."
	@$(PIP) install -q -c constraints.txt -e ".[browser,dev,eval,flame,gpu,space,train]"
	@touch $@

$(VENV)/.docs: $(VENV)/.package
	@echo "Installing the documentation tools ..."
	@$(PIP) install -q -c constraints.txt -e ".[docs]"
	@touch $@

# --- what people run ------------------------------------------------------------------------------------------------

demo: $(VENV)/.package ## make a video of a head that speaks a recording: outputs/demo.mp4
	@mkdir -p outputs
	@$(BIN)/emotag demo -o outputs/demo.mp4

test: $(VENV)/.dev ## run the tests; those that need real recordings are skipped, with the reason
	@$(PY) -m pytest $(PYTEST_ARGS)

test-all: $(VENV)/.all ## run all tests, the slow ones too; EMOTAG_TEST_DATA must name the folder of real recordings
	@EMOTAG_REQUIRE_ALL=1 $(PY) -m pytest $(PYTEST_ARGS)

quality: $(VENV)/.dev ## check style with ruff, and the types of the public modules with mypy
	@$(PY) -m ruff check $(CODE)
	@$(PY) -m ruff format --check $(CODE)
	@$(PY) -m mypy
	@$(PY) -c "import pathlib; print('type: ignore on', sum(p.read_text('utf-8').count('# type: ignore') for p in pathlib.Path('src').rglob('*.py')), 'lines')"

format: $(VENV)/.dev ## let ruff put the style right
	@$(PY) -m ruff check --fix $(CODE)
	@$(PY) -m ruff format $(CODE)

docs: $(VENV)/.docs ## build the documentation with the API as a site in site/; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict --clean
	@echo "site/index.html"

bench: $(VENV)/.package ## measure: real-time factor, cost per stage, rasteriser
	@for name in speak streaming emotion prepare rasteriser rig ssim tracking_truth; do \
	  echo "== $$name" && $(PY) benchmarks/bench_$$name.py || exit 1; done

assets: $(VENV)/.dev ## build everything that is embedded again that needs no recordings (ten minutes; needs ICT, MEDIAPIPE_FACE and espeak-ng)
	@test -f "$(ICT)" -a -f "$(MEDIAPIPE_FACE)" || { echo "set ICT and MEDIAPIPE_FACE: see conversion_scripts/README.md"; exit 2; }
	@$(PIP) install -q -c constraints.txt scipy
	$(PY) conversion_scripts/build_open_head --ict "$(ICT)" --mediapipe "$(MEDIAPIPE_FACE)" -o $(ASSETS)/open_head.safetensors
	$(PY) conversion_scripts/paint_demo_avatar -o $(ASSETS)/emotag-base-open
	$(PY) conversion_scripts/make_sample_speech.py -o $(ASSETS)/sample.flac

clean: ## remove what these targets made: the environment, caches, outputs
	rm -rf $(VENV) outputs build dist site .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
