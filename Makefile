# The two commands: `make demo` and `make test`. Everything they need goes into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# On Linux a plain `torch` brings the CUDA build, several gigabytes. Where pip knows a CPU build of
# this release, it prefers that. Override it for another: make test-torch TORCH=torch
TORCH ?= torch==2.13.*

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test test-all test-tensorflow test-jax test-torch lint docs notebooks notebooks-check clean

demo: $(VENV)/.demo
	$(RUN) -m experiments.demo

test: test-tensorflow

test-all: test-tensorflow test-jax test-torch

test-tensorflow: $(VENV)/.test
	KERAS_BACKEND=tensorflow $(RUN) -m pytest -m "not slow"

# XLA would take three quarters of the time to make small programs fast that run for milliseconds.
# Tests of programs as users have them: make test-jax XLA_FLAGS=
test-jax: export XLA_FLAGS ?= --xla_backend_optimization_level=0 \
	--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false \
	--xla_cpu_parallel_codegen_split_count=1
test-jax: $(VENV)/.test $(VENV)/.jax
	KERAS_BACKEND=jax $(RUN) -m pytest -m "not slow"

# All tests, the slow ones too: PyTorch need not compile.
# Two test processes on one core each would only spin: PyTorch's threads wait busily for each other.
test-torch: $(VENV)/.test $(VENV)/.torch
	KERAS_BACKEND=torch OMP_NUM_THREADS=1 $(RUN) -m pytest

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# The guide, notebooks and reference as a site in build/docs. A link that leads nowhere is an error,
# but not with --quiet.
docs: $(VENV)/.test
	$(RUN) -m mkdocs build --strict

# Run the percent scripts and write the .ipynb files from what they show.
notebooks: $(VENV)/.test
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m notebooks.generate

# Run them and write nothing.
notebooks-check: $(VENV)/.test
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m notebooks.generate --check

clean:
	rm -rf $(VENV) runs build *.egg-info

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(RUN) -m pip install --quiet --editable ".[demo]"
	touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml
	$(RUN) -m pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/.jax: $(VENV)/.test
	$(RUN) -m pip install --quiet --editable ".[jax]"
	touch $@

$(VENV)/.torch: $(VENV)/.test
	$(RUN) -m pip install --quiet "$(TORCH)" --editable ".[torch]"
	touch $@
