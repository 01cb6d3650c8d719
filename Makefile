# Two targets need no other set-up: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two busy processes on two cores make PyTorch's threads wait for each other.
THREADS ?= 2
export OMP_NUM_THREADS ?= $(THREADS)
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.PHONY: quickstart assets llama-server chromium test test-long faults-input faults faults-long check reproduce mutate benchmark benchmark-long docs docs-tables format dist clean

quickstart: $(VENV)/.installed   ## collect, train and evaluate on a built-in task: CPU, no network, two to five minutes
	$(BIN)/stepcredit quickstart --output_dir quickstart

assets: $(VENV)/.installed-dev   ## real tokenizers and a small model for the tests, into a cache; ASSETS="qwen3 …": some
	$(BIN)/python tests/assets/fetch.py $(ASSETS)

llama-server: $(VENV)/.installed-dev   ## llama.cpp's server for the tests, built from a source package: cmake, half an hour on one core
	$(BIN)/python tests/assets/llama_server.py

chromium:                        ## the browser of the tests of the credit page, where apt-get may install it
	command -v chromium chromedriver || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; }

# Worker processes of the test suite, one thread each: three keep two cores busy, as some tests wait for other processes.
# A worker that runs out of tests takes over another's.
WORKERS ?= 3
# TYPES=1 checks the shapes and types of arguments, as CI does: half as long again.
TYPES ?=
PYTEST := JAXTYPING_DISABLE=$(if $(TYPES),0,1) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal

test: $(VENV)/.installed-dev     ## the test suite, but for what is long
	$(PYTEST) -m "not long"

test-long: $(VENV)/.installed-dev   ## tests of more than ten seconds, and variants of others: whole runs, killed and compared
	$(PYTEST) -m long

faults-input: $(VENV)/.installed-dev   ## every malformed input is one clear line; writes the table of docs/reliability.md
	$(BIN)/python tests/faults/run.py --table docs/reliability.md

# Killed, told to end, on a full disk, two at once; goes on where it was interrupted, anew with changed sources.
DISTURBED := $(BIN)/python tests/faults/disturbed.py --table docs/reliability.md
faults: $(VENV)/.installed-dev   ## commands that are killed and disturbed end as undisturbed ones; most of an hour
	$(DISTURBED)

faults-long: $(VENV)/.installed-dev   ## the same with 200 kills
	$(DISTURBED) --kills 200 --signals 60 --full 40

check: $(VENV)/.installed-dev    ## format, lint, types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The published GSM8K and MATH experiments, where pretrained weights and a GPU are at hand.
MODEL ?= qwen2.5-math-1.5b
TASK ?= gsm8k
OUT ?= reproduced/$(MODEL)-$(TASK)
reproduce: $(VENV)/.installed-recipes   ## make reproduce MODEL=qwen2.5-math-1.5b TASK=gsm8k: a recipe, start to table
	$(BIN)/stepcredit reproduce recipes/$(MODEL)-$(TASK).yaml --output_dir $(OUT) --seeds $(or $(SEEDS),0)

mutate: $(VENV)/.installed-dev   ## every mutant of the mathematics is killed or listed in docs/mutation.md; minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation/check.py

# Needs `make assets` and GSM8K beside the checkout; random weights and tokens of the same shape stand in for them.
BENCHMARK := PYTHONPATH=$(VENV)/liger $(BIN)/python -m benchmarks.run
benchmark: $(VENV)/liger         ## speed and memory against baselines: benchmarks/results.json, docs/performance.md; PART=head: one part
	$(BENCHMARK) $(if $(PART),--part $(PART))
	$(BIN)/python benchmarks/page.py

benchmark-long: $(VENV)/liger    ## every shape of the head, and steps of 16 prompts; hours
	$(BENCHMARK) --long --part $(or $(PART),head step)
	$(BIN)/python benchmarks/page.py

docs: $(VENV)/.installed-docs    ## the documentation site: docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html

docs-tables: $(VENV)/.installed  ## the tables of docs/ that are made from commands, configs and the table of methods
	$(BIN)/python docs/tables.py

format: $(VENV)/.installed-dev   ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-recipes: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[peft]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,alfworld,peft,runs,trl]"
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

# Liger's head, a baseline, apart from the other packages; where it does not install, its rows say so.
$(VENV)/liger: $(VENV)/.installed-dev
	$(BIN)/python -c "import triton" 2> /dev/null || triton=triton; $(BIN)/python -m pip install --quiet --no-deps \
		--constraint constraints.txt --target $@ liger-kernel $$triton || mkdir -p $@

dist: $(VENV)/.installed-dev     ## wheel and sdist, and the quickstart from the wheel in an environment of its own
	rm -rf dist && $(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv dist/environment
	dist/environment/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd dist && environment/bin/stepcredit quickstart --output_dir quickstart

clean:
	rm -rf $(VENV) quickstart build dist mutants docs/_build docs/api
