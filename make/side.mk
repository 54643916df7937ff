# Side branches: what is measured of a run beside the main line. Each is long, each can be killed and goes on.

# ---- plan and check: before anything is built
# Of a shape, what the run says of its own model is left out, unless the command itself asks for it.
PLANNED_DRAFT = $(if $(SHAPE),$(if $(filter DRAFT,$(COMMAND_LINE)),$(DRAFT)),$(DRAFT))
ASSISTANT_HERE = $(if $(PLANNED_DRAFT),$(if $(ASSISTANT_FETCHED),$(call there,,$(ASSISTANT_FETCHED)),$(DRAFT)))
# Of a shape other files are planned than those of the run: what the run has done says nothing of them.
PLANNED = $(if $(SHAPE),$(BUILD)/plans/$(SHAPE).json,$(PLAN))
PLAN_RUN = $(PYTHON) scripts/plan_run.py --plan $(PLANNED) $(if $(SHAPE),,--logs $(LOGS)) --questions $(QUESTIONS) \
  $(if $(CALIBRATION),--text $(CALIBRATION_TEXT)) --eval-questions $(EVAL_QUESTIONS) --answer-tokens $(MAX_GEN_TOKS) \
  --stream-layers $(or $(STREAM_LAYERS),no) --calibration $(BUILD)/plans/calibration.json
plan: $(TOOLS) ## QUANTS to the byte before anything is built; seconds, memory and disk of each step of the run
	@$(PYTHON) scripts/plan_quants.py $(if $(SHAPE),--shape $(SHAPE),--source $(MODEL)) --output $(PLANNED) \
	  $(KEEP:%=--keep %) --name $(or $(SHAPE),$(PRUNED_NAME)) --types F16 $(filter-out F16,$(ASKED_QUANTS)) $(PLAN_FLAGS) \
	  $(patsubst %,--mmproj %,$(sort $(MMPROJ))) $(if $(ASSISTANT_HERE),--draft $(ASSISTANT) --draft-type $(DRAFT_TYPE)) \
	  $(CD_OPTIONS) --disk $(BUILD)
	@$(if $(PLANNED_DRAFT),$(if $(ASSISTANT_HERE),,echo "The draft model is planned once $(DRAFT) is here."))
	@steps=$$($(STEPS_LEFT)); echo; printf '%s\n' "$$steps" | $(PLAN_RUN)

verify reproduce: $(METADATA)
verify: ## check every tensor of the pruned checkpoint, then the GGUF files: all there, whole, of one build
	$(PYTHON) scripts/expert_drop.py --verify \
	  --source $(FULL)/checkpoint --drop-map $(DROP_MAP_FILE) --output $(CHECKPOINT)
	$(if $(call there,,$(QUANT_FILES)),$(VERIFY_BUILD),@echo 'No quant is built yet: the checkpoint alone was checked.')

