# Every target sets itself up on a bare Python 3.11+. Choose another one with `make test PYTHON=python3.12`.

VENV      := .venv
VENV_SA20 := .venv-sa20
STAMP      := $(VENV)/.installed
STAMP_SA20 := $(VENV_SA20)/.installed
PYTHON    ?= python3.14 python3.13 python3.12 python3.11 python3 python

# The tests start hundreds of processes; without bytecode each would compile privkit anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check types documents bench clean

help:
	@echo "make demo    a ride service: seal, read, search, plan, purge, report"
	@echo "make test    all tests under SQLAlchemy 2.1, the storage tests under 2.0 too"
	@echo "make check   format, lint, types, layers, vocabulary, budgets, docs"
	@echo "make bench   benchmarks, as ratios against a plain baseline"
	@echo "make clean   remove the virtual environments and everything generated"

# A candidate has to run: a shim that answers "not installed", or a Python without venv, is passed over.
define create_venv
	@if [ ! -x $(1)/bin/python ]; then \
	    found=; \
	    for candidate in $(PYTHON); do \
	        if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	        then found=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "privkit needs Python 3.11 or later with the venv module; tried: $(PYTHON)." >&2; \
	        echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; \
	        exit 1; \
	    fi; \
	    echo "$(1): created with $$("$$found" --version)"; \
	    "$$found" -m venv $(1); \
	fi
endef

# What is imported is compiled then; to compile all of it beforehand takes longer than to install it.
install = -m pip install --quiet --no-compile --disable-pip-version-check --editable

$(STAMP): pyproject.toml
	$(call create_venv,$(VENV))
	@echo "$(VENV): installing privkit and what its development needs"
	@$(VENV)/bin/python $(install) '.[dev,spark]'
	@touch $@

# It takes all but SQLAlchemy from the other environment: to install it twice takes minutes.
$(STAMP_SA20): $(STAMP)
	$(call create_venv,$(VENV_SA20))
	@echo "$(VENV_SA20): the same with SQLAlchemy 2.0"
	@rm -f $(VENV_SA20)/lib/python3*/site-packages/the-other.pth
	@$(VENV_SA20)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check 'sqlalchemy[asyncio]>=2.0,<2.1'
	@$(VENV)/bin/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	    > $$(echo $(VENV_SA20)/lib/python3*/site-packages)/the-other.pth
	@touch $@

demo: $(STAMP)
	@$(VENV)/bin/python -m privkit.demo

# The shorter run comes first, so that the last line counts all but tests/meta, which `make check` runs.
test: $(STAMP) $(STAMP_SA20)
	@echo "SQLAlchemy 2.0: the storage tests"
	@$(VENV_SA20)/bin/python -m pytest --numprocesses auto -m storage
	@echo "SQLAlchemy 2.1: all tests"
	@$(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal --ignore tests/meta

check: $(STAMP)
	@$(MAKE) --no-print-directory --jobs 2 types documents

types: $(STAMP)
	@$(VENV)/bin/python -m ruff format --check --quiet .
	@$(VENV)/bin/python -m ruff check --quiet .
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/python -m mypy

documents: $(STAMP)
	@$(VENV)/bin/python -m pytest --quiet tests/meta

bench: $(STAMP)
	@$(VENV)/bin/python -m pytest benchmarks --benchmark-enable --benchmark-only

clean:
	rm -rf $(VENV) $(VENV_SA20) build dist out .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
