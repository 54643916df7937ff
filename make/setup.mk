# What the steps run with: the environment in .venv, llama.cpp's tools in a cache. Each target installs what it needs.

PYTHON := .venv/bin/python
# Waiting threads yield the processor: two steps at once (make -j2) would else starve each other.
OMP_WAIT_POLICY ?= PASSIVE
export PYTHON LLAMA_CPP CMAKE_ARGS MOE_TOOLS_CACHE OMP_WAIT_POLICY
SETUP := .venv/.installed
WHERE_TOOLS_ARE := CMAKE_ARGS='$(CMAKE_ARGS)' MOE_TOOLS_CACHE='$(MOE_TOOLS_CACHE)' scripts/build_llama_cpp.sh --where
TOOLS_PLACE := $(if $(LLAMA_CPP),,$(shell $(WHERE_TOOLS_ARE)))
LLAMA_READY := $(TOOLS_PLACE:%=%/llama_cpp.json)
TOOLS := $(SETUP) $(LLAMA_READY)

# Of llama-cpp-python only the declarations are wanted, of the version that the tools are built from. pip's cache must
# not keep them: it would hand them to whoever asks for that package with its library.
BINDINGS := llama-cpp-python==$(shell sed -n 's/^VERSION=//p' scripts/build_llama_cpp.sh)
# Twice quiet: warnings of an index's configuration would fill the screen.
PIP_INSTALL := $(PYTHON) -m pip install --quiet --quiet --disable-pip-version-check
TOO_OLD := error: python3: expected 3.11 or newer, found

setup: $(TOOLS) ## create .venv and build the llama.cpp tools (every other target does so, too)

.venv/.installed: requirements.txt
	@printf 'Setting up .venv (a few minutes, 2.6 GB) ...\n'
	@python3 -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "$(TOO_OLD) " + sys.version.split()[0])'
	@python3 -m venv .venv
	@$(PIP_INSTALL) -r requirements.txt
	@$(PIP_INSTALL) --no-deps --no-cache-dir --config-settings cmake.define.LLAMA_BUILD=OFF $(BINDINGS)
	@touch $@

ifneq ($(LLAMA_READY),)
$(LLAMA_READY): | $(SETUP)
	@scripts/build_llama_cpp.sh >/dev/null
endif

test: $(TOOLS) ## set up and run the tests
	$(PYTHON) -m pytest tests -n 2 --dist loadfile --no-loadscope-reorder

lint: $(SETUP) ## names, types, shell scripts and the Go file: what `make test` does not run (settings: pyproject.toml)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy scripts
	.venv/bin/shellcheck scripts/*.sh .ci/run
	@# Found by the shell: make's own wildcard is asked before the environment exists.
	go=$$(echo $(CURDIR)/.venv/lib/python3*/site-packages/go/bin) && unformatted=$$($$go/gofmt -l scripts) && \
	  if [ -n "$$unformatted" ]; then printf 'error: %s: expected the form of gofmt\n' $$unformatted >&2; exit 1; fi && \
	  cd scripts/ollama/go_template && GOFLAGS=-mod=mod GOTOOLCHAIN=local $$go/go vet main.go tags.go