reproduce: ## build the pruned checkpoint again in another place, and compare the sha256 of every file
	@own=$(PRUNED)/reproduced-$$({ uname -n; readlink /proc/self/ns/pid || :; } | sha256sum | cut -c 1-8); \
	  again=$$own-$$$$; \
	  trap 'rm -rf -- "$$again" "$$again.sha256"' EXIT; trap 'exit 1' INT TERM HUP; \
	  for left in "$$own"-*; do pid=$${left##*-}; \
	    [ ! -O "$$left" ] || kill -0 "$${pid%%.*}" 2>/dev/null || rm -rf -- "$$left"; done; \
	  rm -rf -- "$$again" "$$again.sha256"; set -C; \
	  $(PYTHON) scripts/expert_drop.py --source $(FULL)/checkpoint --drop-map $(DROP_MAP_FILE) --output "$$again"; \
	  (cd $(CHECKPOINT) && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$$again.sha256"; \
	  (cd "$$again" && sha256sum --check --strict) <"$$again.sha256"; \
	  [ "$$(find "$$again" -type f | wc -l)" -eq "$$(wc -l <"$$again.sha256")" ]

# ---- CD and AUTO quants: what else their bytes depend on
GGUF_FOLDERS := $(FULL_GGUF) $(PRUNED_GGUF)
$(foreach d,$(GGUF_FOLDERS),$(eval $(call guard,cd,$d/cd-settings.txt,$(CD_SETTINGS),$d/*-CD-*)))
made_from_auto = $(1)/*-AUTO-* $(1)/sensitivity.json
$(foreach d,$(GGUF_FOLDERS),$(eval $(call guard,auto,$d/auto-settings.txt,$(AUTO_SETTINGS),$(call made_from_auto,$d))))
AUTO_QUANTS := $(filter AUTO-%,$(ASKED_QUANTS) $(EVAL_QUANT) $(HELDOUT_QUANT) $(LOOP_QUANTS))
WITH_IMATRIX := $(filter-out F16 $(NO_IMATRIX),$(KNOWN_QUANTS)) $(AUTO_QUANTS)
ALL_CD_FILES := $(call full_quant,$(CD_QUANTS)) $(call pruned_quant,$(CD_QUANTS))
ALL_AUTO_FILES := $(call full_quant,$(AUTO_QUANTS)) $(call pruned_quant,$(AUTO_QUANTS))

# All but F16, a link to its source, and NO_IMATRIX are built with the imatrix.
$(call full_quant,$(WITH_IMATRIX)): $(FULL_GGUF)/imatrix.gguf
$(call pruned_quant,$(WITH_IMATRIX)): $(PRUNED_GGUF)/imatrix.gguf
# What was built otherwise than NO_IMATRIX says is built again; the records tell. $(1): path of a file up to its quant
quants_built = $(patsubst $(1)%.gguf.json,%,$(wildcard $(1)*.gguf.json))
built_plain = $(patsubst $(1)%.gguf.json,%,$(shell grep -ls '"imatrix_sha256": null' $(1)*.gguf.json))
turned = $(filter-out F16,$(filter-out $(NO_IMATRIX),$(2)) $(filter $(NO_IMATRIX),$(filter-out $(2),$(quants_built))))
$(foreach p,$(FULL_GGUF)/$(NAME)- $(PRUNED_GGUF)/$(PRUNED_NAME)-,\
  $(foreach q,$(call check_files,$p,$(call turned,$p,$(call built_plain,$p))),$(eval $p$q.gguf: FORCE)))
$(foreach f,$(ALL_CD_FILES),$(eval $f: $(if $(CD_TIERS),,$(STATS)) $(call again,cd) | $(dir $f)cd-settings.txt))
$(foreach f,$(ALL_AUTO_FILES),$(eval $f: $(dir $f)sensitivity.json $(call again,auto)))

$(FULL_GGUF)/sensitivity.json: $(FULL_F16) $(FULL_GGUF)/imatrix.gguf | $(FULL_GGUF)/auto-settings.txt
$(PRUNED_GGUF)/sensitivity.json: $(PRUNED_F16) $(PRUNED_GGUF)/imatrix.gguf | $(PRUNED_GGUF)/auto-settings.txt
%/sensitivity.json: $(call again,auto) | $(QUESTIONS) $(TOOLS)
	$(call step,quants,Measure what each type costs) $(PYTHON) scripts/measure_sensitivity.py \
	  --input $(filter %-F16.gguf,$^) --imatrix $(@D)/imatrix.gguf --model $(FULL)/checkpoint \
	  --questions $(QUESTIONS) --limit $(SENSITIVITY_CHATS) --gpu-layers $(GPU_LAYERS) --output $@

# ---- quality: what pruning and each quant cost
QUALITY_PAGES := $(QUALITY) $(CD_SCOPES) $(IMATRIX_SWITCH)
$(foreach f,$(QUALITY_PAGES),$(eval $(call guard,quality,$(dir $f)settings.txt,$(QUALITY_SETTINGS),$(dir $f)*)))
$(foreach f,$(QUALITY) $(CD_SCOPES),$(eval $(call remember,$(dir $f)files.txt,$(ASKED_QUANTS))))
$(eval $(call remember,$(dir $(IMATRIX_SWITCH))files.txt,$(COMPARE_IMATRIX)))
$(QUALITY): $(QUANT_FILES)
$(CD_SCOPES): $(filter-out $(DYNAMIC_FILES),$(QUANT_FILES)) $(SCOPE_FILES)
$(IMATRIX_SWITCH): $(call pruned_quant,$(COMPARE_IMATRIX)) $(SWITCH_FILES)
.PRECIOUS: $(foreach f,$(QUALITY_PAGES),$f $(f:.md=.json) $(f:.md=.png))
$(QUALITY_PAGES): %/quality.md: $(FULL_F16) $(PRUNED_F16) $(CALIBRATION_TEXT) %/files.txt $(call again,quality) \
    | $(DROP_MAP_FILE) $(EVAL_QUESTIONS) %/settings.txt $(TOOLS)
	$(call step,quality,Measure the losses) $(MEASURE_QUALITY)

quality: $(QUALITY) $(REPORT) ## KLD, top token and probabilities of QUANTS on held-out chats, with errors
	$(SHOW) <$<
compare-imatrix: $(IMATRIX_SWITCH) ## what the imatrix gains or costs: COMPARE_IMATRIX with and without it
	$(SHOW) <$<
compare-cd-scopes: $(CD_SCOPES) ## the CD quants in both scopes, held against the standard ones
	$(SHOW) <$<

$(SCOPE_FILES): $(PRUNED)/cd-scopes/%.gguf: $(PRUNED_F16) $(PRUNED_GGUF)/imatrix.gguf $(if $(CD_TIERS),,$(STATS)) \
    $(call again,cd) | $(PRUNED_GGUF)/cd-settings.txt $(TOOLS)
	$(call step,quality,Quantise $(@F:.gguf=) by $(notdir $(@D))) $(PYTHON) scripts/quantize_gguf.py \
	  --input $(PRUNED_F16) --imatrix $(PRUNED_GGUF)/imatrix.gguf $(if $(CD_TIERS),,--stats $(STATS)) \
	  $(CD_OPTIONS) --cd-scope $(notdir $(@D)) --type $(patsubst $(PRUNED_NAME)-%,%,$(basename $(@F))) --output $@

$(SWITCH_FOLDER)/with/$(PRUNED_NAME)-%.gguf: $(PRUNED_F16) $(PRUNED_GGUF)/imatrix.gguf $(call again,quality) | $(TOOLS)
	$(call step,quality,Quantise $* with the imatrix) $(QUANTIZE)
$(SWITCH_FOLDER)/without/$(PRUNED_NAME)-%.gguf: $(PRUNED_F16) $(call again,quality) | $(TOOLS)
	$(call step,quality,Quantise $* without the imatrix) $(QUANTIZE)

# ---- what each criterion costs. If the control does not cost most, the script fails after writing; the files stay.
$(eval $(call guard,quality,$(dir $(COMPARISON))settings.txt,$(COMPARISON_SETTINGS),$(dir $(COMPARISON))*))
.PRECIOUS: $(COMPARISON) $(COMPARISON:.md=.json) $(COMPARISON:.md=.png)
$(COMPARISON) $(COMPARISON:.md=.json) $(COMPARISON:.md=.png) &: $(FULL_F16) $(STATS) $(call again,quality) \
    $(wildcard scripts/choice/*.py) | $(EVAL_QUESTIONS) $(dir $(COMPARISON))settings.txt $(TOOLS)
	$(call step,quality,Compare the criteria) $(PYTHON) scripts/compare_criteria.py \
	  --gguf $(FULL_F16) --stats $(STATS) --model $(FULL)/checkpoint \
	  --questions $(EVAL_QUESTIONS) --keep $(COMPARE_KEEP) --seeds $(COMPARE_SEEDS) \
	  $(if $(DOMAINS),--criterion $(CRITERION) $(DOMAIN_FLAGS)) $(COMPARE_TOP:%=--protect-top %) \
	  --gpu-layers $(GPU_LAYERS) $(if $(filter yes,$(RECOMPUTE_FULL)),--recompute-full) --output $(COMPARISON)

compare-criteria: $(COMPARISON) ## KLD of every criterion and of random drops on EVAL_QUESTIONS
	$(SHOW) <$<

# ---- what the experts are like. The passes through the model are kept beside the statistics, for all variants.
$(eval $(call guard,findings,$(dir $(FINDINGS))settings.txt,$(FINDINGS_SETTINGS),$(dir $(FINDINGS))*))
.PRECIOUS: $(FINDINGS) $(FINDINGS:.md=.json) $(FINDINGS:.md=.png)
$(FINDINGS) $(FINDINGS:.md=.json) $(FINDINGS:.md=.png) &: $(DROP_MAP_FILE) $(STATS) $(OTHER_MAPS) \
    $(call again,findings) \
    | $(MODEL_RECORD) $(QUESTIONS) $(dir $(FINDINGS))settings.txt
	$(call step,findings,Measure the findings) $(MEASURE_FINDINGS)

findings: $(FINDINGS) $(REPORT) ## what the experts are like: topics, likeness, bf16, other maps; each with a control
	$(SHOW) <$<

# ---- speed: with a draft model, and with fewer active experts
$(eval $(call guard,draft,$(DRAFT_FOLDER)/settings.txt,$(DRAFT_SETTINGS),$(DRAFT_FOLDER)/*))
$(eval $(call guard,draft,$(dir $(ACTIVE))settings.txt,$(ACTIVE_SETTINGS),$(dir $(ACTIVE))*))
ifneq ($(DRAFT),)
# A file of its own: a killed download may have left a config.json.
$(ASSISTANT_FETCHED): $(call again,draft) | $(SETUP) $(CHECKED)
	$(call step,draft,Fetch $(DRAFT)) $(PYTHON) scripts/fetch_model.py --assistant --model $(DRAFT) --output $(ASSISTANT)
	@printf '%s\n' '$(DRAFT)' | $(TO_TARGET)

$(DRAFT_FILE): $(PRUNED_F16) $(ASSISTANT_FETCHED) \
    $(call check_files,$(ASSISTANT),$(wildcard $(ASSISTANT)/config.json $(ASSISTANT)/*.safetensors)) \
    $(call again,draft) | $(DRAFT_FOLDER)/settings.txt $(TOOLS)
	$(call step,draft,Build the draft model) $(PYTHON) scripts/build_draft.py --model $(ASSISTANT) --target $(PRUNED_F16) \
	  --name $(PRUNED_NAME) --type $(DRAFT_TYPE) --gpu-layers $(GPU_LAYERS) --output $@

# If an answer changes, the script fails after writing; the files stay.
.PRECIOUS: $(DRAFT_GAIN) $(DRAFT_GAIN:.md=.json)
$(DRAFT_GAIN) $(DRAFT_GAIN:.md=.json) &: $(DRAFT_FILE) $(call full_quant,$(EVAL_QUANT)) \
    $(call pruned_quant,$(EVAL_QUANT)) \
    $(call again,draft) | $(EVAL_QUESTIONS) $(DRAFT_FOLDER)/settings.txt $(TOOLS)
	$(call step,draft,Measure the draft model) $(MEASURE_DRAFT)
endif

draft: $(DRAFT_GAIN) $(if $(DRAFT),$(REPORT)) ## build DRAFT for the pruned model, measure what it gains
	$(if $(DRAFT),,$(error DRAFT: expected an assistant$(,) a directory or a Hub id$(,) found none))
	$(SHOW) <$<

$(ACTIVE) $(ACTIVE:.md=.json) $(ACTIVE:.md=.png) &: $(call pruned_quant,$(EVAL_QUANT)) $(call again,draft) \
    | $(MODEL_RECORD) $(EVAL_QUESTIONS) $(dir $(ACTIVE))settings.txt $(TOOLS)
	$(call step,active-experts,Run with fewer experts) $(MEASURE_ACTIVE)

active-experts: $(ACTIVE) $(REPORT) ## loss and speed with fewer active experts per token
	$(SHOW) <$<

# ---- loops and tool calls: the full model, the pruned one, and its quants
$(eval $(call guard,loops,$(dir $(LOOPS))settings.txt,$(LOOP_SETTINGS),$(dir $(LOOPS))*))
$(eval $(call remember,$(dir $(LOOPS))files.txt,$(LOOP_QUANTS) LOOP_SEEDS=$(LOOP_SEEDS)))
.PRECIOUS: $(LOOPS) $(LOOPS:.md=.json)
$(LOOPS) $(LOOPS:.md=.json) &: $(LOOP_FILES) $(LOOP_PROMPTS) $(LOOK) $(dir $(LOOPS))files.txt $(call again,loops) \
    | $(dir $(LOOPS))settings.txt $(TOOLS)
	$(call step,loops,Look for loops) $(MEASURE_LOOPS)

loops: $(LOOPS) $(REPORT) ## runaway, repeated, malformed and empty answers of full model, pruned model and LOOP_QUANTS
	$(SHOW) <$<

# ---- held out: of QUESTIONS each fold leaves out every FOLDS-th; its map is made from the others
$(eval $(call guard,heldout,$(HELDOUT)/settings.txt,$(HELDOUT_SETTINGS),$(HELDOUT)/*))
$(HELDOUT)/fold%/drop_map.json: $(STATS) $(CHOOSE) $(call again,heldout) | $(HELDOUT)/settings.txt
	$(call step,heldout,Choose for fold $*) $(PYTHON) scripts/generate_drop_map.py \
	  --stats $< --keep $(KEEP) --criterion $(CRITERION) --protect-top $(PROTECT_TOP) --fold $*/$(FOLDS) \
	  $(DOMAIN_FLAGS) --output $@

$(HELDOUT)/fold%/$(HELDOUT_FILE): $(HELDOUT)/fold%/drop_map.json $(HELDOUT_SOURCE) $(DROP)
	$(call step,heldout,Drop for fold $*) $(PYTHON) scripts/expert_drop.py \
	  --source $(call scored,$(HELDOUT_SOURCE)) --drop-map $< --output $(call scored,$@)

# Beside a pruned GGUF file lies the metadata of its drop, under the file's name.
fold_proof = $(HELDOUT)/fold$(1)/$(if $(OPENAI),$(HELDOUT_FILE),$(HELDOUT_FILE:.gguf=.$(notdir $(METADATA)))) \
  $(HELDOUT)/fold$(1)/drop_map.json $(STATS)
define heldout_fold
$(call runs_in,$(HELDOUT)/fold$(1)/eval): $(HELDOUT)/fold$(1)/$(HELDOUT_FILE) $(SUM_UP) \
    | $(QUESTIONS) $(TOOLS)
	$$(call step,heldout,Score fold $(1)$$(of_seed)) env QUESTIONS=$(QUESTIONS) \
	  HELD_OUT_OF=$(HELDOUT)/fold$(1)/drop_map.json CHOSEN_BY='$(call fold_proof,$(1))' \
	  $$(EVALUATE) $(PRUNED_NAME)-fold$(1) $$(call scored,$$<)
endef
$(foreach i,$(FOLD_NUMBERS),$(eval $(call heldout_fold,$i)))

$(HELDOUT_REFERENCE): $(HELDOUT_SOURCE) $(SUM_UP) $(call again,heldout) | $(QUESTIONS) $(HELDOUT)/settings.txt $(TOOLS)
	$(call step,heldout,Score $(NAME)$(of_seed)) env QUESTIONS=$(QUESTIONS) $(EVALUATE) $(NAME) $(call scored,$<)

# $(call heldout_pool,FILE): the same file of each fold
define heldout_pool
$(HELDOUT)/$(1): $(FOLD_NUMBERS:%=$(HELDOUT)/fold%/eval/$(1)) $(POOL)
	$$(call step,heldout,Pool the folds$$(of_seed)) $$(PYTHON) scripts/pool_heldout.py \
	  --name $(PRUNED_NAME)-held-out --summary $(FOLD_NUMBERS:%=$(HELDOUT)/fold%/eval/$(1)) --output $$@
endef
$(foreach f,$(HELDOUT_SUMMARY:$(HELDOUT)/%=%),$(eval $(call heldout_pool,$f)))

$(eval $(call remember_samples,$(HELDOUT)))
$(HELDOUT_SCORES): $(HELDOUT_REFERENCE) $(HELDOUT_SUMMARY) $(COMPARE) $(call samples_of,$(HELDOUT))
	$(call step,heldout,Compare the scores) $(PYTHON) scripts/compare_scores.py \
	  --runs $(HELDOUT_REFERENCE) $(HELDOUT_SUMMARY) --output $@

eval-heldout: $(HELDOUT_SCORES) ## score the choice on QUESTIONS it has not seen: FOLDS maps and GGUFs, pooled
	$(SHOW) <$<

# ---- several runs in one table
compare: $(RUNS_SCORES) ## put RUNS="a b c" in one table, question by question: intervals, paired tests, picture
	$(if $(RUNS),,$(error RUNS: expected runs by name or their folders, such as RUNS="a b", found none))
	$(SHOW) <$<; printf '\nResults: %s\n' $<

ifneq ($(RUNS_SCORES),)
# The runs' scores are taken as they are: making one again may take days.
$(RUNS_SCORES): $(if $(call newer_than,$(wildcard $(RUNS_SCORES)),$(RUN_SUMMARIES)),FORCE) $(COMPARE) \
    | $(SETUP) $(MARKER)
	$(call step,eval,Compare the runs) $(PYTHON) scripts/compare_scores.py --runs $(RUN_SUMMARIES) --output $@
endif
print-full-runs:
	@printf '%s\n' $(if $(OTHER_TASK),$(FULL_TASK),$(FULL_EVAL))
print-pruned-runs:
	@printf '%s\n' $(if $(OTHER_TASK),$(PRUNED_TASK),$(PRUNED_EVAL))

# ---- report: of the records that there are
report: $(REPORT) ## one page of what is known of this run, for a browser
	@printf '%s\n' $(REPORT)

$(REPORT): $(REPORT_AFTER) $(call again,report) $(PAGE) \
    $(if $(NEW_RECORDS)$(call missing,$(REPORT_AFTER)),FORCE) | $(SETUP)
	$(call step,report,Write the report page) $(PYTHON) scripts/build_report.py \
	  --name $(PRUNED_NAME) --base $(NAME) $(REPORT_FLAGS) $(if $(REPLACE),--replace) --output $@
