# Tollway: what to type. The work is done in Python; see workers/bootstrap.py and workers/up.py.
.DEFAULT_GOAL := help
.PHONY: help up test test-fast check soak bench lock setup-dev

PYTHON ?= python3.11
PORT   ?= 8080
ENGINE ?= vllm
# A GPU is seen by the same sign as in workers/bootstrap.py.
CONFIG ?= deploy/quickstart/tollway$(if $(filter vllm,$(ENGINE)),$(shell nvidia-smi -L >/dev/null 2>&1 && echo -gpu)).yaml
PYTEST ?= .venv/bin/python -m pytest

# Without compiled modules, every start of every process would take seconds longer.
export PYTHONDONTWRITEBYTECODE :=

# Where the CPU build of torch comes from when the links that pip is configured with do not have it.
export TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

NEED_PYTHON = command -v $(PYTHON) >/dev/null || { echo "tollway: $(PYTHON) is needed and was not found; install it or say make PYTHON=..." >&2; exit 1; }

help:
	@echo "make up                    one open model and the gateway on this machine, http://127.0.0.1:$(PORT)"
	@echo "make up ENGINE=synthetic   the same in seconds, with made-up answers"
	@echo "make test                  everything, with a real vLLM replica"
	@echo "make test-fast             without the engine, in under two minutes"
	@echo "make check                 ruff, mypy, import layers"
	@echo "make soak                  the long tests"
	@echo "make bench                 this gateway beside others, one core each: docs/reference/bench.md"
	@echo "make lock                  resolve the hash-locked requirements anew"

up:
	@$(NEED_PYTHON)
	@$(PYTHON) -m workers.bootstrap $(if $(filter synthetic,$(ENGINE)),synthetic,worker)
	@.venv/bin/tollway up --config $(CONFIG) --engine $(ENGINE) --port $(PORT)

setup-dev:
	@$(NEED_PYTHON)
	@$(PYTHON) -m workers.bootstrap dev

check: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict gateway workers
	.venv/bin/lint-imports

# The engine's tests last and by themselves: a replica at work would falsify what the others measure.
test: check
	@deploy/system-packages
	$(PYTEST) -m "not soak and not engine"
	$(PYTEST) -m "engine and not soak"

test-fast: setup-dev
	$(PYTEST) -n 2 -m "not soak and not engine"

soak: setup-dev
	$(PYTEST) -m soak

bench: setup-dev
	.venv/bin/python -m loadtests.bench

# Hashes, no addresses. All sets but the GPU's take dev's versions, so that what is tested is what is installed.
UV_COMPILE = .venv/bin/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml
CPU_TORCH  = --override requirements/overrides.txt \
	$(foreach link,$(or $(PIP_FIND_LINKS),$(TORCH_CPU_INDEX)/torch/),--find-links $(link))

lock: setup-dev
	$(UV_COMPILE) $(CPU_TORCH) --extra worker-cpu --extra dev --extra loadtest -o requirements/dev.txt >/dev/null
	$(UV_COMPILE) $(CPU_TORCH) --extra worker-cpu -c requirements/dev.txt -o requirements/worker-cpu.txt >/dev/null
	$(UV_COMPILE) --extra worker-synthetic -c requirements/dev.txt -o requirements/synthetic.txt >/dev/null
	$(UV_COMPILE) -c requirements/dev.txt -o requirements/gateway.txt >/dev/null
	$(UV_COMPILE) --extra worker -o requirements/worker.txt >/dev/null
	$(UV_COMPILE:pyproject.toml=requirements/tools.in) -o requirements/tools.txt >/dev/null
