# Where outputs go: the only place that names them. Short names; what a folder's bytes depend on is in its settings.txt.

DOWNLOADS = $(BUILD)/downloads
# Of a build folder, beside the models; clean knows them, too.
OTHER_FOLDERS := downloads comparison bench plans rehearsal cluster
FULL = $(BUILD)/$(NAME)/full
PRUNED = $(BUILD)/$(NAME)/$(VARIANT)
# Before all else: by it a step knows that the folder is ours, and seals what it writes there.
MARKER := $(BUILD)/.built-by-this-project
LOGS = $(if $(filter compare,$(MAKECMDGOALS)),$(BUILD)/comparison,$(PRUNED))/logs

# A file that was chosen by hand names its variant; else what chose the experts does.
DEFAULT_VARIANT = $(if $(DROP_MAP),$(basename $(notdir $(DROP_MAP))),$(KEEP)e$(CHOICE_ENDING))
CRITERION_ENDING = $(if $(filter-out coverage,$(CRITERION)),-$(subst :,,$(CRITERION)))
# An order by reconstruction is part of the statistics, and made for some tokens and weights of domains.
ORDER_ENDING = $(if $(RECONSTRUCTION),-reconstruction-$(RECONSTRUCTION)$(if $(DOMAINS),-domains))
ORDERED_FOR = $(if $(filter reconstruction,$(CRITERION)),$(patsubst %,-%,$(filter-out all,$(RECONSTRUCTION))))
CHOICE_ENDING = $(CRITERION_ENDING)$(ORDERED_FOR)$(PROTECT_ENDING)$(if $(DOMAINS),-domains)$(FOLD_ENDING)
FOLD_ENDING = $(if $(FOLD),-fold$(subst /,of,$(FOLD)))
# The rule of generate_drop_map.py: PROTECTING of choice/criteria.py, which a test holds beside this line.
DEFAULT_PROTECT_TOP = $(if $(filter coverage norm-plus-count,$(CRITERION)),16,0)
PROTECT_ENDING = $(if $(filter-out $(DEFAULT_PROTECT_TOP),$(PROTECT_TOP)),-top$(PROTECT_TOP))

# ---- fetch
MODEL_SOURCE := $(FULL)/source.txt
MODEL_RECORD := $(FULL)/model.json
CHECKED := $(PRUNED)/machine.txt
QUESTION_SET := $(basename $(notdir $(QUESTIONS)))
EVAL_SET := $(basename $(notdir $(EVAL_QUESTIONS)))

# ---- analyse, choose, drop
STATISTICS := $(FULL)/statistics/$(QUESTION_SET)$(ORDER_ENDING)
STATS := $(STATISTICS)/expert_stats.safetensors
CHAT_TEXT := $(FULL)/statistics/$(QUESTION_SET)/$(QUESTION_SET).txt
DROP_MAP_FILE := $(PRUNED)/drop_map.json
PICTURES := $(patsubst %,$(PRUNED)/pictures/experts-%.png,heatmap coverage layers)
CHECKPOINT := $(PRUNED)/checkpoint
METADATA := $(CHECKPOINT)/expert_drop_metadata.json

# ---- convert, imatrix, quantise
CALIBRATION_TEXT := $(or $(patsubst v5,$(DOWNLOADS)/calibration_datav5.txt,$(CALIBRATION)),$(CHAT_TEXT))
FULL_GGUF := $(FULL)/gguf/$(basename $(notdir $(CALIBRATION_TEXT)))
PRUNED_GGUF := $(PRUNED)/gguf
FULL_F16 := $(FULL)/f16/$(NAME)-F16.gguf
PRUNED_F16 := $(PRUNED)/f16/$(PRUNED_NAME)-F16.gguf
full_quant = $(patsubst %,$(FULL_GGUF)/$(NAME)-%.gguf,$(1))
pruned_quant = $(patsubst %,$(PRUNED_GGUF)/$(PRUNED_NAME)-%.gguf,$(1))
IMATRIX_COVERAGE := $(PRUNED_GGUF)/imatrix-coverage.md
QUANT_FILES := $(call pruned_quant,$(ASKED_QUANTS))
DYNAMIC_FILES := $(call pruned_quant,$(filter CD-% AUTO-% PAD-%,$(ASKED_QUANTS)))
STANDARD_FILES := $(filter-out $(DYNAMIC_FILES),$(QUANT_FILES))
PLAN := $(PRUNED)/plan.json
# Made where the config has a tower. That of a Hub id is not there before the fetch: then the step itself looks.
MODEL_CONFIG := $(firstword $(wildcard $(MODEL)/config.json) $(wildcard $(FULL)/checkpoint/config.json))
MAY_SEE := $(if $(MODEL_CONFIG),$(shell grep -lE '"(vision|audio)_config": *\{' $(MODEL_CONFIG)),unknown)
MMPROJ_FILES := $(if $(MAY_SEE),$(patsubst %,$(PRUNED_GGUF)/mmproj-$(PRUNED_NAME)-%.gguf,$(sort $(MMPROJ))))

