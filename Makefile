# One environment for everything: made on first use, made again when the pins change.
PYTHON ?= python3
VENV := .venv
# One thread per process: on a shared machine more are many times slower, and results repeat.
export OMP_NUM_THREADS ?= 1

.PHONY: quickstart test check
quickstart: $(VENV)/ready  ## train the tiny policy on rendered pictures, on one CPU, in minutes
	$(VENV)/bin/python -m data_prep.synthetic --output data/synthetic
	$(VENV)/bin/python -m vlm_rl.fit --config configs/quickstart.yaml

test: $(VENV)/ready  ## linter, type checker and every test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest -q --numprocesses 2 --dist loadfile

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@
