# Tasks of the project. `make demo` and `make test` do all their own set-up, in .venv; README.md says what else is needed.
#
#   make demo     install ctfast and generate one volume with a picture of it, in out/
#   make test     install what the tests need; run the C++ tests and pytest on the installed package
#   make lint     ruff, mypy --strict, clang-format
#   make cuda     compile the CUDA kernels for all architectures, where nvcc is found
#   make native   build the extension into the source tree, for development
#   make clean    remove what these made
#
# PYTHON is the Python that .venv is made with, TORCH the torch that the tests use (any requirement pip understands).
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
OUT ?= out

BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# CMake and Ninja come from the environment, whether the system has them or not.
WITH_TOOLS := PATH="$(BIN):$$PATH"
# CMake, Ninja and pybind11 build the wheel that the packaging tests look at; MONAI's attention needs einops.
TOOLS := "cmake>=3.22" "ninja>=1.10" "pybind11>=3" "einops>=0.7"
# What an installed package is made of; a change there installs it again.
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc ctfast export -type f ! -name '*.pyc' ! -name '*.so' ! -path '*/.*')
CXX_FILES = $(shell find csrc tests/cpp -name '*.cc' -o -name '*.h' -o -name '*.cu')
APT := On Debian and Ubuntu: sudo apt install g++ make python3-dev python3-venv

.DEFAULT_GOAL := help
.PHONY: help demo test cpp-tests lint cuda native clean
.DELETE_ON_ERROR:

help:
	@sed -n '3,8s/^#//p' Makefile

demo: $(VENV)/.package
	@mkdir -p "$(OUT)"
	$(BIN)/ctfast generate --output "$(OUT)/ct.nii.gz" --preview "$(OUT)/ct.png"
	@echo
	@echo "volume:   $(abspath $(OUT))/ct.nii.gz"
	@echo "about it: $(abspath $(OUT))/ct.json"
	@echo "picture:  $(abspath $(OUT))/ct.png"

# From a folder of its own, so that `ctfast` is the installed package in the tests' subprocesses too.
test: $(VENV)/.test cpp-tests cuda
	@mkdir -p build/pytest
	cd build/pytest && $(BIN)/pytest -c "$(CURDIR)/pyproject.toml" "$(CURDIR)/tests"

cpp-tests: $(VENV)/.test
	$(WITH_TOOLS) cmake --preset cpp-tests
	$(WITH_TOOLS) cmake --build --preset cpp-tests
	$(WITH_TOOLS) ctest --preset cpp-tests

lint: $(VENV)/.lint | ctfast/export
	$(BIN)/ruff check
	$(BIN)/mypy --strict ctfast benchmarks/scripts
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

cuda: $(VENV)/.test
	@command -v nvcc > /dev/null || { echo "make cuda: skipped, there is no nvcc"; exit 0; }; set -ex; \
	  $(WITH_TOOLS) cmake --preset cuda; $(WITH_TOOLS) cmake --build --preset cuda

native: $(VENV)/.test
	$(WITH_TOOLS) cmake --preset dev -DPython_EXECUTABLE=$(BIN)/python
	$(WITH_TOOLS) cmake --build --preset dev

clean:
	rm -rf "$(VENV)" build .mypy_cache .pytest_cache .ruff_cache

# The source tree's name of what the wheel has as ctfast/export.
ctfast/export:
	ln -s ../export $@

$(VENV)/.made:
	@command -v "$(PYTHON)" > /dev/null || { echo "There is no $(PYTHON). $(APT)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "ctfast needs Python 3.10 to 3.13 and $(PYTHON) is `$(PYTHON) --version`. Name another: make PYTHON=python3.12"; exit 1; }
	@command -v "$(CXX)" > /dev/null || { echo "There is no C++ compiler ($(CXX)). $(APT)"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2> /dev/null || { \
	  echo "The headers of $(PYTHON) are missing. $(APT)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "The venv module of $(PYTHON) is missing. $(APT)"; exit 1; }
	$(PYTHON) -m venv "$(VENV)"
	@touch $@

$(VENV)/.package: $(VENV)/.made $(SOURCES)
	$(PIP) .
	@touch $@

# torch first, so that the one named here is what the other packages find.
$(VENV)/.torch: $(VENV)/.made
	$(PIP) "$(TORCH)"
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(SOURCES)
	$(PIP) ".[test]" $(TOOLS)
	@touch $@ $(VENV)/.package

$(VENV)/.lint: $(VENV)/.torch $(SOURCES)
	$(PIP) ".[test,lint]" $(TOOLS)
	@touch $@ $(VENV)/.test $(VENV)/.package
