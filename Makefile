# make demo, make test, make lint, make test-aot: each sets up what it needs. make test PYTHON_JAX=0.11.2: the tests on another jax, in its own
# environment. make test-aot, make test-aot-gpu: programs compiled for TPUs and for an H200 that are not there.
# make test-beam: indexes and conversions as pipelines of Apache Beam, in an environment of its own.
# make test-search: sweeps whose settings Optuna chooses, in an environment of its own.
# make test-tracking: run.trackers with the real packages, without network, in an environment of its own.
# make test-transformers: an exported Qwen3 loaded by transformers, in the environment of benchmark-step.
# make test-slurm: batch scripts and sweeps on a real SLURM of one node (Debian's packages, installed as root if they are missing).
# make drills: real runs that are killed, stalled, damaged and starved (ARGS="NAME ..."; 45 minutes on two cores; root, for a small disk that fills up).
# make soak SOAK_MINUTES=60: a run of many phases with random kills.
# make benchmark-step: times the training step beside the same in PyTorch (4 GB, an environment of its own).
# make plan ARGS="--config=configs/neo_ov_2b.py --hardware=v5p:4x4x4": what a run needs (neo_jax/plan.py).
# Huge pages for what XLA allocates in each step: on two cores the demo's step takes 0.82 to 0.88 of the time without (benchmarks/train_step.py;
# Linux 6.18 with transparent huge pages set to madvise, glibc 2.36). Elsewhere it does nothing.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
PYTHON_JAX ?=
ENVIRONMENT := .venv$(if $(PYTHON_JAX),-jax-$(PYTHON_JAX))
RUN := $(ENVIRONMENT)/bin/python -m
# What a user keeps in configs/ is no part of the project.
OWN_CONFIGS = $(shell git ls-files --others configs 2>/dev/null)
PYTEST ?= -q -n 2 --dist loadgroup
GPU_JAX := 0.11.2
SOAK_MINUTES ?= 60
LIBTPU := 0.0.52
LIBTPU_FOLDER := .cache/libtpu-$(LIBTPU)

.PHONY: benchmark-step demo drills plan soak test test-nightly test-aot test-aot-gpu test-beam test-search test-slurm test-tracking test-transformers lint clean

# On two virtual devices, each with half the rows of a step: on two cores the step of benchmarks/train_step.py at 512 tokens took 0.73 to
# 0.81 of the time that one device takes (three pairs of runs, jax 0.12.0.1).
demo: $(ENVIRONMENT)/complete
	$(RUN) neo_jax.demo --config=configs/demo.py --cpu-devices=2

test: $(ENVIRONMENT)/complete $(if $(PYTHON_JAX),,lint)
	$(RUN) pytest $(PYTEST)

test-nightly: $(ENVIRONMENT)/complete
	$(RUN) pytest $(PYTEST) -m nightly

test-aot: $(ENVIRONMENT)/complete $(LIBTPU_FOLDER)/complete
	PYTHONPATH=$(LIBTPU_FOLDER) $(RUN) pytest -q -n 2 --dist worksteal tests/aot $(ARGS)

plan: $(if $(findstring =h,$(filter --hardware=%,$(ARGS))),.venv-gpu/complete,$(ENVIRONMENT)/complete $(LIBTPU_FOLDER)/complete)
	$(if $(findstring =h,$(filter --hardware=%,$(ARGS))),.venv-gpu/bin/python -m,PYTHONPATH=$(LIBTPU_FOLDER) $(RUN)) neo_jax.plan $(ARGS)

test-aot-gpu: .venv-gpu/complete
	.venv-gpu/bin/python -m pytest -q tests/aot_gpu

test-beam: .venv-beam/complete
	.venv-beam/bin/python -m pytest -q tests/beam

test-search: .venv-search/complete
	.venv-search/bin/python -m pytest -q tests/search

test-tracking: .venv-tracking/complete
	.venv-tracking/bin/python -m pytest -q tests/tracking

test-slurm: $(ENVIRONMENT)/complete
	scripts/slurm_here.sh install
	$(RUN) pytest -q tests/slurm

test-transformers: $(ENVIRONMENT)/complete .venv-torch/complete
	$(RUN) pytest -q tests/transformers

benchmark-step: $(ENVIRONMENT)/complete .venv-torch/complete
	$(RUN) benchmarks.step

drills: $(ENVIRONMENT)/complete
	$(RUN) drills $(ARGS)

soak: $(ENVIRONMENT)/complete
	$(RUN) drills.soak --minutes=$(SOAK_MINUTES) $(ARGS)

lint: $(ENVIRONMENT)/complete
	$(RUN) ruff format --check . $(OWN_CONFIGS:%=--exclude %)
	$(RUN) ruff check . $(OWN_CONFIGS:%=--extend-exclude %)
	$(RUN) mypy

clean:
	rm -rf .venv .venv-beam .venv-gpu .venv-search .venv-torch .venv-tracking .venv-jax-* .cache

$(ENVIRONMENT)/complete: requirements.txt requirements-dev.txt requirements-cloud.txt scripts/make_environment.sh scripts/new_environment.sh scripts/find_python.sh
	scripts/make_environment.sh $(ENVIRONMENT) $(PYTHON_JAX)

$(LIBTPU_FOLDER)/complete: $(ENVIRONMENT)/complete
	rm -rf $(LIBTPU_FOLDER)
	$(RUN) pip install --quiet --disable-pip-version-check --no-deps --target $(LIBTPU_FOLDER) libtpu==$(LIBTPU)
	touch $@

.venv-gpu/complete: requirements.txt requirements-dev.txt requirements-cloud.txt requirements-gpu.txt scripts/make_environment.sh scripts/new_environment.sh scripts/find_python.sh
	scripts/make_environment.sh .venv-gpu $(GPU_JAX) requirements-gpu.txt

.venv-beam/complete: requirements-beam.txt scripts/make_beam_environment.sh scripts/new_environment.sh scripts/find_python.sh
	scripts/make_beam_environment.sh .venv-beam

.venv-search/complete: requirements.txt requirements-dev.txt requirements-cloud.txt requirements-search.txt scripts/make_environment.sh scripts/new_environment.sh scripts/find_python.sh
	scripts/make_environment.sh .venv-search "" requirements-search.txt

.venv-tracking/complete: requirements.txt requirements-dev.txt requirements-cloud.txt requirements-tracking.txt scripts/make_environment.sh scripts/new_environment.sh scripts/find_python.sh
	scripts/make_environment.sh .venv-tracking "" requirements-tracking.txt

.venv-torch/complete: requirements-torch.txt scripts/make_torch_environment.sh scripts/new_environment.sh scripts/find_python.sh
	scripts/make_torch_environment.sh .venv-torch
