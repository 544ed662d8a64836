# make demo, make test, make lint: each sets up what it needs. make test PYTHON_JAX=0.11.2: the tests on another jax, in its own environment.
PYTHON_JAX ?=
ENVIRONMENT := .venv$(if $(PYTHON_JAX),-jax-$(PYTHON_JAX))
RUN := $(ENVIRONMENT)/bin/python -m
PYTEST ?= -q -n 2 --dist loadgroup

.PHONY: demo test lint clean

demo: $(ENVIRONMENT)/complete
	$(RUN) neo_jax.demo

test: $(ENVIRONMENT)/complete $(if $(PYTHON_JAX),,lint)
	$(RUN) pytest $(PYTEST)

lint: $(ENVIRONMENT)/complete
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

clean:
	rm -rf .venv .venv-jax-* .cache

$(ENVIRONMENT)/complete: requirements.txt requirements-dev.txt scripts/make_environment.sh scripts/find_python.sh
	scripts/make_environment.sh $(ENVIRONMENT) $(PYTHON_JAX)
