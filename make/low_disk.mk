# LOW_DISK=yes: what no later step of the release needs goes at once. Each removal is a target, NAME.freed, that follows
# the last step that needs the file and comes before the next that needs room: full model first, then the pruned one.
# All targets are secondary (.SECONDARY in the Makefile), so a file that has gone is not made again for what is newer.
#
#   analyse, full F16, its quant, [full F16 goes], full scores, [that quant goes], drop, [full weights go],
#   pruned F16, its quants, [pruned F16 goes], pruned scores, release
#
# A release is held against outlines of what has gone (files/outlines.py). LOW_DISK=all takes a local MODEL, too.

OUTLINE := $(FULL)/outline
# What a release is held against: the weights, or their outline where they have gone.
# By their names: other files of the kind, such as an adapter of the user's, are none.
OWN_WEIGHTS = cd '$(FULL)/checkpoint' 2>/dev/null && for f in model.safetensors \
  $$(grep -hoE '[^"/]+[.]safetensors"' model.safetensors.index.json 2>/dev/null | tr -d '"' | LC_ALL=C sort -u); do \
  [ ! -e "$$f" ] || { echo there; break; }; done
FULL_SOURCE = $(if $(shell $(OWN_WEIGHTS)),$(FULL)/checkpoint,$(if $(shell \
  [ -e '$(OUTLINE)/config.json' ] && echo there),$(OUTLINE),$(FULL)/checkpoint))

ifneq ($(filter yes all,$(LOW_DISK)),)
NEEDS_ALL := verify reproduce quality compare-criteria compare-imatrix compare-cd-scopes findings loops eval-heldout
$(foreach g,$(filter $(NEEDS_ALL),$(MAKECMDGOALS)),$(error LOW_DISK: expected no target that needs what goes$(,) \
  found $g; give it LOW_DISK=no before anything has gone))

FULL_QUANT := $(call full_quant,$(EVAL_QUANT))
FULL_F16_FREED := $(FULL_F16).freed
FULL_QUANT_FREED := $(FULL_QUANT).freed
WEIGHTS_FREED := $(PRUNED)/weights.freed
PRUNED_F16_FREED := $(PRUNED_F16).freed
FREE = $(PYTHON) scripts/free_disk.py

# Without scores the full model is only analysed and dropped from.
ifeq ($(SCORED),yes)
$(METADATA): | $(if $(DRAFT),$(FULL_F16_FREED),$(FULL_QUANT_FREED))
$(RELEASES:%=%/manifest.json): | $(FULL_QUANT_FREED)
endif
$(FULL_F16_FREED): $(FULL_QUANT)
	$(call step,imatrix,Free the F16 file of $(NAME)) $(FREE) --outlined --gguf $(FULL_F16)
	@touch $@

# The draft model is measured with both quants.
$(FULL_QUANT_FREED): $(FULL_EVAL) $(DRAFT_GAIN) | $(FULL_F16_FREED)
	$(call step,quants,Free the quant of $(NAME)) $(FREE) --gguf $(FULL_QUANT)
	@touch $@

$(PRUNED_F16): | $(WEIGHTS_FREED)
$(WEIGHTS_FREED): $(METADATA)
	$(call step,drop,Free the weights of $(NAME)) $(FREE) --checkpoint $(FULL)/checkpoint --outline $(OUTLINE) \
	  $(if $(filter all,$(LOW_DISK)),--local $(MODEL))
	@touch $@

$(PRUNED_EVAL) $(RELEASES:%=%/manifest.json): | $(PRUNED_F16_FREED)
quants: $(PRUNED_F16_FREED)
$(PRUNED_F16_FREED): $(QUANT_FILES) $(call pruned_quant,$(EVAL_QUANT)) $(DRAFT_FILE)
	$(call step,quants,Free the F16 file of $(PRUNED_NAME)) $(FREE) --gguf $(PRUNED_F16)
	@touch $@
endif
