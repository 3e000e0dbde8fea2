SEARCH ?=
CONFIG ?= experiments/walker2d.py:$(if $(SEARCH),$(SEARCH)_)cpu
WORKDIR ?= runs/$(or $(SEARCH),demo)
ARGS ?=
MODEL ?=
NAME ?= walker2d
PYTHON ?= python3

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Present while an installation is under way; found at the start, it means that one was interrupted.
UNFINISHED := $(VENV)/.installing
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
STAGE = $(PY) -m ldpol.experiments
RUN = --config $(CONFIG) --workdir $(WORKDIR) $(ARGS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo archive train eval report explore model test e2e lint types bench fuzz chaos constraints clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  CONFIG=$(CONFIG)  WORKDIR=$(WORKDIR)  PYTHON=$(PYTHON)"
	@echo "  SEARCH=map_elites, ppga or hybrid chooses what makes the archive, and a WORKDIR of that name."
	@echo "  Overrides go into ARGS: make train ARGS=\"--config.seed=1\"; make test takes ARGS=\"-k rollout\"."

setup: $(STAMP) ## Create .venv with everything in it (the other targets do so by themselves)

demo: archive train eval report ## Search, train, evaluate and report: the whole pipeline on two CPU cores

archive: $(STAMP) ## Search an archive of policies into WORKDIR
	$(STAGE) archive $(RUN)

train: $(STAMP) ## Train the generative model of the archive in WORKDIR
	$(STAGE) train $(RUN)

eval: $(STAMP) ## Evaluate the generator in WORKDIR
	$(STAGE) evaluate $(RUN)

report: $(STAMP) ## Write the HTML report of WORKDIR
	$(STAGE) report $(RUN)

explore: $(STAMP) ## Look at what a model can do, in the browser: the one that comes with ldpol, or MODEL=runs/demo
	$(PY) -m ldpol.explore $(MODEL) $(ARGS)

model: $(STAMP) ## Put the model of WORKDIR into the package, as NAME
	$(PY) -m ldpol.explore.ship $(WORKDIR) $(NAME)

test: $(STAMP) ## Run the tests
	$(PY) -m pytest -q -n 2 --dist worksteal --durations=10 $(ARGS)

e2e: $(STAMP) ## Test the explorer in a browser; needs chromium (Debian: apt-get install chromium)
	$(PY) -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e '.[e2e]'
	$(PY) -m pytest -q tests/explore/test_explore_browser.py $(ARGS)

lint: $(STAMP) ## Check style and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(STAMP) ## Check types
	$(PY) -m pyright

bench: $(STAMP) ## Measure speed and memory into results/
	$(PY) benchmarks/rollout.py --out results/bench_rollout.json
	$(PY) benchmarks/generation.py --out results/bench_generation.json
	$(PY) benchmarks/training.py --out results/bench_training.json

fuzz: $(STAMP) ## Damage saved things in 1,000 ways and read them, into results/fuzz.json
	cd tests && ../$(PY) -m campaign fuzz --out ../results/fuzz.json $(ARGS)

chaos: $(STAMP) ## Kill, race and starve stages and writers, into results/chaos.json, with the toy task
	cd tests && ../$(PY) -m campaign chaos --toy --out ../results/chaos.json $(ARGS)

constraints: ## Renew constraints.txt with the newest versions (use the oldest supported Python)
	@set -e; new=$$(mktemp -d); trap 'rm -rf "$$new"' EXIT; trap 'exit 130' INT TERM; \
	$(PYTHON) -m venv "$$new/venv"; \
	"$$new/venv/bin/python" -m pip install --progress-bar off -e '.[dev]'; \
	"$$new/venv/bin/python" -m pip freeze --exclude ldpol > "$$new/freeze"; \
	head -n 1 constraints.txt > "$$new/constraints.txt"; \
	awk -F '==' 'NF == 2 { name = tolower($$1); gsub(/[-_.]+/, "-", name); print name, $$2 }' "$$new/freeze" \
		| LC_ALL=C sort | sed 's/ /==/' >> "$$new/constraints.txt"; \
	cp "$$new/constraints.txt" constraints.txt

clean: ## Remove the environment, caches and build outputs (runs/ and results/ stay)
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .jax_cache MUJOCO_LOG.TXT
	find src tests experiments benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c '$(RECENT)' 2>/dev/null || { \
		echo "ldpol needs Python 3.11 or newer, found: $$($(PYTHON) --version 2>&1)." \
			"Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@begun=$$(date +%s); \
	( while sleep 5 >/dev/null 2>&1 && kill -0 $$$$ 2>/dev/null; do \
		echo "  installing for $$(( $$(date +%s) - begun )) s," \
			"$$(ls -d $(VENV)/lib/python*/site-packages/*.dist-info 2>/dev/null | wc -l) packages in place"; \
	done ) & beat=$$!; \
	trap 'kill $$beat 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	set -e; \
	if [ -e $(UNFINISHED) ] || ! $(PY) -c '$(RECENT)' 2>/dev/null || ! $(PY) -m pip --version >/dev/null 2>&1; then \
		echo "Creating $(VENV)"; \
		rm -rf $(VENV); mkdir $(VENV); touch $(UNFINISHED); $(PYTHON) -m venv $(VENV); \
	fi; \
	touch $(UNFINISHED); \
	$(PY) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]'; \
	mv $(UNFINISHED) $(STAMP); touch $(STAMP)
