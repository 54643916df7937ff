# Scores of other tasks than GPQA Diamond: make eval TASK=gsm8k_cot_zeroshot TASK_DATA=file. The full model, the pruned
# one and TASK_QUANTS are scored. Each task has its own folders: what was scored before stays.

ifneq ($(OTHER_TASK),)
$(DOWNLOADS)/tasks/$(TASK).jsonl: | $(SETUP) $(CHECKED)
	$(call step,tasks,Fetch the questions of $(TASK)) $(PYTHON) scripts/fetch_task.py --task $(TASK) --output $@

$(DOWNLOADS)/tasks/$(TASK).examples.jsonl: | $(SETUP) $(CHECKED)
	$(call step,tasks,Fetch the few shots of $(TASK)) $(PYTHON) scripts/fetch_task.py --task $(TASK) --examples --output $@

# $(call task_rule,SUMMARIES,GGUF,QUANT,CHOSEN_BY)
define task_rule
$(foreach e,$(1),$(call guard,tasks,$(dir $e)settings.txt,$(call TASK_SETTINGS,$(3)),$(dir $e)*)
)
$(1): $(2) $(SUM_UP) $(call again,tasks) | $(TASK_QUESTIONS) $(TASK_SHOTS) $(addsuffix settings.txt,$(dir $(1)))
	$$(call step,tasks,Score $(basename $(notdir $(2))) on $(TASK)$$(of_seed)) env QUESTIONS=$(TASK_QUESTIONS) \
	  $(TASK_SHOTS:%=EXAMPLES=%) $(4) $$(EVALUATE) $(basename $(notdir $(2))) $(2)
endef
$(eval $(call task_rule,$(FULL_TASK),$(call full_quant,$(EVAL_QUANT)),$(EVAL_QUANT)))
$(foreach q,$(TASK_TYPES),\
  $(eval $(call task_rule,$(call of_task,$q),$(call pruned_quant,$q),$q,CHOSEN_BY='$(CHOICE_PROOF)')))

# What the scores are made from, for the gates of a release.
MADE_FROM := $(dir $(TASK_SCORES))made-from.txt
$(eval $(call remember,$(MADE_FROM),$(patsubst %,run=%,$(FULL_TASK) $(PRUNED_TASK)) questions=$(TASK_QUESTIONS) \
  $(TASK_SHOTS:%=examples=%)))
$(TASK_SCORES) $(TASK_SCORES:.md=.json) $(TASK_SCORES:.md=.png) &: $(FULL_TASK) $(PRUNED_TASK) $(MADE_FROM) $(COMPARE)
	$(call step,tasks,Compare the scores of $(TASK)) $(PYTHON) scripts/compare_scores.py \
	  --runs $(FULL_TASK) $(PRUNED_TASK) --output $(TASK_SCORES)
endif
