# Several hosts over one shared folder (docs/several-hosts.md): what is left to make, and whether all of it came out.

# A command removes what it did not finish. Make must not: what it sees change may be another host's, and whole.
.PRECIOUS: $(MODEL_SOURCE) $(ASSISTANT_FETCHED) $(STATS) $(DROP_MAP_FILE) $(METADATA) $(FULL_F16) $(PRUNED_F16) \
  $(FULL_GGUF)/imatrix.gguf $(PRUNED_GGUF)/imatrix.gguf $(GGUF_FOLDERS:%=%/sensitivity.json) \
  $(QUANT_FILES) $(MMPROJ_FILES) $(DRAFT_FILE) $(call full_quant,$(EVAL_QUANT)) $(call pruned_quant,$(EVAL_QUANT))

FILES_TO_SHARE := $(sort $(QUANT_FILES) $(MMPROJ_FILES) $(DRAFT_FILE) \
  $(if $(filter yes,$(SCORED)),$(call full_quant,$(EVAL_QUANT)) $(call pruned_quant,$(EVAL_QUANT))))
# The environment of another host may be another.
TOOLS_OF_ENVIRONMENT = $(foreach v,LLAMA_CPP CMAKE_ARGS MOE_TOOLS_CACHE,\
  $(if $(filter $v,$(COMMAND_LINE)),,$(if $(strip $($v)),'$v=$(strip $($v))')))
targets: ## a command a line for each GGUF file that is still to be made: for xargs, GNU parallel or a Slurm array
	$(if $(REPLACE),$(error REPLACE: expected nothing with targets$(,) found $(REPLACE); every line would replace it))
	@# The folder's name is the shell's own word for it: make would put its quotation marks and $$(...) into the line.
	@$(foreach f,$(filter-out $(wildcard $(FILES_TO_SHARE)),$(FILES_TO_SHARE)),\
	  printf 'make -C %q %s\n' "$$PWD" "$(strip $(OVERRIDES) $(TOOLS_OF_ENVIRONMENT) $f)";) :

VERIFY_BUILD = $(PYTHON) scripts/verify_build.py --build $(BUILD) --checkpoint $(CHECKPOINT) --f16 $(PRUNED_F16) \
  $(if $(filter $(WITH_IMATRIX),$(ASKED_QUANTS)),--imatrix $(PRUNED_GGUF)/imatrix.gguf) \
  --quants $(QUANT_FILES) $(if $(MMPROJ_FILES),--mmproj $(MMPROJ_FILES))
