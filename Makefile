# Every target does its own set-up in .venv and is quick when that is done.
#
#   make reproduce   the study of config/config.yaml, its figures and its report
#   make smoke       a tiny generated study, end to end
#   make test        all tests (includes smoke)
#   make test-slurm  the tests on a SLURM of their own alone, with what they say
#   make setup       .venv alone
#   make lint        formats, lints, schemas and shipped configurations
#   make lock        renew envs/requirements.txt from envs/requirements.in
#   make report      the study's report.html
#   make archive     the study's results in one file, without models and texts
#   make clean       remove what the tools left; results stay (make clean-results asks first)
#
#   CONFIG=config/my.yaml  another study      CORES=4  fewer cores      PYTHON=python3.12

PYTHON ?= python3
CORES ?= all
CONFIG ?= config/config.yaml
# One process per core and one thread in each; files in the order of tests/conftest.py, long ones first.
PYTEST_FLAGS ?= --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 15
BIN := .venv/bin
READY := .venv/.ready
# one word, whatever is in it
WORD = '$(subst ','\'',$(CONFIG))'
SNAKEMAKE = $(BIN)/snakemake --configfile $(WORD)
STUDY = $(or $(shell $(BIN)/python -c "import sys; sys.tracebacklimit = 0; from ntktune.config import study_name; print(study_name(sys.argv[1]))" $(WORD)),$(error CONFIG=$(CONFIG) names no study))
# Jobs state how much memory they need; this many of them run at once as fit.
MEMORY_MB = $(shell $(BIN)/python -c "import psutil; from ntktune.device import free_in_control_groups as left; print(int(min(psutil.virtual_memory().total, left()) * 0.9 / 2**20))")

# As many jobs on GPUs at once as there are GPUs.
GPUS = $(or $(filter-out 0,$(shell ls /proc/driver/nvidia/gpus 2>/dev/null | wc -l)),1)

.PHONY: setup reproduce report archive test test-slurm lint smoke lock clean clean-results
.DELETE_ON_ERROR:

reproduce: $(READY)
	$(SNAKEMAKE) --cores $(CORES) --resources mem_mb=$(MEMORY_MB) gpu=$(GPUS) --logger ntktune
	@$(MAKE) --no-print-directory report CONFIG=$(WORD)
	@$(BIN)/python -m ntktune figures show --folder results/$(STUDY)

setup: $(READY)

report: $(READY)
	$(SNAKEMAKE) --quiet all --report results/$(STUDY)/report.html

archive: $(READY)
	@$(BIN)/python -m ntktune results archive --folder results/$(STUDY) --out $(STUDY).tar.gz

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-slurm: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -rP --durations 0 tests/slurm

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(BIN)/python -m pytest -q tests/workflow/test_shipped_configurations.py

smoke: CONFIG = config/smoke.yaml
smoke: $(READY)
	$(SNAKEMAKE) --cores $(CORES) --forceall --logger ntktune
	@$(BIN)/python -m ntktune figures show --folder results/$(STUDY)

$(READY): envs/requirements.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "ntktune needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up .venv from envs/requirements.txt (once; some minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --requirement envs/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@# half of the work, which pip does on one core; some files are for other Pythons
	$(BIN)/python -m compileall -qq -j $(CORES:all=0) .venv/lib || true
	touch $@

lock: $(READY)
	$(BIN)/python -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet uv
	{ echo "# Locked by 'make lock' from envs/requirements.in; every command of the Makefile uses it."; \
	  .venv/lock/bin/uv pip compile --quiet --no-header --python-version 3.11 \
	      $${PIP_FIND_LINKS:+--find-links $$PIP_FIND_LINKS} envs/requirements.in \
	  | sed 's/^\(torch==[0-9.]*\)+cpu/\1/'; } > envs/requirements.txt.new
	mv envs/requirements.txt.new envs/requirements.txt

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Kept: results/ and .snakemake/ (Snakemake's memory of them). 'make clean-results' removes those."

clean-results:
	@test ! -d results || du -sh results/*
	@printf 'Remove all of results/ and .snakemake/? Type yes: '; read answer; \
	    if [ "$$answer" = yes ]; then rm -rf results .snakemake; else echo "Nothing was removed."; fi
