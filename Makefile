# The verbs of this repository. Each sets itself up in .venv first: nothing else needs to be installed or activated.
#
#   make demo        corpus, pretraining, a sweep and a results table from simulated proteins, on this machine
#   make test        all tests                      make check   types, lint, format
#   make fuzz        damaged and hostile files of every kind, five minutes each (FUZZ_SECONDS=300)
#   make benchmark   tests/benchmarks/*.py          make clean   caches and builds; never runs, data or .venv
#   make architecture   draws docs/architecture.svg from the imports
#   make settings       writes docs/settings.md from the settings' own descriptions
#
#   TEST_PROCESSES=4 make test           how many processes run test files side by side (2)
#   PYTHON=python3.11 make test          another interpreter (3.11 or newer) for a new .venv
#   TORCH="torch==2.13.0" make demo      the build of torch to install, instead of the one that `torch` below picks

PYTHON ?= python3
TEST_PROCESSES ?= 2
FUZZ_SECONDS ?= 300
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
HALF := $(VENV)/.half-done

# Tests and the demo stay on this machine and its CPU, say nothing home and write no token into the home directory.
LOCAL := DS_ACCELERATOR=cpu RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0

.PHONY: demo test check fuzz benchmark architecture settings clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(LOCAL) $(RUN) -m proteinlm demo

test: $(READY)
	$(LOCAL) $(RUN) -m pytest -q -n $(TEST_PROCESSES) --dist loadfile

check: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# A finding does not end it: all targets are tried, and what each came to is printed with the number that makes it again.
fuzz: $(READY)
	failed=0; for module in sequences records settings models runs contents; do echo "$$module"; \
	$(LOCAL) $(RUN) -m tests.fuzz.$$module --seconds $(FUZZ_SECONDS) || failed=1; done; exit $$failed

benchmark: $(READY)
	set -e; for script in $(notdir $(basename $(filter-out $(wildcard tests/benchmarks/test_*.py),$(wildcard tests/benchmarks/*.py)))); do echo "$$script"; $(LOCAL) $(RUN) -m tests.benchmarks.$$script; done

architecture: $(READY)
	$(RUN) -m tests.architecture.picture

settings: $(READY)
	$(RUN) -m proteinlm settings --markdown > docs/settings.md

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find cluster models platform proteinlm sweeps tasks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# $(HALF) is there while a set-up runs: one that was cut off is begun anew. A .venv made by hand is completed as it is.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: PYTHON=python3.11 make ...' >&2; exit 1; }
	@test ! -e $(HALF) || { echo 'an earlier set-up did not finish: making $(VENV) anew'; rm -rf $(VENV); }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@touch $(HALF)
	@$(install_torch)
	DS_BUILD_OPS=0 $(RUN) -m pip install -q -c constraints.txt -e '.[dev]'
	@mv $(HALF) $(READY)

# torch: what TORCH names; else what is there already; else, on Linux without an NVIDIA driver, the CPU build and never
# gigabytes of CUDA (pip finds it where its index has it, uv knows PyTorch's own); else what the index gives (macOS, GPU).
define install_torch
pip="$(RUN) -m pip install -q -c constraints.txt"; \
if [ -n "$(TORCH)" ]; then \
  echo "installing $(TORCH)"; $$pip "$(TORCH)"; \
elif $(RUN) -c "import importlib.metadata as m; assert m.version('torch').split('+')[0] == '2.13.0'" 2>/dev/null; then \
  echo 'torch 2.13.0 is there'; \
elif [ "$$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null; then \
  echo 'installing torch 2.13.0'; $$pip torch==2.13.0; \
elif echo 'installing the CPU build of torch 2.13.0' && $$pip torch==2.13.0+cpu 2>/dev/null; then \
  :; \
elif $$pip uv && $(VENV)/bin/uv pip install -q --python $(RUN) --torch-backend=cpu -c constraints.txt torch==2.13.0; then \
  :; \
else \
  echo 'The CPU build of torch 2.13.0 could not be had, neither by pip (torch==2.13.0+cpu) nor by uv (--torch-backend=cpu).' >&2; \
  echo 'Make it available to pip (an index or a folder with its wheel), or take the build that your index has, which may' >&2; \
  echo 'bring gigabytes of CUDA:  TORCH="torch==2.13.0" make demo' >&2; \
  rm -f $(HALF); exit 1; \
fi
endef