# ---- evaluate and compare
# What is scored stands for itself, or for the checkpoint whose record it is: servers of others have no GGUF file.
OPENAI := $(filter openai,$(BACKEND))
FULL_SCORED := $(if $(OPENAI),$(MODEL_RECORD),$(call full_quant,$(EVAL_QUANT)))
PRUNED_SCORED := $(if $(OPENAI),$(METADATA),$(call pruned_quant,$(EVAL_QUANT)))
scored = $(patsubst %/$(notdir $(METADATA)),%,$(patsubst %/model.json,%/checkpoint,$(1)))
OTHER_SEED = $(if $(filter-out 42,$(SEED)),-seed$(SEED))
# $(call numbers,FIRST,HOW MANY); of more than make/checks.mk allows none.
numbers = $(shell [[ '$(1) $(2)' =~ ^[0-9]{1,18}\ [0-9]{1,3}$$ ]] && seq $(1) $$(($(1) + $(2) - 1)))
# Of several samples each has a folder of its own.
SEEDS := $(if $(filter-out 1,$(SAMPLES)),$(call numbers,$(SEED),$(SAMPLES)))
runs_in = $(if $(SEEDS),$(SEEDS:%=$(1)/seed-%/summary.json),$(1)/summary.json)
# The scores of other tasks than GPQA Diamond stand beside each other. Those of GPQA may have fewer samples, or another
# name: the page then keeps the last of them.
OTHER_TASK := $(filter-out gpqa_diamond_cot_zeroshot,$(TASK))
GPQA_BEFORE := $(if $(OTHER_TASK),$(call check_files,$(PRUNED)/eval,$(patsubst %/scores.json,%,\
  $(shell cd '$(PRUNED)/eval' 2>/dev/null && ls -t */scores.json))))
PAGE_KEEPS := $(if $(filter release demo check-release upload,$(MAKECMDGOALS)),,$(firstword $(GPQA_BEFORE)))
GPQA_NAME := $(or $(filter $(EVAL_NAME),$(GPQA_BEFORE)),$(if $(OTHER_TASK),$(or $(filter \
  $(EVAL_NAME:%-samples=%),$(GPQA_BEFORE)),$(PAGE_KEEPS),$(EVAL_NAME:%-samples=%))),$(EVAL_NAME))
of_gpqa = $(if $(filter $(EVAL_NAME),$(GPQA_NAME)),$(call runs_in,$(1)),$(1)/summary.json)
FULL_EVAL := $(call of_gpqa,$(FULL)/eval/$(GPQA_NAME))
PRUNED_EVAL := $(call of_gpqa,$(PRUNED)/eval/$(GPQA_NAME))
SCORES := $(PRUNED)/eval/$(GPQA_NAME)/scores.md
TASK_NAME := $(TASK)-$(EVAL_NAME)
TASK_TYPES := $(EVAL_QUANT) $(filter-out $(EVAL_QUANT),$(TASK_QUANTS))
FULL_TASK := $(call runs_in,$(FULL)/tasks/$(TASK_NAME))
of_task = $(call runs_in,$(PRUNED)/tasks/$(TASK_NAME)/$(1))
PRUNED_TASK := $(foreach q,$(TASK_TYPES),$(call of_task,$q))
TASK_SCORES := $(PRUNED)/tasks/$(TASK_NAME)/scores.md
TASK_QUESTIONS := $(or $(TASK_DATA),$(DOWNLOADS)/tasks/$(TASK).jsonl)
TASK_SHOTS := $(or $(TASK_EXAMPLES),$(if $(filter mmlu_pro_%,$(TASK)),$(DOWNLOADS)/tasks/$(TASK).examples.jsonl))
ASKED_SCORES := $(if $(OTHER_TASK),$(TASK_SCORES),$(SCORES))
HELDOUT := $(PRUNED)/heldout$(OPENAI:%=-%)$(OTHER_TASK:%=-%)$(if $(SEEDS),-samples)
HELDOUT_GGUF := $(if $(filter F16,$(HELDOUT_QUANT)),$(FULL_F16),$(call full_quant,$(HELDOUT_QUANT)))
HELDOUT_SOURCE := $(if $(OPENAI),$(MODEL_RECORD),$(HELDOUT_GGUF))
HELDOUT_FILE := $(if $(OPENAI),checkpoint/$(notdir $(METADATA)),$(PRUNED_NAME)-$(HELDOUT_QUANT).gguf)
FOLD_NUMBERS := $(call numbers,1,$(FOLDS))
HELDOUT_REFERENCE := $(call runs_in,$(HELDOUT)/full)
HELDOUT_SUMMARY := $(call runs_in,$(HELDOUT))
HELDOUT_SCORES := $(HELDOUT)/scores.md

