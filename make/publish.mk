# What leaves the machine. Nothing is built here: what is sent is what was checked.

# Made with other QUANTS, such as those of a command line that this call has not: its files are not ours to check.
UNCHECKED := $(filter-out $(RELEASES),$(patsubst %/manifest.json,%,$(wildcard $(PRUNED)/release/*/manifest.json)))

check-release: $(RELEASES:%=%/manifest.json) ## pass or fail for each check of the release folders
	@$(PYTHON) scripts/check_release.py $(RELEASES) --gpu-layers $(GPU_LAYERS) \
	  $(patsubst %/config.json,--given-model $(MODEL_RECORD) %,$(wildcard $(MODEL)/config.json))
	$(if $(UNCHECKED),@printf 'note  %s: not checked: no file of QUANTS is for it\n' $(UNCHECKED))

upload: | $(SETUP) ## check and list what REPO=USER/NAME would get of RELEASE=folder; with UPLOAD=yes send it
	@$(PYTHON) scripts/upload_release.py --release $(RELEASE) --repo '$(REPO)' \
	  $(if $(filter command,$(firstword $(origin RELEASE))),,--name $(PRUNED_NAME)) $(if $(filter yes,$(UPLOAD)),--send)

release-ollama: | $(SETUP) ## print, or run where there is an ollama, what wraps RELEASE for Ollama's tool calls
	@$(PYTHON) scripts/release_ollama.py $(RELEASE) $(if $(REPO),--repo '$(REPO)')
