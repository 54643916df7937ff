# Shrink a mixture-of-experts model and release it. The steps stand here in the order of the work.
#
#   make TARGET RUN=name         settings: runs/name.mk (without RUN: the demo)      make help, make help-all
#
# Settings and their defaults: make/settings.mk. Where outputs go: make/paths.mk. The flags of each step, and which code
# it depends on: make/flags.mk. What is refused: make/checks.mk.
# Quick steps depend on their command and on the rooms of scripts/ that it imports, so an edited formula remakes what
# follows. Long steps (analysis, conversion, imatrix, quants, evaluation) are not made again by an edit: their commands
# compare what they recorded with what is asked, and do nothing where that is the same. REPLACE=STAGE forces them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

include make/environment.mk
include make/settings.mk
include make/outside.mk
include make/run.mk
include make/paths.mk
include make/checks.mk
include make/setup.mk
include make/steps.mk
include make/flags.mk

# ---- 1. fetch: the full model and the questions
$(MODEL_SOURCE): $(NEW_MODEL) $(MODEL_FILES) | $(SETUP) $(CHECKED)
	$(call step,model,Fetch $(MODEL)) $(PYTHON) scripts/fetch_model.py \
	  --model $(MODEL) --output $(FULL)/checkpoint --record $(MODEL_RECORD) $(if $(call again,model),--replace)
	@printf '%s\n' '$(MODEL)' | $(TO_TARGET)

# Its time is that of the model: a look at the same model again makes nothing else new.
$(MODEL_RECORD): $(if $(wildcard $(MODEL_SOURCE)),,FORCE) | $(MODEL_SOURCE) ;

$(DOWNLOADS)/gpqa_diamond.csv: | $(SETUP) $(CHECKED)
	$(call step,model,Fetch GPQA Diamond) $(PYTHON) scripts/fetch_gpqa.py --output $@

# ---- 2. analyse: what each expert contributes to each question
$(eval $(call guard,statistics,$(STATISTICS)/settings.txt,QUESTIONS=$(QUESTIONS_DIGEST) $(ORDER_SETTINGS),$(STATS)*))
$(STATS): $(call again,statistics) | $(MODEL_RECORD) $(QUESTIONS) $(STATISTICS)/settings.txt
	$(call step,statistics,Analyse $(NAME)) $(ANALYZE) $(ANALYSIS_FLAGS) --model $(FULL)/checkpoint --output $@

analyze: $(DROP_MAP_FILE) $(DRAWN) ## measure every expert over QUESTIONS, choose which stay, draw both
	$(call closing,analyze,$(DROP_MAP_FILE))

# ---- 3. choose: which experts stay
$(eval $(call guard,choice,$(PRUNED)/settings.txt,$(CHOICE_SETTINGS),$(CHOSEN_FILES)))
$(DROP_MAP_FILE): $(CHOICE_SOURCE) $(call again,choice) | $(MODEL_RECORD) $(PRUNED)/settings.txt
	$(call step,choice,Choose $(if $(DROP_MAP),by $(DROP_MAP),$(KEEP) experts)) $(PYTHON) $(CHOICE_COMMAND) --output $@

# The time of older statistics does not tell that the map is to be drawn over other QUESTIONS.
$(eval $(call remember,$(PRUNED)/pictures-settings.txt,QUESTIONS=$(QUESTIONS_DIGEST)))
$(PICTURES) &: $(DROP_MAP_FILE) $(STATS) $(PRUNED)/pictures-settings.txt \
    $(if $(and $(DROP_MAP),$(call missing,$(STATS))),FORCE) $(DRAW)
	$(call step,choice,Draw the experts) $(PYTHON) scripts/plot_expert_stats.py \
	  --name $(PRUNED_NAME) --stats $(STATS) --drop-map $< --output-prefix $(PRUNED)/pictures/experts

# ---- 4. drop: copy the experts that stay
$(METADATA): $(DROP_MAP_FILE) $(DROP) | $(MODEL_RECORD)
	$(call step,drop,Drop experts) $(PYTHON) scripts/expert_drop.py \
	  --source $(FULL)/checkpoint --drop-map $< --output $(@D)

drop: $(METADATA) ## the pruned checkpoint
	$(call closing,drop,$<)

# ---- 5. convert: F16 GGUF files
$(FULL_F16): $(call uncompared,$(FULL_F16)) | $(MODEL_RECORD) $(TOOLS)
	$(call step,imatrix,Convert $(NAME)) $(PYTHON) scripts/convert_to_gguf.py \
	  --model $(FULL)/checkpoint --name $(NAME) --output $@