# ---- measure
QUALITY := $(PRUNED)/quality$(if $(filter-out reply,$(QUALITY_SCORE)),-$(QUALITY_SCORE))/quality.md
CD_SCOPES := $(PRUNED)/cd-scopes$(if $(filter-out reply,$(QUALITY_SCORE)),-$(QUALITY_SCORE))/quality.md
CD_QUANTS := $(filter CD-%,$(KNOWN_QUANTS))
SCOPE_FILES := $(foreach scope,all experts,$(CD_QUANTS:%=$(PRUNED)/cd-scopes/$(scope)/$(PRUNED_NAME)-%.gguf))
# Of each quant that is compared, the file of the release is one, and the other is built beside it.
SWITCH_FOLDER := $(PRUNED)/imatrix-switch
IMATRIX_SWITCH := $(SWITCH_FOLDER)$(if $(filter-out reply,$(QUALITY_SCORE)),-$(QUALITY_SCORE))/quality.md
built_with = $(patsubst %,$(SWITCH_FOLDER)/with/$(PRUNED_NAME)-%.gguf,$(filter $(1),$(NO_IMATRIX)))
built_without = $(patsubst %,$(SWITCH_FOLDER)/without/$(PRUNED_NAME)-%.gguf,$(filter-out $(NO_IMATRIX),$(1)))
SWITCH_FILES := $(foreach q,$(COMPARE_IMATRIX),$(call built_with,$q) $(call built_without,$q))
COMPARISON := $(FULL)/criteria/$(EVAL_SET)$(or $(ORDER_ENDING),$(if $(DOMAINS),-domains))/criteria.md
FINDINGS := $(PRUNED)/findings/findings.md
FINDINGS_PASS := $(STATISTICS)/measured.safetensors

# An assistant of the Hub is fetched; a directory is taken where it lies.
hub_id = $(and $(filter 2,$(words $(subst /, ,$(1)))),$(filter-out /% .% %/,$(1)),$(if $(wildcard $(1)),,yes))
ASSISTANT := $(if $(call hub_id,$(DRAFT)),$(FULL)/assistants/$(subst /,-,$(DRAFT)),$(DRAFT))
ASSISTANT_FETCHED := $(if $(call hub_id,$(DRAFT)),$(ASSISTANT).txt)
DRAFT_FOLDER := $(PRUNED)/draft
DRAFT_FILE := $(if $(DRAFT),$(DRAFT_FOLDER)/mtp-$(PRUNED_NAME)-$(DRAFT_TYPE).gguf)
DRAFT_GAIN := $(if $(DRAFT),$(DRAFT_FOLDER)/draft.md)
LOOPS := $(PRUNED)/loops/loops.md
LOOP_ANSWERS := $(FULL)/loops
LOOP_PROMPTS := data/loop_prompts.json
ACTIVE := $(PRUNED)/active-experts/active-experts.md

RUNS_WORD := $(call words_of,$(subst /,-,$(patsubst $(BUILD)/%,%,$(RUNS))))
RUNS_ASKED := $(OTHER_TASK:%=-%)$(if $(SEEDS),-$(SAMPLES)-samples)
RUNS_SCORES := $(if $(RUNS),$(BUILD)/comparison/$(RUNS_WORD)$(RUNS_ASKED)/scores.md)

# ---- release and report
GGUF_RELEASES := $(if $(STANDARD_FILES),$(PRUNED)/release/GGUF) $(if $(DYNAMIC_FILES),$(PRUNED)/release/dynamic-GGUF)
RELEASES := $(GGUF_RELEASES) $(PRUNED)/release/checkpoint
REPORT := $(PRUNED)/report.html
