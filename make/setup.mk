# What the steps run with: the environment in .venv, llama.cpp's tools in a cache. Each target installs what it needs.

PYTHON := .venv/bin/python
# Waiting threads yield the processor: two steps at once (make -j2) would else starve each other.
OMP_WAIT_POLICY ?= PASSIVE
# In the locale of another encoding Python would write and print texts in that one, or fail.
PYTHONUTF8 := 1
# A set has its words in the same order in every process: a chat template can write one.
PYTHONHASHSEED := 0
# The first would win over that. With the next Python does not find our modules, with others it does not start, ends
# otherwise than we do, reads no long number, or prints pages of its own.
unexport PYTHONIOENCODING PYTHONSAFEPATH PYTHONHOME PYTHONPLATLIBDIR PYTHONEXECUTABLE PYTHONMALLOC \
  PYTHONINSPECT PYTHONDEBUG PYTHONVERBOSE PYTHONPROFILEIMPORTTIME PYTHONDUMPREFS PYTHONINTMAXSTRDIGITS \
  PYTHONTRACEMALLOC PYTHONMALLOCSTATS PYTHONOPTIMIZE
export PYTHON LLAMA_CPP CMAKE_ARGS MOE_TOOLS_CACHE OMP_WAIT_POLICY PYTHONUTF8 PYTHONHASHSEED SEALS SEAL_KEY
SETUP := .venv/.installed
WHERE_TOOLS_ARE := CMAKE_ARGS='$(CMAKE_ARGS)' MOE_TOOLS_CACHE='$(MOE_TOOLS_CACHE)' scripts/build_llama_cpp.sh --where
TOOLS_PLACE := $(if $(LLAMA_CPP),,$(shell $(WHERE_TOOLS_ARE)))
# It stands in a rule, and HOME or XDG_CACHE_HOME can have any name. Those that need no tools can do without.
ODD_PLACE := $(if $(or $(word 2,$(TOOLS_PLACE)),$(call acting_in,MOE_TOOLS_CACHE,$(TOOLS_PLACE))),$(TOOLS_PLACE))
NEEDS_PLACE := $(filter-out $(filter-out setup test clean-tools,$(NEVER_IN_BUILD)),$(MAKECMDGOALS))
$(if $(ODD_PLACE),$(if $(NEEDS_PLACE),$(error MOE_TOOLS_CACHE: expected a place without blanks and signs that make \
  or the shell act on$(,) found $(call shown,,$(ODD_PLACE)); set it to another))$(eval TOOLS_PLACE :=))
# Why not, the script has said.
$(if $(WORK),$(if $(LLAMA_CPP)$(TOOLS_PLACE),,$(error LLAMA_CPP: expected a place for the llama.cpp tools$(,) \
  found none)))
# Nothing is run that lies in a build folder.
$(if $(IN_BUILD),$(if $(filter $(addsuffix /%,$(abspath $(BUILD)) $(realpath $(BUILD))),$(abspath \
  $(TOOLS_PLACE)) $(realpath $(TOOLS_PLACE))),$(error MOE_TOOLS_CACHE: expected a place outside of $(BUILD)$(,) found \
  $(TOOLS_PLACE))))
WRONG_IN_BUILD := $(if $(IN_BUILD),$(shell make/check_build.sh '$(BUILD)' '$(PRUNED)' '$(SEAL_KEY)'))
$(if $(WRONG_IN_BUILD),$(error $(BUILD): $(WRONG_IN_BUILD)))
LLAMA_READY := $(TOOLS_PLACE:%=%/llama_cpp.json)
TOOLS := $(SETUP) $(LLAMA_READY)

# Of llama-cpp-python only the declarations are wanted, of the version that the tools are built from. pip's cache must
# not keep them: it would hand them to whoever asks for that package with its library.
BINDINGS := llama-cpp-python==$(shell sed -n 's/^VERSION=//p' scripts/build_llama_cpp.sh)
# torch comes first and without digests: it is another file, with other CUDA libraries, for each kind of machine.
TORCH := $(shell sed -n '/^torch==/p' requirements.txt)
# Twice quiet: warnings of an index's configuration would fill the screen.
PIP_INSTALL := $(PYTHON) -m pip install --quiet --quiet --disable-pip-version-check
TOO_OLD := error: python3: expected 3.11 or newer, found

setup: $(TOOLS) ## create .venv and build the llama.cpp tools (every other target does so, too)

.venv/.installed: requirements.txt requirements.lock
	@printf 'Setting up .venv (a few minutes, 2.6 GB) ...\n'
	@python3 -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "$(TOO_OLD) " + sys.version.split()[0])'
	@python3 -m venv .venv
	@$(PIP_INSTALL) '$(TORCH)'
	@$(PIP_INSTALL) --no-deps --require-hashes -r requirements.lock
	@$(PIP_INSTALL) --no-deps --no-cache-dir --config-settings cmake.define.LLAMA_BUILD=OFF $(BINDINGS)
	@touch $@

# Tools that only those who work on this project need, each in an environment of its own that goes again. Nothing lies
# where it is made: what was in its folder before would be run. $(call with_tool,PACKAGE,COMMAND); $$tool is the folder
define with_tool
	@tool=$$(mktemp -d) && trap 'rm -rf "$$tool"' EXIT && python3 -P -m venv "$$tool" && \
	  "$$tool"/bin/pip install --quiet --disable-pip-version-check $(1) && "$$tool"/bin/$(2)
endef

lock: ## renew requirements.lock: versions and digests of all packages (about 7 minutes, needs the network)
	$(call with_tool,pip-tools==7.6.2,pip-compile --quiet --generate-hashes --no-header --no-annotate --strip-extras \
	  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --unsafe-package torch \
	  --unsafe-package setuptools --output-file requirements.lock requirements.txt)
	@sed -i -e '/^$$/d' -e '/^# WARNING: The following packages were not pinned/,$$d' \
	  requirements.lock # setup installs these two first

audit: ## ask for known weaknesses of the pinned packages; one that cannot be looked up fails (needs the network)
	$(call with_tool,pip-audit==2.10.1,pip-audit --strict --disable-pip --requirement requirements.lock)

sbom: ## write build/sbom.json: the packages as a bill of materials (CycloneDX)
	$(call with_tool,cyclonedx-bom==7.5.0,cyclonedx-py requirements requirements.lock --output-file "$$tool"/sbom.json && \
	  mkdir -p build && mv -f "$$tool"/sbom.json build/)
	@echo build/sbom.json

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
	@awk 'length($$0) > 120 {print "error: " FILENAME ":" FNR ": over 120 characters"; bad = 1} END {exit bad}' \
	  Makefile make/*.mk make/*.sh scripts/*.sh scripts/page/page.* scripts/ollama/go_template/*.go .ci/run
	.venv/bin/shellcheck scripts/*.sh make/*.sh .ci/run
	@# Found by the shell: make's own wildcard is asked before the environment exists.
	go=$$(echo "$$PWD"/.venv/lib/python3*/site-packages/go/bin) && unformatted=$$("$$go"/gofmt -l scripts) && \
	  if [ -n "$$unformatted" ]; then printf 'error: %s: expected the form of gofmt\n' $$unformatted >&2; exit 1; fi && \
	  cd scripts/ollama/go_template && GOFLAGS=-mod=mod GOTOOLCHAIN=local "$$go"/go vet main.go tags.go