$(PRUNED_F16): $(METADATA) $(call uncompared,$(PRUNED_F16)) | $(TOOLS)
	$(call step,imatrix,Convert $(PRUNED_NAME)) $(PYTHON) scripts/convert_to_gguf.py \
	  --model $(<D) --name $(PRUNED_NAME) --output $@

# ---- 6. imatrix: which inputs matter, by a calibration text
# The time of a question file tells nothing, and an own map has no statistics by whose settings it is known.
$(eval $(call remember,$(dir $(CHAT_TEXT))text-settings.txt,QUESTIONS=$(QUESTIONS_DIGEST)))
$(CHAT_TEXT): $(dir $(CHAT_TEXT))text-settings.txt $(RENDER) $(call again,imatrix) | $(MODEL_RECORD) $(QUESTIONS)
	$(call step,imatrix,Write QUESTIONS as chats) $(PYTHON) scripts/render_calibration.py \
	  --model $(FULL)/checkpoint --questions $(QUESTIONS) --output $@

$(DOWNLOADS)/calibration_datav5.txt: | $(SETUP) $(MARKER)
	$(call step,imatrix,Fetch calibration data v5) $(PYTHON) scripts/fetch_calibration.py --output $@

$(foreach d,$(FULL_GGUF) $(PRUNED_GGUF),$(eval $(call guard,imatrix,$d/settings.txt,$(CALIBRATION_SETTING),$d/*)))
$(FULL_GGUF)/imatrix.gguf: $(FULL_F16)
$(PRUNED_GGUF)/imatrix.gguf: $(PRUNED_F16)
%/imatrix.gguf: $(CALIBRATION_TEXT) $(call again,imatrix) | %/settings.txt $(TOOLS)
	$(call step,imatrix,Imatrix of $(patsubst %-F16.gguf,%,$(notdir $(filter %-F16.gguf,$^)))) \
	  $(PYTHON) scripts/build_imatrix.py --model $(filter %-F16.gguf,$^) --calibration $(CALIBRATION_TEXT) --output $@

%/imatrix-coverage.md %/imatrix-coverage.png: %/imatrix.gguf $(REACHED)
	$(call step,imatrix,Count tokens per expert) $(PYTHON) scripts/report_imatrix.py \
	  --imatrix $< --output-prefix $*/imatrix-coverage

imatrix: $(IMATRIX_COVERAGE) ## the imatrix, and which experts its text reached
	$(SHOW) <$<

# ---- 7. quantise
$(FULL_GGUF)/$(NAME)-%.gguf: $(FULL_F16) $(call again,quants) | $(FULL_GGUF)/settings.txt $(TOOLS)
	$(call step,quants,Quantise $* of the full model) $(QUANTIZE)

$(PRUNED_GGUF)/$(PRUNED_NAME)-%.gguf: $(PRUNED_F16) $(call again,quants) | $(PRUNED_GGUF)/settings.txt $(TOOLS)
	$(call step,quants,Quantise $*) $(QUANTIZE)

# What the model sees pictures with, as far as it does: no drop of experts touches it.
$(PRUNED_GGUF)/mmproj-$(PRUNED_NAME)-%.gguf: $(METADATA) $(call again,quants) | $(PRUNED_GGUF)/settings.txt $(TOOLS)
	$(call step,mmproj,Convert the vision tower to $*) $(PYTHON) scripts/convert_to_gguf.py --mmproj \
	  --model $(CHECKPOINT) --name $(PRUNED_NAME) --outtype $* --output $@

quants: $(QUANT_FILES) $(MMPROJ_FILES) ## build QUANTS of the pruned model
	$(if $(filter-out 0,$(MIN_EXPERT_TOKENS)),$(CHECK_REACHED))
	$(if $(filter no,$(KEEP_F16)),@rm -f $(PRUNED_F16))
	$(call closing,quants,$(QUANT_FILES))

# ---- 8. evaluate: both models under one protocol
$(foreach e,$(FULL_EVAL) $(PRUNED_EVAL),$(eval $(call guard,eval,$(dir $e)settings.txt,$(EVAL_SETTINGS),$(dir $e)*)))
# Both folders are replaced before either is scored: a broken-off REPLACE=eval goes on without it.
$(FULL_EVAL) $(PRUNED_EVAL): | $(addsuffix settings.txt,$(dir $(FULL_EVAL) $(PRUNED_EVAL)))
# An answered run is only summed up again when the way of counting changes, which takes seconds.
$(FULL_EVAL): $(FULL_SCORED) $(SUM_UP) $(call again,eval) | $(EVAL_QUESTIONS)
	$(call step,eval,Score $(NAME)$(of_seed)) env QUESTIONS=$(EVAL_QUESTIONS) $(EVALUATE) $(NAME) $(call scored,$<)

$(PRUNED_EVAL): $(PRUNED_SCORED) $(SUM_UP) $(call again,eval) | $(EVAL_QUESTIONS)
	$(call step,eval,Score $(PRUNED_NAME)$(of_seed)) env QUESTIONS=$(EVAL_QUESTIONS) CHOSEN_BY='$(CHOICE_PROOF)' \
	  $(EVALUATE) $(PRUNED_NAME) $(call scored,$<)

# ---- 9. compare: question by question
# Its table has the sizes of all quants that are there: for a release it waits for them, and it is made again where one
# has become another. That takes seconds, and a release holds the sizes against the files.
$(eval $(call remember_samples,$(SCORES:/scores.md=)))
$(SCORES) $(SCORES:.md=.json) $(SCORES:.md=.png) &: $(FULL_EVAL) $(PRUNED_EVAL) $(COMPARE) $(if \
    $(call newer_than,$(wildcard $(SCORES)),$(FULL_RECORDS) $(PRUNED_RECORDS)),FORCE) \
    $(call samples_of,$(SCORES:/scores.md=)) $(if $(filter release demo,$(MAKECMDGOALS)),$(QUANT_FILES))
	$(call step,eval,Compare the scores) $(PYTHON) scripts/compare_scores.py --output $(SCORES) \
	  --model $(FULL_EVAL) $(if $(OPENAI),,$(FULL_RECORDS)) \
	  --model $(PRUNED_EVAL) $(if $(OPENAI),,$(PRUNED_RECORDS))

eval: $(ASKED_SCORES) $(REPORT) ## score both models at EVAL_QUANT on EVAL_QUESTIONS (or on TASK), and compare them
	$(call closing,eval,$(ASKED_SCORES:.md=.json))

# ---- 10. release: a folder per repository, whole or not at all
$(eval $(call remember,$(PRUNED)/release/settings.txt,$(RELEASE_SETTINGS)))
$(RELEASES:%=%/manifest.json): $(RELEASE_RECORDS) $(METADATA) $(DRAWN) $(CALIBRATION_TEXT) \
    $(PRUNED)/release/settings.txt $(PACK) \
    $(MEASURED_FIRST) $(if $(NEW_RESULTS)$(call missing,$(MEASURED_FIRST)),FORCE) | $(TOOLS) $(PRUNED_GGUF)/imatrix.gguf
$(GGUF_RELEASES:%=%/manifest.json): $(MMPROJ_FILES) $(DRAFT_FILE) $(DRAFT_GAIN) $(PRUNED_GGUF)/imatrix-coverage.png \
    $(wildcard modelfiles/gemma4-*)

# Whole or not there: of a folder that has just got its name an interrupted make would take the manifest alone away.
.PRECIOUS: $(RELEASES:%=%/manifest.json)
$(PRUNED)/release/GGUF/manifest.json: $(STANDARD_FILES)
	$(call step,release,Release of GGUF files) $(BUILD_RELEASE) --kind standard --repository $(PRUNED_NAME)-GGUF \
	  --gguf $(STANDARD_FILES) $(SIDECARS)

$(PRUNED)/release/dynamic-GGUF/manifest.json: $(DYNAMIC_FILES)
	$(call step,release,Release of dynamic GGUF files) $(BUILD_RELEASE) --kind dynamic \
	  --repository $(PRUNED_NAME)-dynamic-GGUF --gguf $(DYNAMIC_FILES) $(SIDECARS)

$(PRUNED)/release/checkpoint/manifest.json:
	$(call step,release,Release of the checkpoint) $(BUILD_RELEASE) --kind checkpoint \
	  --repository $(PRUNED_NAME) --checkpoint $(CHECKPOINT)

release: $(RELEASES:%=%/manifest.json) $(REPORT) ## folders ready to publish: GGUF files, checkpoint, cards, manifests
	$(call closing,release,$(RELEASES))

include make/tasks.mk
include make/language.mk
include make/low_disk.mk
include make/side.mk
include make/hosts.mk
include make/publish.mk
include make/bench.mk
include make/status.mk

FORCE:
.PHONY: $(TARGETS) FORCE
