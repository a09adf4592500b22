# Tollway: what to type. The work is done in Python; see workers/bootstrap.py and workers/command/up.py.
.DEFAULT_GOAL := help
.PHONY: help up up-several load test test-fast clusters engine check soak faults recorded bench lock setup-dev

PYTHON ?= python3.11
PORT   ?= 8080
ENGINE ?= vllm
# A GPU is seen by the same sign as in workers/bootstrap.py.
CONFIG ?= deploy/quickstart/tollway$(if $(filter vllm,$(ENGINE)),$(shell nvidia-smi -L >/dev/null 2>&1 && echo -gpu)).yaml
PYTEST ?= .venv/bin/python -m pytest
SHELL  := /bin/bash
# A run whose lines are given a name still fails when it fails.
.SHELLFLAGS := -o pipefail -c

LOAD_URL     ?= http://127.0.0.1:$(PORT)
LOAD_USER    ?= mixed
LOAD_USERS   ?= 4
LOAD_SECONDS ?= 30
LOAD_SHAPE   ?= constant
LOAD_DIR     ?= build/load

# Without compiled modules, every start of every process would take seconds longer.
export PYTHONDONTWRITEBYTECODE :=

# Where the CPU build of torch comes from when the links that pip is configured with do not have it.
export TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

NEED_PYTHON = command -v $(PYTHON) >/dev/null || { echo "tollway: $(PYTHON) is needed and was not found; install it or say make PYTHON=..." >&2; exit 1; }

help:
	@echo "make up                    one open model and the gateway on this machine, http://127.0.0.1:$(PORT)"
	@echo "make up ENGINE=synthetic   the same in seconds, with made-up answers"
	@echo "make up-several            two chat models, an adapter and an embedding model: docs/guide/workers.md"
	@echo "make load                  load on a running make up, reported in $(LOAD_DIR): docs/guide/load-tests.md"
	@echo "make test                  everything, with a real vLLM replica"
	@echo "make test-fast             without the engine and what takes many processes"
	@echo "make check                 ruff, mypy, import layers, dead code"
	@echo "make soak                  the long tests"
	@echo "make faults                sixteen faults of a provider and what callers see of them: docs/reference/faults.md"
	@echo "make recorded EXCHANGES=DIR  recorded answers of providers through the gateway: docs/reference/recorded.md"
	@echo "make bench                 this gateway beside others, one core each: docs/reference/bench.md"
	@echo "make lock                  resolve the hash-locked requirements anew"

up:
	@$(NEED_PYTHON)
	@$(PYTHON) -m workers.bootstrap $(if $(filter synthetic,$(ENGINE)),synthetic,worker)
	@.venv/bin/tollway up --config $(CONFIG) --engine $(ENGINE) --port $(PORT)

SEVERAL = deploy/examples/several-models.yaml
ADAPTER = build/adapters/pirate

up-several:
	@$(NEED_PYTHON)
	@$(PYTHON) -m workers.bootstrap worker
	@test -d $(ADAPTER) || .venv/bin/python deploy/examples/make_adapter.py bundled:smollm2-135m-instruct $(ADAPTER)
	@.venv/bin/tollway up --config $(SEVERAL) --port $(PORT)

LOAD_CLASS_chat   = ChatUser
LOAD_CLASS_stream = StreamUser
LOAD_CLASS_mixed  = MixedUser
LOAD_CLASS_replay = ReplayUser
CONNECT = import socket, sys, urllib.parse as p; u = p.urlsplit(sys.argv[1]); socket.create_connection((u.hostname, u.port or (443 if u.scheme == 'https' else 80)), 5)

# Answers under way at the end are waited for: cut off, they would have cost something and count nowhere.
load:
	@$(NEED_PYTHON)
	@test -n "$(LOAD_CLASS_$(LOAD_USER))" || { echo "tollway: LOAD_USER is chat, stream, mixed or replay." >&2; exit 1; }
	@$(PYTHON) -c "$(CONNECT)" "$(LOAD_URL)" 2>/dev/null || \
		{ echo "tollway: nothing listens at $(LOAD_URL); run \`make up\` first, in another terminal." >&2; exit 1; }
	@$(PYTHON) -m workers.bootstrap loadtest
	@mkdir -p "$(LOAD_DIR)"
	@.venv/bin/locust -f loadtests/locustfile.py --headless --only-summary --host "$(LOAD_URL)" \
		--users $(LOAD_USERS) --spawn-rate $(LOAD_USERS) --run-time $(LOAD_SECONDS)s --stop-timeout 60 \
		--shape $(LOAD_SHAPE) --html "$(LOAD_DIR)/report.html" --csv "$(LOAD_DIR)/load" \
		--summary-csv "$(LOAD_DIR)/summary.csv" $(LOAD_CLASS_$(LOAD_USER)); \
		code=$$?; echo "tollway: $(LOAD_DIR)/report.html and load_*.csv are this run; summary.csv has a line of every run."; exit $$code

setup-dev:
	@$(NEED_PYTHON)
	@$(PYTHON) -m workers.bootstrap dev

check: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict gateway workers
	.venv/bin/lint-imports
	.venv/bin/vulture

# Runs beside each other are runs of pytest of their own; each line they print begins with the name of the run. The fast
# part is three shares of the files, for a third of the time its tests wait, and none reads the files of another. The slow
# part runs two at a time. The tests of Ray clusters share one start, and so do those of the engine; beside an engine that
# starts, Ray's own processes would not be up in the half minute that it gives them. What nothing else may run beside comes
# last, one by one.
BESIDE = +@$(MAKE) --no-print-directory --jobs
NAMED  = 2>&1 | sed -u 's/^/$@: /'
FAST   = fast-1 fast-2 fast-3
# Other parts' own: to read them takes seconds.
LEFT   = --ignore=tests/cluster --ignore=tests/engine

test: check
	@deploy/system-packages
	$(BESIDE) $(FAST)
	$(PYTEST) $(LEFT) -n 2 -m "slow and not soak and not alone"
	+@$(MAKE) --no-print-directory clusters
	+@$(MAKE) --no-print-directory engine
	$(PYTEST) -m "alone and not soak"

test-fast: setup-dev
	$(BESIDE) $(FAST)

fast-%:
	@$(PYTEST) $(LEFT) --share $*/3 -m "not soak and not slow and not alone" $(NAMED)

clusters:
	@$(PYTEST) -v tests/cluster -m "not soak and not alone" $(NAMED)

engine:
	@$(PYTEST) -v tests/engine -m "not soak and not alone" $(NAMED)

soak: setup-dev
	$(PYTEST) -m soak
	$(PYTEST) --hypothesis-profile=soak --timeout 1800 tests/contract/test_properties.py tests/flow/test_generated_requests.py

# Ends in about two minutes: one of the faults is an outage of a minute.
faults: setup-dev
	.venv/bin/python -m tests.faults

# The recordings are not in this repository; docs/reference/recorded.md says what a folder of them holds.
recorded: setup-dev
	@test -d "$(EXCHANGES)" || { echo "tollway: say make recorded EXCHANGES=DIR, a folder of recordings." >&2; exit 1; }
	.venv/bin/python -m tests.recorded $(EXCHANGES)

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
	$(UV_COMPILE) --extra loadtest -c requirements/dev.txt -o requirements/loadtest.txt >/dev/null
	$(UV_COMPILE) --extra worker -o requirements/worker.txt >/dev/null
	$(UV_COMPILE:pyproject.toml=requirements/tools.in) -o requirements/tools.txt >/dev/null
