# Everything here needs a Python >= 3.11 with its venv module, and make. The first target that needs `.venv` makes it.

PYTHON ?=
SEEDS ?= 10000
MINUTES ?= 1
SEED ?=
STAGE ?= loopback
SECONDS ?= 120
MODULE ?=
BENCH ?=
VENV := .venv
RUN := $(VENV)/bin/python
# Remade when the dependencies may have changed.
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check coverage mutants bench scaling guard sim sim-long chaos kills kernel clean
MAKEFLAGS += --no-print-directory

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## the main job: analyse the standard library, kill processes, lose nothing
	@$(VENV)/bin/cluster demo

test: $(READY) ## every test, the documentation's samples and the examples
	@$(RUN) -m pytest

check: $(READY) ## format, lint, strict types, floors and shape
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy
	@$(RUN) -m pytest -q tests/project/test_floors.py tests/project/test_shape.py

# Without the Hypothesis machine: what it comes to differs from run to run.
coverage: $(READY) ## unit tests alone take every branch of what decides over jobs
	@$(RUN) -m coverage run -m pytest -q --ignore=tests/core/test_machine.py tests/core tests/master
	@$(RUN) -m coverage report --skip-covered

mutants: $(READY) ## do the unit tests notice small faults in what decides? make mutants [MODULE=policy]; a quarter of an hour for all
	@$(RUN) -m tests.mutants --module "$(MODULE)"

bench: $(READY) ## our speed beside others', in one run: make bench [BENCH="--all --peers dask,ray,celery --json FILE"]
	@$(RUN) -m benchmarks $(BENCH)

scaling: $(READY) ## what a job costs with more jobs, slots, workers: make scaling [BENCH="--json FILE"]
	@$(RUN) -m benchmarks.scaling $(BENCH)

guard: $(READY) ## is HEAD slower than main? make guard [OLD=main] [NEW=HEAD]
	@$(RUN) -m benchmarks.guard $(or $(OLD),main) $(or $(NEW),HEAD)

sim: $(READY) ## the simulator: make sim SEEDS=10000
	@$(RUN) -m tests.sim --seeds $(SEEDS)

sim-long: $(READY) ## a million seeds, in ranges that are written down; called again, it goes on: make sim-long LOG=sim.log
	@$(RUN) -m tests.sim --seeds $(or $(LONG_SEEDS),1000000) --base $(or $(BASE),1000000) --log $(or $(LOG),sim.log)

chaos: $(READY) ## real processes killed, frozen and cut off: make chaos MINUTES=10 [SEED=1] [STAGE=loopback|hosts|kept] [SPARE=master]
	@$(RUN) -m tests.chaos --minutes $(MINUTES) --stage $(STAGE) $(if $(SEED),--seed $(SEED)) $(if $(SPARE),--spare-$(SPARE))

kills: $(READY) ## 2,000 short jobs, a SIGKILL every second: make kills SECONDS=120
	@KILLS_SECONDS=$(SECONDS) $(RUN) -m pytest -q -s tests/acceptance/test_kills_every_second.py

kernel: $(READY) ## cgroup limits on a kernel of their own (package user-mode-linux): make kernel [UML=PATH]
	@$(RUN) -m tests.kernel --kernel $(or $(UML),linux.uml)

clean: ## remove .venv and the tools' caches
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

$(READY): pyproject.toml
	@set -e; found=; \
	for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14); do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			found=$$python; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "make: no usable $(if $(PYTHON),$(PYTHON),python3): cluster-kit needs Python 3.11 or later with its venv module." >&2; \
		echo "make: install one (Debian: apt install python3-venv), or name one: make test PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$found" --version) ..."; \
	"$$found" -m venv --clear $(VENV); \
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'; \
	touch $(READY)
