# How each output is made, in the order of the work. The Makefile names the outputs and includes this file.

# ---- model and questions
$(FULL_SOURCE): $(wildcard $(MODEL)/config.json $(MODEL)/*.safetensors $(MODEL)/*.safetensors.index.json) | $(SETUP)
	$(PYTHON) scripts/fetch_model.py --model $(MODEL) --output $(FULL)/checkpoint
	printf '%s\n' '$(MODEL_SOURCE)' >$@

$(BUILD)/questions/gpqa_diamond.csv: | $(SETUP)
	$(PYTHON) scripts/fetch_gpqa.py --output $@

# ---- analyse, choose, drop
ANALYZE = $(PYTHON) $(if $(filter-out 1,$(RANKS)),-m torch.distributed.run --standalone --nproc-per-node $(RANKS)) \
  scripts/teacher_force_analysis.py $(if $(filter yes,$(STREAM_LAYERS)),--stream-layers) $(if $(SPILL),--spill $(SPILL))

$(STATS): $(FULL_SOURCE) $(QUESTIONS) | $(SETUP) scripts/teacher_force_analysis.py
	$(ANALYZE) --model $(FULL)/checkpoint --questions $(QUESTIONS) --check-keep $(KEEP) --output $@

$(DROP_MAP): $(STATS) $(CHOOSE)
	$(PYTHON) scripts/generate_drop_map.py --stats $< --keep $(KEEP) --criterion $(CRITERION) --protect-top $(PROTECT_TOP) \
	  $(if $(FOLD),--fold $(FOLD)) --output $@

$(PLOTS) &: $(DROP_MAP) $(STATS) $(PLOT)
	$(PYTHON) scripts/plot_expert_stats.py --stats $(STATS) --drop-map $< --output-prefix $(PRUNED)/experts

$(DROP_METADATA): $(DROP_MAP) $(FULL_SOURCE) $(DROP)
	$(PYTHON) scripts/expert_drop.py --source $(FULL)/checkpoint --drop-map $< --output $(@D)

verify reproduce: $(DROP_METADATA)
verify: ## check every tensor of the pruned checkpoint against the full one
	$(PYTHON) scripts/expert_drop.py --source $(FULL)/checkpoint --drop-map $(DROP_MAP) --output $(dir $<) --verify

reproduce: ## build the pruned checkpoint again in another place, and compare the sha256 of every file
	rm -rf $(PRUNED)/reproduced
	$(PYTHON) scripts/expert_drop.py --source $(FULL)/checkpoint --drop-map $(DROP_MAP) --output $(PRUNED)/reproduced
	cd $(dir $<) && find . -type f | sort | xargs sha256sum >$(abspath $(PRUNED))/reproduced.sha256
	cd $(PRUNED)/reproduced && sha256sum --check --strict $(abspath $(PRUNED))/reproduced.sha256
	[ "$$(find $(PRUNED)/reproduced -type f | wc -l)" -eq "$$(wc -l <$(PRUNED)/reproduced.sha256)" ]
	rm -rf $(PRUNED)/reproduced

# ---- what each criterion costs. If the control does not cost most, the script fails after writing; the files stay.
ifeq ($(origin MODEL),file)
compare-criteria: ## KLD of every criterion and of random drops on EVAL_QUESTIONS (the demo, where no MODEL is given)
	@$(MAKE) --no-print-directory $@ $(DEMO)
else
compare-criteria: $(COMPARISON)
	@cat $<
endif

.PRECIOUS: $(COMPARISON) $(COMPARISON:.md=.json) $(COMPARISON:.md=.png)
$(COMPARISON) $(COMPARISON:.md=.json) $(COMPARISON:.md=.png) &: $(FULL_F16) $(STATS) $(EVAL_QUESTIONS) \
    scripts/generate_drop_map.py scripts/choice/criteria.py | $(TOOLS) scripts/compare_criteria.py
	$(PYTHON) scripts/compare_criteria.py --gguf $(FULL_F16) --stats $(STATS) --model $(FULL)/checkpoint \
	  --questions $(EVAL_QUESTIONS) --keep $(COMPARE_KEEP) --seeds $(COMPARE_SEEDS) \
	  --gpu-layers $(GPU_LAYERS) $(if $(filter yes,$(RECOMPUTE_FULL)),--recompute-full) --output $(COMPARISON) > /dev/null

# ---- convert and quantise, the full model and the pruned one alike
$(BUILD)/calibration/calibration_datav5.txt: | $(SETUP)
	$(PYTHON) scripts/fetch_calibration.py --output $@

ifeq ($(CALIBRATION),)
$(CALIBRATION_TEXT): $(QUESTIONS) $(FULL_SOURCE) $(RENDER)
	$(PYTHON) scripts/render_calibration.py --model $(FULL)/checkpoint --questions $(QUESTIONS) --output $@
endif

$(FULL_F16): $(FULL_SOURCE) | $(TOOLS) scripts/convert_to_gguf.py
	$(PYTHON) scripts/convert_to_gguf.py --model $(FULL)/checkpoint --name $(NAME) --output $@

$(PRUNED_F16): $(DROP_METADATA) | $(TOOLS) scripts/convert_to_gguf.py
	$(PYTHON) scripts/convert_to_gguf.py --model $(<D) --name $(PRUNED_NAME) --output $@

$(FULL_QUANT_DIR)/imatrix.gguf: $(FULL_F16)
$(PRUNED_QUANT_DIR)/imatrix.gguf: $(PRUNED_F16)
%/imatrix.gguf: $(CALIBRATION_TEXT) | $(TOOLS) scripts/build_imatrix.py
	$(PYTHON) scripts/build_imatrix.py --model $(filter %-F16.gguf,$^) --calibration $(CALIBRATION_TEXT) --output $@

%/imatrix-coverage.md %/imatrix-coverage.png: %/imatrix.gguf $(REACHED)
	$(PYTHON) scripts/report_imatrix.py --imatrix $< --output-prefix $*/imatrix-coverage

CD_OPTIONS := --cd-rule $(CD_RULE) --cd-cuts $(CD_CUTS) --cd-scope $(CD_SCOPE) $(if $(CD_TIERS),--cd-tiers $(CD_TIERS))
QUANTIZE = $(PYTHON) scripts/quantize_gguf.py --input $(filter %-F16.gguf,$^) $(if $(filter F16,$*),,--imatrix $(@D)/imatrix.gguf) \
  --min-expert-tokens $(MIN_EXPERT_TOKENS) $(if $(filter CD-%,$*),$(if $(CD_TIERS),,--stats $(STATS)) $(CD_OPTIONS)) \
  $(if $(filter AUTO-%,$*),--sensitivity $(@D)/$(SENSITIVITY)) --type $* --output $@

$(FULL_QUANT_FILES): $(FULL_QUANT_DIR)/$(NAME)-%.gguf: $(FULL_F16) | $(TOOLS) scripts/quantize_gguf.py
	$(QUANTIZE)

$(PRUNED_QUANT_FILES): $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-%.gguf: $(PRUNED_F16) | $(TOOLS) scripts/quantize_gguf.py
	$(QUANTIZE)

# All but F16, a link to its source, need the imatrix.
$(filter-out $(FULL_QUANT_DIR)/$(NAME)-F16.gguf,$(FULL_QUANT_FILES)): $(FULL_QUANT_DIR)/imatrix.gguf
$(filter-out $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-F16.gguf,$(PRUNED_QUANT_FILES)): $(PRUNED_QUANT_DIR)/imatrix.gguf

# The tiers of the CD quants follow from the statistics and from variables that are not in their path.
$(filter $(FULL_QUANT_DIR)/$(NAME)-CD-%,$(FULL_QUANT_FILES)): $(FULL_QUANT_DIR)/cd.settings $(if $(CD_TIERS),,$(STATS))
$(filter $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-CD-%,$(PRUNED_QUANT_FILES)): $(PRUNED_QUANT_DIR)/cd.settings $(if $(CD_TIERS),,$(STATS))
$(foreach d,$(FULL_QUANT_DIR) $(PRUNED_QUANT_DIR),$(eval $(call remember,$d/cd.settings,$(CD_OPTIONS))))

# What each type costs where, which the AUTO quants are made from; its name is not in theirs.
$(FULL_QUANT_DIR)/$(SENSITIVITY): $(FULL_F16) $(FULL_QUANT_DIR)/imatrix.gguf
$(PRUNED_QUANT_DIR)/$(SENSITIVITY): $(PRUNED_F16) $(PRUNED_QUANT_DIR)/imatrix.gguf
%/$(SENSITIVITY): $(QUESTIONS) | $(TOOLS) scripts/measure_sensitivity.py
	$(PYTHON) scripts/measure_sensitivity.py --input $(filter %-F16.gguf,$^) --imatrix $(@D)/imatrix.gguf --model $(FULL)/checkpoint \
	  --questions $(QUESTIONS) --limit $(SENSITIVITY_CHATS) --gpu-layers $(GPU_LAYERS) --output $@
AUTO_FILES := $(filter $(FULL_QUANT_DIR)/$(NAME)-AUTO-% $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-AUTO-%,$(FULL_QUANT_FILES) $(PRUNED_QUANT_FILES))
$(foreach f,$(AUTO_FILES),$(eval $f: $(dir $f)$(SENSITIVITY) $(dir $f)auto.settings))
$(foreach d,$(FULL_QUANT_DIR) $(PRUNED_QUANT_DIR),$(eval $(call remember,$d/auto.settings,$(SENSITIVITY))))

# ---- what each quant costs. Both F16 models' logits and the results by file stay under the full model: a killed run goes on.
DEMO_TARGET_SIZES := $(addprefix AUTO-,0.0044 0.0048 0.0053 0.006 0.0072 0.0086)
MEASURE_QUALITY = $(PYTHON) scripts/measure_quality.py --full $(FULL_F16) --pruned $(PRUNED_F16) --model $(FULL)/checkpoint \
  --gguf $(filter-out $(FULL_F16) $(PRUNED_F16),$(filter %.gguf,$^)) --questions $(EVAL_QUESTIONS) --calibration $(CALIBRATION_TEXT) \
  --chose $(QUESTIONS) $(if $(QUALITY_CHATS),--limit $(QUALITY_CHATS)) --score $(QUALITY_SCORE) --gpu-layers $(GPU_LAYERS) --cache $(FULL)/logits --output $@

ifeq ($(origin MODEL),file)
quality: ## KLD, top token and probabilities of QUANTS on held-out chats, with errors; Pareto picture (without a MODEL: the demo)
	@$(MAKE) --no-print-directory $@ $(DEMO) QUANTS='$(QUANTS) $(if $(filter file,$(origin QUANTS)),$(DEMO_TARGET_SIZES))'
compare-cd-scopes: ## what decides CD_SCOPE: the CD quants in both scopes, held against the standard ones (without a MODEL: the demo)
	@$(MAKE) --no-print-directory $@ $(DEMO) QUANTS='$(QUANTS)'
else
quality: $(QUALITY)
	@cat $<
compare-cd-scopes: $(SCOPES)
	@cat $<
endif

$(SCOPE_FILES): $(PRUNED_QUANT_DIR)/cd-scopes/%.gguf: $(PRUNED_F16) $(PRUNED_QUANT_DIR)/imatrix.gguf $(PRUNED_QUANT_DIR)/cd.settings \
    $(if $(CD_TIERS),,$(STATS)) | $(TOOLS) scripts/quantize_gguf.py
	$(PYTHON) scripts/quantize_gguf.py --input $(PRUNED_F16) --imatrix $(PRUNED_QUANT_DIR)/imatrix.gguf $(if $(CD_TIERS),,--stats $(STATS)) \
	  $(CD_OPTIONS) --cd-scope $(notdir $(@D)) --type $(patsubst $(PRUNED_NAME)-%,%,$(basename $(@F))) --output $@

# Which files are measured is a variable that is not in the path.
$(foreach d,$(dir $(QUALITY)) $(dir $(SCOPES)),$(eval $(call remember,$dsettings.txt,$(sort $(QUANTS)))))

$(QUALITY): $(ASKED_QUANT_FILES)
$(SCOPES): $(filter-out $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-CD-%,$(filter-out $(AUTO_FILES),$(ASKED_QUANT_FILES))) $(SCOPE_FILES)
.PRECIOUS: $(foreach f,$(QUALITY) $(SCOPES),$f $(f:.md=.json) $(f:.md=.png))
$(QUALITY) $(SCOPES): %/quality.md: $(FULL_F16) $(PRUNED_F16) $(EVAL_QUESTIONS) $(QUESTIONS) $(CALIBRATION_TEXT) %/settings.txt \
    | $(TOOLS) scripts/measure_quality.py
	$(MEASURE_QUALITY)

# ---- evaluate and compare
EVALUATE = TOKENIZER=$(FULL)/checkpoint OUTPUT=$(@D) CTX=$(CTX) REASONING_BUDGET=$(REASONING_BUDGET) MAX_GEN_TOKS=$(MAX_GEN_TOKS) \
  SEED=$(SEED) NP=$(NP) GPU_LAYERS=$(GPU_LAYERS) PATCH=yes scripts/eval_gpqa_v3.sh

$(FULL_EVAL): $(FULL_QUANT_DIR)/$(NAME)-$(EVAL_QUANT).gguf $(EVAL_QUESTIONS) | $(TOOLS) scripts/eval_gpqa_v3.sh
	QUESTIONS=$(EVAL_QUESTIONS) $(EVALUATE) $(NAME) $<

$(PRUNED_EVAL): $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-$(EVAL_QUANT).gguf $(EVAL_QUESTIONS) | $(TOOLS) $(DROP_METADATA) scripts/eval_gpqa_v3.sh
	QUESTIONS=$(EVAL_QUESTIONS) CHOSEN_BY=$(DROP_METADATA) $(EVALUATE) $(PRUNED_NAME) $<

.PRECIOUS: $(SCORES:.md=.json) $(SCORES:.md=.png)
$(SCORES) $(SCORES:.md=.json) $(SCORES:.md=.png) &: $(FULL_EVAL) $(PRUNED_EVAL) $(FULL_QUANT_FILES) $(PRUNED_QUANT_FILES) $(COMPARE)
	$(PYTHON) scripts/compare_scores.py \
	  --model $(FULL_EVAL) $(FULL_QUANT_FILES:%=%.json) --model $(PRUNED_EVAL) $(PRUNED_QUANT_FILES:%=%.json) --output $(SCORES)

$(RUNS_SCORES): $(RUN_SUMMARIES) $(COMPARE) | $(SETUP)
	$(PYTHON) scripts/compare_scores.py --runs $(RUN_SUMMARIES) --output $@ >/dev/null

# Of QUESTIONS each fold holds out every FOLDS-th; its map is made from the others and applied inside the GGUF.
$(HELDOUT)/fold%/drop_map.json: $(STATS) $(CHOOSE)
	$(PYTHON) scripts/generate_drop_map.py --stats $< --keep $(KEEP) --criterion $(CRITERION) --protect-top $(PROTECT_TOP) \
	  --fold $*/$(FOLDS) --output $@

$(HELDOUT)/fold%/$(HELDOUT_FILE)/$(PRUNED_NAME)-$(HELDOUT_QUANT).gguf: $(HELDOUT)/fold%/drop_map.json $(HELDOUT_SOURCE) | scripts/expert_drop.py
	$(PYTHON) scripts/expert_drop.py --source $(HELDOUT_SOURCE) --drop-map $< --output $@

$(HELDOUT_EVALS): $(HELDOUT)/fold%/$(HELDOUT_RUN)/summary.json: $(HELDOUT)/fold%/$(HELDOUT_FILE)/$(PRUNED_NAME)-$(HELDOUT_QUANT).gguf $(QUESTIONS) | $(TOOLS) scripts/eval_gpqa_v3.sh
	QUESTIONS=$(QUESTIONS) HELD_OUT_OF=$(HELDOUT)/fold$*/drop_map.json CHOSEN_BY=$(HELDOUT)/fold$*/drop_map.json \
	  $(EVALUATE) $(PRUNED_NAME)-fold$* $<

ifneq ($(HELDOUT_REFERENCE),$(FULL_EVAL))
$(HELDOUT_REFERENCE): $(HELDOUT_SOURCE) $(QUESTIONS) | $(TOOLS) scripts/eval_gpqa_v3.sh
	QUESTIONS=$(QUESTIONS) $(EVALUATE) $(NAME) $<
endif

$(HELDOUT_POOLED): $(HELDOUT_EVALS) $(POOL)
	$(PYTHON) scripts/pool_heldout.py --name $(PRUNED_NAME)-held-out --summary $(HELDOUT_EVALS) --output $@

$(HELDOUT_SCORES): $(HELDOUT_REFERENCE) $(HELDOUT_POOLED) $(COMPARE)
	$(PYTHON) scripts/compare_scores.py --runs $(HELDOUT_REFERENCE) $(HELDOUT_POOLED) --output $@ >/dev/null

# ---- release
# What goes into a folder depends on variables that are not in its path, and on whether quality was measured: remake it then.
RELEASE_SCORES := $(if $(filter yes,$(SCORED)),$(SCORES:.md=.json))
RELEASE_QUALITY := $(wildcard $(QUALITY:.md=.json))
PICTURES = $(PLOTS) $(RELEASE_SCORES:.json=.png) $(if $(filter $(CHECKPOINT_RELEASE),$(@D)),,$(PRUNED_QUANT_DIR)/imatrix-coverage.png $(RELEASE_QUALITY:.json=.png))

$(eval $(call remember,$(PRUNED)/release.settings,$(BASE) $(LICENSE) $(QUANTIZED_BY) $(CALIBRATION_SET) $(PROTOCOL) $(sort $(QUANTS) $(EVAL_QUANT)) $(if $(RELEASE_SCORES),scores) $(if $(RELEASE_QUALITY),quality)))

BUILD_RELEASE = $(PYTHON) scripts/build_release.py --name $(PRUNED_NAME) --base $(BASE) $(if $(LICENSE),--license $(LICENSE)) \
  $(if $(QUANTIZED_BY),--quantized-by $(QUANTIZED_BY)) --metadata $(DROP_METADATA) $(RELEASE_SCORES:%=--scores %) --pictures $(PICTURES) \
  --questions $(sort $(QUESTIONS) $(EVAL_QUESTIONS)) --output $(@D)
SIDECARS := --template modelfiles/gemma4.template --params modelfiles/gemma4.params.json

$(RELEASES:%=%/manifest.json): $(RELEASE_SCORES) $(DROP_METADATA) $(PLOTS) $(PRUNED)/release.settings $(PACK) | $(TOOLS)
$(GGUF_RELEASES:%=%/manifest.json): $(RELEASE_QUALITY) $(PRUNED_QUANT_DIR)/imatrix-coverage.png $(wildcard modelfiles/gemma4.*)

$(RELEASE)/manifest.json: $(STANDARD_FILES)
	$(BUILD_RELEASE) --kind standard --gguf $(STANDARD_FILES) $(RELEASE_QUALITY:%=--quality %) $(SIDECARS) \
	  $(if $(DYNAMIC_FILES),--sibling $(notdir $(DYNAMIC_RELEASE)))

$(DYNAMIC_RELEASE)/manifest.json: $(DYNAMIC_FILES)
	$(BUILD_RELEASE) --kind dynamic --gguf $(DYNAMIC_FILES) $(RELEASE_QUALITY:%=--quality %) $(SIDECARS)

$(CHECKPOINT_RELEASE)/manifest.json:
	$(BUILD_RELEASE) --kind checkpoint --checkpoint $(dir $(DROP_METADATA))

# ---- report: of the records that there are. None is a prerequisite: make would bring it up to date, and that may be days of work.
both_of = $(if $(word 2,$(wildcard $(1))),$(1))
REPORT_RECORDS := $(wildcard $(call both_of,$(STATS) $(DROP_MAP)) $(DROP_METADATA) $(PRUNED_F16).json $(PRUNED_QUANT_DIR)/imatrix.gguf \
  $(addsuffix .json,$(sort $(wildcard $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-*.gguf))) $(QUALITY:.md=.json) \
  $(SCORES:.md=.json) $(call both_of,$(FULL_EVAL) $(PRUNED_EVAL)))
report_of = $(if $(filter $(2),$(REPORT_RECORDS)),$(1) $(filter $(2),$(REPORT_RECORDS)))

ifeq ($(origin MODEL),file)
report: ## one page of what is known of this build, for a browser (without a MODEL: the demo)
	@$(MAKE) --no-print-directory $@ $(DEMO)
else
report: $(REPORT)
	@printf '%s\n' $(REPORT)
endif

$(eval $(call remember,$(PRUNED)/report/records.txt,$(shell stat -c '%n %s %y' $(or $(REPORT_RECORDS),/dev/null))))

$(REPORT): $(PRUNED)/report/records.txt $(PAGE) | $(SETUP)
	$(PYTHON) scripts/build_report.py --name $(PRUNED_NAME) $(call report_of,--stats,$(STATS)) $(call report_of,--drop-map,$(DROP_MAP)) \
	  $(call report_of,--metadata,$(DROP_METADATA)) $(call report_of,--f16,$(PRUNED_F16).json) \
	  $(call report_of,--imatrix,$(PRUNED_QUANT_DIR)/imatrix.gguf) $(call report_of,--quants,$(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-%.gguf.json) \
	  $(call report_of,--quality,$(QUALITY:.md=.json)) $(call report_of,--scores,$(SCORES:.md=.json)) \
	  $(call report_of,--summaries,$(FULL_EVAL) $(PRUNED_EVAL)) --output $@
