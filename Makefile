# make demo   build, then run a guest in lockstep twice: undisturbed, and with a flipped bit and a killed module
# make test   everything the tests need, the linters, the tests
#
# All of it happens in a virtual environment in .venv; targets rebuild only what changed.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

C_FILES = $(shell find native firmware -name '*.[ch]')
BUILD_INPUTS = setup.py $(shell find native firmware -type f)

# What the tests need from Debian, as program:package.
TEST_PROGRAMS := gcc:build-essential qemu-system-x86_64:qemu-system-x86 cpio:cpio gdb:gdb lsattr:e2fsprogs \
	ip:iproute2 ping:iputils-ping passt:passt

.PHONY: build demo test lint format guests campaign clean host-packages
.DELETE_ON_ERROR:

# Compiled here and now: a start takes half as long then, and where PYTHONDONTWRITEBYTECODE is set Python never would.
build: $(VENV)/.built
	@$(BIN)/python -m compileall -q ftvm

demo: build
	$(BIN)/ftvm demo

test: host-packages lint
	$(BIN)/pytest

# The experiments that take many minutes.
campaign: TEST_PROGRAMS += debootstrap:debootstrap
campaign: host-packages build
	$(BIN)/pytest -m campaign --timeout 0

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ftvm
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

# The third-party guests that tests and benchmarks boot.
guests: build
	for guest in debian-cloud debian memtest86+ grub-invaders; do $(BIN)/ftvm guests fetch $$guest || exit; done

clean:
	rm -rf $(VENV) build dist *.egg-info ftvm/firmware ftvm/_native*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.dependencies: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: ftvm needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'error: Python cannot create virtual environments here; install python3-venv (apt-get install python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(VENV)/requires.txt
	$(BIN)/pip install --quiet --requirement $(VENV)/requires.txt
	touch $@

$(VENV)/.built: $(VENV)/.dependencies $(BUILD_INPUTS)
	@$(BIN)/python setup.py --quiet check_host
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[test]'
	touch $@

host-packages:
	@missing=$$(for pair in $(TEST_PROGRAMS); do command -v $${pair%%:*} >/dev/null || echo $${pair#*:}; done); \
	if [ -z "$$missing" ]; then :; \
	elif [ $$(id -u) = 0 ]; then apt-get update --quiet && \
		DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends $$missing; \
	else echo "error: the tests need a program that is missing here: apt-get install" $$missing >&2; exit 1; fi
