# Two commands matter: `make demo` and `make test`. Each sets itself up in .venv; a second run starts at once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
TRITON := $(VENV)/.triton
# Test workers share two cores: more than one thread in each makes all of them slow.
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: demo test test-full lint types layers examples format clean

demo: $(READY)
	$(VENV)/bin/polargrad demo --out demo

test: $(READY)
	$(MAKE) --no-print-directory -j $(WORKERS) --output-sync=target lint types layers examples
	$(ONE_THREAD) $(RUN) -m pytest -n $(WORKERS) -m "not slow"

test-full: test $(TRITON)
	$(ONE_THREAD) $(RUN) -m pytest -n $(WORKERS) -m slow

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(READY)
	$(RUN) -m mypy

layers: $(READY)
	$(VENV)/bin/lint-imports --no-cache

examples: $(READY)
	@for example in examples/*.py; do echo "$$example"; $(ONE_THREAD) $(RUN) $$example >/dev/null || exit 1; done

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[all]"
	touch $(READY)

# For the interpreted kernels of `make test-full` alone: a gigabyte, and no GPU is needed.
$(TRITON): $(READY)
	PIP_CONSTRAINT=constraints.txt $(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[triton]"
	touch $(TRITON)

clean:
	rm -rf $(VENV) demo
