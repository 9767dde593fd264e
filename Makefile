# make demo   the whole loop on an invented survey, in a local sandbox; results in demo/
# make test   the tests
# make check  lint, types and tests, as CI does
# make audit  known faults of the locked packages; make sbom  what they are, as CycloneDX
# make docs   the pages of docs/, as HTML in docs/_build
PYTHON ?= python3
BIN    := .venv/bin
ARGS   ?=
# As pip does: trust what this machine trusts, a company's own certificates included.
export UV_SYSTEM_CERTS ?= 1
# Pages of 2 MiB for whoever trains networks, the tests among them; other systems than glibc's ignore it.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types check docs lock audit sbom wheel clean

help:
	@sed -n 's/^# make/make/p' Makefile

# The environment: uv (from a lock of its own) installs the locked packages, hashes checked.
.venv/.ready: requirements.lock deploy/uv.lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "zoo_bridge needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r deploy/uv.lock.txt
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock deploy/uv.lock.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

setup: .venv/.ready

demo: setup
	$(BIN)/zoo-bridge demo $(ARGS)

# Each worker with one thread: as many as there are cores would only wait for each other.
test: setup
	TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types test

# The reference is written from the code; a warning is an error.
docs: setup
	$(BIN)/python docs/reference.py
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build
	@echo "Open docs/_build/index.html"

# requirements.lock is what development, tests and the demo install; openvino is 180 MB that few
# want. deploy/requirements.lock is what the image installs: the service alone, at the same versions.
EXTRAS  := --extra sandbox --extra notify --extra postgresql --extra dask --extra onnx --extra dev
SERVICE := --extra notify --extra postgresql --extra dask --extra onnx
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
lock: setup
	$(COMPILE) $(EXTRAS) --no-annotate --no-emit-package uv pyproject.toml -o requirements.lock
	$(COMPILE) $(SERVICE) --no-annotate -c requirements.lock pyproject.toml -o deploy/requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-header deploy/uv.in -o deploy/uv.lock.txt

# Asks PyPI for advisories on what the image installs. A package that it could not ask about is named,
# and fails the audit: nothing is known of it.
audit: setup
	$(BIN)/python -m pip_audit --strict --require-hashes --disable-pip -r deploy/requirements.lock

# Of what the image installs. It needs no network.
sbom: setup
	$(BIN)/python -m cyclonedx_py requirements deploy/requirements.lock --of JSON -o sbom.json
	@echo "Wrote sbom.json"

wheel: setup
	$(BIN)/uv build --wheel --no-build-isolation --python $(BIN)/python

clean:
	rm -rf .venv demo build dist docs/_build *.egg-info
