# make reproduce    run the study of config/config.yaml, and write its figures, tables and report
# make plan         print what `make reproduce` would choose and run, and the hours; run nothing
# make smoke        run a tiny generated study from end to end
# make report       write the study's report.html again
# make archive      pack the study's results into one file, without models and texts
# make setup        install the packages into .venv; every other target does that first
# make test         run all tests, the smoke study included
# make test-slurm   run only the tests on a SLURM cluster of their own, and show what they say
# make docs         build the site into results/site, and fail at a broken link
# make lint         check formats, lints, schemas and shipped configurations
# make lock         choose the newest packages: envs/requirements.txt and envs/cuda.txt
# make clean        remove .venv and caches; results stay
# make clean-results  remove results; asks first
#
# Settings, as in: make reproduce CONFIG=my/study.yaml CORES=4
#   CONFIG=FILE       the study's configuration
#   CORES=N           use N cores (default: all)
#   PYTHON=python3.12 the Python that .venv is made with
#   TORCH_INDEX=URL   where torch comes from: PyTorch's index for processors alone, or for a GPU's
#                     older driver; PyTorch's installation page lists them (default: PyPI)

PYTHON ?= python3
CORES ?= all
CONFIG ?= config/config.yaml
# One process per core and one thread in each; files in the order of tests/conftest.py, long ones first.
PYTEST_FLAGS ?= --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 15
BIN := .venv/bin
# Written at the end of the set-up; holds the index that torch came from.
READY := .venv/.ready
SET_UP_WITH := $(shell cat .venv/.ready 2>/dev/null)
TORCH_INDEX ?= $(SET_UP_WITH)
# For another index .venv is made anew: pip keeps a torch of the same version.
ifneq ($(strip $(TORCH_INDEX)),$(SET_UP_WITH))
.PHONY: $(READY)
endif
# PyPI's torch for Linux is a build for CUDA 13; envs/cuda.txt pins what it asks for, and adds nothing
# to a build that asks for nothing.
TORCH_FROM = $(if $(TORCH_INDEX),--extra-index-url '$(TORCH_INDEX)',--constraint envs/cuda.txt)
# one word, whatever is in it
WORD = '$(subst ','\'',$(CONFIG))'
SNAKEMAKE = $(BIN)/snakemake --configfile $(WORD)
STUDY = $(or $(shell $(BIN)/python -c "import sys; sys.excepthook = lambda kind, error, trace: print(error, file=sys.stderr); from ntktune.data.study import study_name; print(study_name(sys.argv[1]))" $(WORD)),$(error CONFIG=$(CONFIG) cannot be used; the reason stands above))
# Jobs state how much memory they need; this many of them run at once as fit.
MEMORY_MB = $(shell $(BIN)/python -c "import psutil; from ntktune.network.device import free_in_control_groups as left; print(int(min(psutil.virtual_memory().total, left()) * 0.9 / 2**20))")

# As many jobs on GPUs at once as there are GPUs.
GPUS = $(or $(filter-out 0,$(shell ls /proc/driver/nvidia/gpus 2>/dev/null | wc -l)),1)

.PHONY: help setup plan reproduce report archive test test-slurm docs lint smoke lock clean clean-results
.DELETE_ON_ERROR:

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

reproduce: $(READY)
	$(SNAKEMAKE) --cores $(CORES) --resources mem_mb=$(MEMORY_MB) gpu=$(GPUS) --logger ntktune
	@$(MAKE) --no-print-directory report CONFIG=$(WORD)
	@$(BIN)/python -m ntktune figures show --folder results/$(STUDY)

plan: $(READY)
	@: $(STUDY)
	@$(SNAKEMAKE) --dry-run --logger ntktune
	@$(BIN)/python -m ntktune finetune plan --config $(WORD)

setup: $(READY)

report: $(READY)
	$(SNAKEMAKE) --quiet all --report results/$(STUDY)/report.html

archive: $(READY)
	@$(BIN)/python -m ntktune results archive --folder results/$(STUDY) --out $(STUDY).tar.gz

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-slurm: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -rP --durations 0 tests/slurm

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean
	@echo "site  results/site/index.html"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(BIN)/python -m pytest -q tests/workflow/test_shipped_configurations.py

smoke: CONFIG = config/smoke.yaml
smoke: $(READY)
	$(SNAKEMAKE) --cores $(CORES) --forceall --logger ntktune
	@$(BIN)/python -m ntktune figures show --folder results/$(STUDY)

$(READY): envs/requirements.txt envs/cuda.txt pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "ntktune needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up .venv from envs/requirements.txt (once; some minutes) ..."
	$(PYTHON) -m venv $(if $(TORCH_INDEX),--clear) .venv
	$(BIN)/python -m pip install --quiet --no-compile --requirement envs/requirements.txt $(TORCH_FROM)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@# half of the work, which pip does on one core; some files are for other Pythons
	$(BIN)/python -m compileall -qq -j $(CORES:all=0) .venv/lib || true
	@echo '$(TORCH_INDEX)' > $@
	@echo "set up; source .venv/bin/activate to call ntktune and snakemake yourself"

# Resolved for Linux, where torch asks for CUDA's packages; these go to a file of their own.
lock: $(READY)
	$(BIN)/python -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet uv
	.venv/lock/bin/uv pip compile --quiet --no-header --strip-extras --python-version 3.11 \
	    --python-platform x86_64-manylinux_2_28 envs/requirements.in > .venv/lock/all.txt
	awk -v note="# Locked by 'make lock' from envs/requirements.in; the Makefile installs it." \
	    'BEGIN {print note > "envs/requirements.txt"; print note > "envs/cuda.txt"} \
	     /^[^ ]/ {file = /^(cuda|nvidia|triton)/ ? "envs/cuda.txt" : "envs/requirements.txt"} \
	     {print > file}' .venv/lock/all.txt

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Kept: results/ and .snakemake/ (Snakemake's memory of them). 'make clean-results' removes those."

clean-results:
	@test ! -d results || du -sh results/*
	@printf 'Remove all of results/ and .snakemake/? Type yes: '; read answer; \
	    if [ "$$answer" = yes ]; then rm -rf results .snakemake; else echo "Nothing was removed."; fi
