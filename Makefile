# Everything runs from .venv, which `make setup` fills; a second run is quick.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := $(wildcard client worker server tests bench examples deploy docs/site docs/*.ipynb)

# Some containers set this variable. Then each process that a test starts compiles all of our modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-ray test-slow test-gpu test-arm64 test-python test-typescript test-web web lint format docs dist proto googleapis proto-check bench compose-test fuzz audit clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

setup: $(VENV)/.ready  ## make .venv with everything but torch

# pip compiles one module at a time, compileall on every processor; what neither can compile nobody imports.
$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'installing: some minutes, as the connection allows'
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null || true
	@echo 'compiling the kernels for this machine, once: a line for each layer of the catalogue'
	$(BIN)/groupconv warmup --no-tune
	touch $@

demo: setup  ## serve, run every variant on a photograph, check it, draw a contact sheet
	$(BIN)/groupconv demo --output out/demo.png

# Three processes, as CI has two processors and tests often wait for what they started. One that dies fails the run and
# ends it: pytest-xdist would start another one and then wait for the group of the dead one for ever. The run as a whole
# has an end, too.
PYTEST3 := timeout --kill-after=60 3000 $(BIN)/python -m pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder \
	--max-worker-restart 0

test: setup  ## every test but the slow ones and those that need a GPU, in three processes
	$(PYTEST3)

test-ray: setup  ## only the tests that start a Ray cluster
	$(BIN)/python -m pytest -m "ray and not slow"

test-slow: setup  ## the slow tests
	$(PYTEST3) -m slow

test-gpu: setup  ## the tests for a machine with a CUDA device (install .[cuda12] or .[cuda13] first)
	$(BIN)/python -m pytest -m gpu

test-arm64: setup  ## every algorithm, the threads and a server on 64-bit ARM, under qemu-user: 4 minutes, 600 MB
	$(BIN)/python -m pytest -m arm64 tests/arm64

# The whole suite on another Python: make test VENV=.venv-3.13 PYTHON=python3.13
PY := 3.13
test-python:  ## the SDK's tests on another Python, in .venv-PY: make test-python PY=3.13
	test -x .venv-$(PY)/bin/python || \
		$(lastword python$(PY) $(wildcard $(HOME)/.pyenv/versions/$(PY).*/bin/python)) -m venv .venv-$(PY)
	.venv-$(PY)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[lz4,pictures,progress]' \
		pytest pytest-timeout pytest-xdist hypothesis scipy onnx
	.venv-$(PY)/bin/python -m pytest tests/client client

TYPESCRIPT := client/typescript
test-typescript: setup googleapis  ## the TypeScript client: types, format, messages equal to their protos, unit, conformance and live tests
	@if ! node --eval 'process.exitCode = parseInt(process.versions.node) < 20 ? 1 : 0' 2> /dev/null || ! npm --version > /dev/null 2>&1; \
		then echo "test-typescript: skipped, because there is no Node 20 or later with npm"; exit 0; fi; \
	set -e; cd $(TYPESCRIPT); \
	npm install --silent --no-audit --no-fund; \
	npm run --silent check; \
	"$(abspath $(BIN))/buf" generate --output "$(abspath build/out/typescript)"; \
	diff -r "$(abspath build/out/typescript)/src/protocol" src/protocol; \
	npx vitest run

fuzz: setup  ## 500,000 broken messages for the decoders, 5,000 for a server, 5,000 valid extreme ones: two minutes
	PYTHONPATH=tests $(BIN)/python -m fuzzing

audit: setup  ## known vulnerabilities of the pinned versions: asks PyPI's advisory database, so it needs the internet
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip check
	$(BIN)/pip-audit --disable-pip --no-deps --requirement constraints.txt

web:  ## build the page of the web port into server/groupconv_server/web/page (needs Node)
	cd client/typescript && npm install --silent
	cd client/web && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm install --silent && npm run build

# Playwright drives Debian's Chromium; it is not told to bring one.
test-web: setup  ## build the page, check it and drive it in Chromium (needs Node and Chromium; else it says why it does nothing)
	@if ! command -v node >/dev/null; then echo "test-web: skipped, there is no Node"; \
	elif ! command -v $${CHROMIUM:-chromium} >/dev/null; then echo "test-web: skipped, there is no Chromium"; \
	else $(MAKE) --no-print-directory web && cd client/web && npm run check && npm test; fi

docs: setup  ## the pages and the API reference as a site in build/out/site; a broken link is an error
	mkdir -p build/out
	$(BIN)/python docs/site/commands.py
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=docs/site $(BIN)/mkdocs build > build/out/site.log 2>&1 || (cat build/out/site.log; exit 1)
	@echo build/out/site/index.html

dist: setup  ## the wheel and the source archive in dist/, checked as an index would check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

lint: setup proto-check docs  ## ruff, mypy strict, import contracts, buf, stubs equal to their protos, the site
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/mypy $(addprefix --disable-error-code=,arg-type assignment misc no-any-return union-attr unused-ignore var-annotated) bench/*.py
	$(BIN)/lint-imports
	cd proto && ../$(BIN)/buf lint

format: setup  ## format and mend what ruff can mend
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format --quiet $(SOURCES)

proto: setup googleapis  ## regenerate the stubs in client/groupconv/v1, server/groupconv_server/inference/v2 and client/typescript
	$(call generate,groupconv,client)
	$(call generate,groupconv_server,server)
	if npm --version > /dev/null 2>&1; then cd $(TYPESCRIPT) && npm install --silent && ../../$(BIN)/buf generate; fi

googleapis: setup  # google.rpc for the TypeScript client, as the Python package has it
	mkdir -p build/out/googleapis/google/rpc
	cd $$($(BIN)/python -c 'import google.rpc.status_pb2 as rpc, os; print(os.path.dirname(rpc.__file__))') && \
		cp status.proto error_details.proto "$(abspath build/out/googleapis/google/rpc)"

proto-check: setup
	rm -rf build/out/stubs && mkdir -p build/out/stubs
	$(call generate,groupconv,build/out/stubs)
	$(call generate,groupconv_server,build/out/stubs)
	diff -r --exclude=__pycache__ --exclude=__init__.py build/out/stubs/groupconv/v1 client/groupconv/v1
	diff -r --exclude=__pycache__ --exclude=__init__.py build/out/stubs/groupconv_server/inference/v2 server/groupconv_server/inference/v2

define generate
$(BIN)/python -m grpc_tools.protoc --proto_path=proto \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	--python_out=$(2) --grpc_python_out=$(2) --mypy_out=quiet:$(2) --mypy_grpc_out=quiet:$(2) \
	$(shell find proto/$(1) -name '*.proto')
endef

bench: setup  ## compare the engines with torch and onnxruntime (installs torch)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python bench/engine.py

compose-test: setup  ## build the images, bring the stack up, use it, break it in every way it should survive, tear down
	$(BIN)/python deploy/compose_test

clean:  ## remove everything made here, .venv included
	rm -rf $(VENV) build/out out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
