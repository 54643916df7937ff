# Prune, quantise, evaluate and release a mixture-of-experts model. `make` prints the targets and variables.
#
# Parameters that change an output are part of its path. Long work (analysis, conversion, imatrix, quants, evaluation) is
# ordered after its script but not remade when the script changes; `make -B` forces it.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# ---- variables a user sets (?= lets the environment or the command line win)
MODEL ?= google/gemma-4-26B-A4B-it#       checkpoint: a local directory or a Hub id
NAME ?= $(notdir $(patsubst %/,%,$(MODEL)))#  name of the full model in paths and tables
KEEP ?= 109#                              experts to keep in every layer
CRITERION ?= coverage#                    what ranks the experts (scripts/criteria.py)
PROTECT_TOP ?= $(if $(filter coverage,$(CRITERION)),16,0)#  experts protected per question and layer
FOLD ?=#                                  I/K: choose without every K-th question, from the I-th on
PRUNED_NAME ?= $(NAME)-$(KEEP)e#          name of the pruned model
QUESTIONS ?= $(BUILD)/questions/gpqa_diamond.csv#  questions that choose the experts (GPQA's columns)
EVAL_QUESTIONS ?= $(QUESTIONS)#           questions that are scored
CALIBRATION ?=#                           text for the imatrix: a file, or v5 to download it (default: QUESTIONS as chats)
QUANTS ?= F16 Q8_0 Q6_K_L Q6_K Q5_K_L Q5_K_M Q5_K_S Q4_K_L Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_XL Q3_K_L Q3_K_M Q3_K_S IQ3_M IQ3_XS IQ3_XXS IQ2_M IQ2_S IQ2_XS IQ2_XXS CD-Q6_K CD-Q5_K_M CD-Q4_K_M CD-Q3_K_M CD-Q2_K#  quants of the pruned model; AUTO-<GiB> makes the best of a size
MIN_EXPERT_TOKENS ?= 0#                   quants: least calibration tokens for every expert
KEEP_F16 ?= yes#                          quants: no removes the pruned F16 GGUF once all are built
CD_RULE ?= weighted-norm#                 CD quants: what ranks the layers (weighted-norm, output-norm)
CD_CUTS ?= 1/30,11/30#                    CD quants: shares of the layers where the high and the middle tier end
CD_TIERS ?=#                              CD quants: tiers by hand instead, such as 0/1-10/11-29
CD_SCOPE ?= all#                          CD quants: tensors that the tiers type (all, experts)
SENSITIVITY_CHATS ?= 64#                  AUTO-<GiB> quants: first so many chats of QUESTIONS that say what each type costs where
SHAPE ?=#                                 plan: a shape of data/shapes instead of MODEL, such as gemma-4-26b-a4b
EVAL_QUANT ?= Q6_K#                       quant that is scored, of both models
REFERENCE_QUANTS ?= $(EVAL_QUANT)#        quants of the full model
CTX ?= 32768#                             evaluation: context tokens
REASONING_BUDGET ?= 16384#                evaluation: tokens of thought
MAX_GEN_TOKS ?= 24576#                    evaluation: tokens of one answer
SEED ?= 42#                               evaluation: sampling and order of choices
NP ?= 1#                                  evaluation: requests at once
FOLDS ?= 5#                               eval-heldout: folds
HELDOUT_QUANT ?= F16#                     eval-heldout: file of the full model that is pruned and scored: F16, or a reference quant
RUNS ?=#                                  compare: run directories or summary.json files, the reference first
GPU_LAYERS ?= 99#                         evaluation, compare-criteria, quality: layers on the GPU, if there is one
BASE ?= $(if $(wildcard $(MODEL)/config.json),$(NAME),$(MODEL))#  base model named in the card (a Hub id, where there is one)
LICENSE ?= gemma#                         release: the Hub's identifier of the base model's licence (empty: the cards say none was given)
QUANTIZED_BY ?=#                          release: who quantised, for the cards' front matter
SCORED ?= yes#                            release: no leaves the evaluation out, and the cards say so
LLAMA_CPP ?=#                             an existing llama.cpp build (default: built once into a cache)
STREAM_LAYERS ?=#                         analysis: yes holds one layer of the model in memory, not all
SPILL ?=#                                 analysis: with STREAM_LAYERS, a directory to hold hidden states in
COMPARE_KEEP ?= 109 96 64#                compare-criteria: keep counts
COMPARE_SEEDS ?= 5#                       compare-criteria: random choices per keep count
RECOMPUTE_FULL ?=#                        compare-criteria: yes holds both models in memory, keeps no logits on disk
QUALITY_CHATS ?=#                         quality: first so many held-out chats of EVAL_QUESTIONS (default: all)
QUALITY_SCORE ?= reply#                   quality: tokens that count, those of the replies or all (reply, all)
RANKS ?= 1#                               analysis: processes (torchrun) that share the questions
REPO ?=#                                  upload, release-ollama: repository on the Hub, USER/NAME
UPLOAD ?= no#                             upload: yes sends; without it the files are only listed
BUILD ?= build#                           where outputs go
CMAKE_ARGS ?=#                            extra flags for that build, such as -DGGML_CUDA=ON

VARIABLES := $(shell sed -nE 's/^([A-Z0-9_]+) \?=.*\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

, := ,
KNOWN_QUANTS := $(shell sed -nE 's/^ *Recipe."([A-Z0-9_-]+)".*/\1/p' scripts/quant_recipes.py)

# ---- tools
PYTHON := .venv/bin/python
# Waiting threads yield the processor: two steps at once (make -j2) would else starve each other.
OMP_WAIT_POLICY ?= PASSIVE
export PYTHON LLAMA_CPP CMAKE_ARGS MOE_TOOLS_CACHE OMP_WAIT_POLICY
SETUP := .venv/.installed
LLAMA_READY := $(if $(LLAMA_CPP),,$(shell CMAKE_ARGS='$(CMAKE_ARGS)' MOE_TOOLS_CACHE='$(MOE_TOOLS_CACHE)' scripts/build_llama_cpp.sh --where)/llama_cpp.json)
TOOLS := $(SETUP) $(LLAMA_READY)

# ---- outputs, all named here
# A set is named for its file and, where it is a user's, for its content: two files of one name share no path.
set_name = $(basename $(notdir $(1)))$(if $(filter $(BUILD)/%,$(1)),,$(if $(wildcard $(1)),-$(shell sha256sum <'$(1)' | cut -c 1-8)))
QUESTION_SET := $(call set_name,$(QUESTIONS))
FULL := $(BUILD)/$(NAME)/full
ANALYSIS := $(BUILD)/$(NAME)/$(QUESTION_SET)
PRUNED := $(ANALYSIS)/keep$(KEEP)$(if $(filter-out coverage,$(CRITERION)),-$(subst :,,$(CRITERION)))-top$(PROTECT_TOP)$(if $(FOLD),-fold$(subst /,of,$(FOLD)))
CALIBRATION_TEXT := $(or $(if $(filter v5,$(CALIBRATION)),$(BUILD)/calibration/calibration_datav5.txt,$(CALIBRATION)),$(ANALYSIS)/$(QUESTION_SET).txt)
CALIBRATION_SET := $(call set_name,$(CALIBRATION_TEXT))
PROTOCOL := $(call set_name,$(EVAL_QUESTIONS))-ctx$(CTX)-think$(REASONING_BUDGET)-gen$(MAX_GEN_TOKS)-seed$(SEED)-np$(NP)

FULL_SOURCE := $(FULL)/source.txt
STATS := $(ANALYSIS)/expert_stats.safetensors
DROP_MAP := $(PRUNED)/drop_map.json
PLOTS := $(patsubst %,$(PRUNED)/experts-%.png,heatmap coverage layers)
DROP_METADATA := $(PRUNED)/checkpoint/expert_drop_metadata.json
FULL_F16 := $(FULL)/gguf/$(NAME)-F16.gguf
PRUNED_F16 := $(PRUNED)/gguf/$(PRUNED_NAME)-F16.gguf
FULL_QUANT_DIR := $(FULL)/gguf/$(CALIBRATION_SET)
PRUNED_QUANT_DIR := $(PRUNED)/gguf/$(CALIBRATION_SET)
FULL_QUANT_FILES := $(patsubst %,$(FULL_QUANT_DIR)/$(NAME)-%.gguf,$(sort $(REFERENCE_QUANTS) $(EVAL_QUANT)))
PRUNED_QUANT_FILES := $(patsubst %,$(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-%.gguf,$(sort $(QUANTS) $(EVAL_QUANT)))
ASKED_QUANT_FILES := $(patsubst %,$(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-%.gguf,$(sort $(QUANTS)))
SENSITIVITY := sensitivity-$(QUESTION_SET)-first$(SENSITIVITY_CHATS).json
IMATRIX_COVERAGE := $(PRUNED_QUANT_DIR)/imatrix-coverage.md
FULL_EVAL := $(FULL)/eval/$(CALIBRATION_SET)-$(EVAL_QUANT)/$(PROTOCOL)/summary.json
PRUNED_EVAL := $(PRUNED)/eval/$(CALIBRATION_SET)-$(EVAL_QUANT)/$(PROTOCOL)/summary.json
SCORES := $(dir $(PRUNED_EVAL))scores.md
HELDOUT := $(PRUNED)/heldout$(FOLDS)
HELDOUT_PROTOCOL := $(patsubst $(call set_name,$(EVAL_QUESTIONS))-%,$(QUESTION_SET)-%,$(PROTOCOL))
HELDOUT_FILE := $(if $(filter-out F16,$(HELDOUT_QUANT)),$(CALIBRATION_SET)-)$(HELDOUT_QUANT)
HELDOUT_SOURCE := $(if $(filter F16,$(HELDOUT_QUANT)),$(FULL_F16),$(FULL_QUANT_DIR)/$(NAME)-$(HELDOUT_QUANT).gguf)
HELDOUT_RUN := $(HELDOUT_FILE)/$(HELDOUT_PROTOCOL)
HELDOUT_EVALS := $(patsubst %,$(HELDOUT)/fold%/$(HELDOUT_RUN)/summary.json,$(shell seq $(FOLDS)))
HELDOUT_REFERENCE := $(FULL)/eval/$(HELDOUT_RUN)/summary.json
HELDOUT_POOLED := $(HELDOUT)/$(HELDOUT_RUN)/summary.json
HELDOUT_SCORES := $(HELDOUT)/$(HELDOUT_RUN)/scores.md
RUN_SUMMARIES := $(foreach r,$(RUNS),$(if $(filter %.json,$(r)),$(r),$(patsubst %/,%,$(r))/summary.json))
RUNS_SCORES := $(BUILD)/comparison/$(shell echo '$(RUNS)' | sha256sum | cut -c 1-12)/scores.md
COMPARISON := $(ANALYSIS)/criteria/$(call set_name,$(EVAL_QUESTIONS))-keep$(shell echo $(COMPARE_KEEP) | tr ' ' -)-seeds$(COMPARE_SEEDS)/criteria.md
QUALITY_SET := $(call set_name,$(EVAL_QUESTIONS))$(if $(QUALITY_CHATS),-first$(QUALITY_CHATS))$(if $(filter-out reply,$(QUALITY_SCORE)),-$(QUALITY_SCORE))
QUALITY := $(PRUNED_QUANT_DIR)/quality/$(QUALITY_SET)/quality.md
SCOPE_FILES := $(foreach s,all experts,$(patsubst %,$(PRUNED_QUANT_DIR)/cd-scopes/$s/$(PRUNED_NAME)-%.gguf,$(filter CD-%,$(KNOWN_QUANTS))))
SCOPES := $(PRUNED_QUANT_DIR)/cd-scopes/$(QUALITY_SET)/quality.md
RELEASE := $(PRUNED)/release/$(PRUNED_NAME)-GGUF
DYNAMIC_RELEASE := $(PRUNED)/release/$(PRUNED_NAME)-dynamic-GGUF
CHECKPOINT_RELEASE := $(PRUNED)/release/$(PRUNED_NAME)
DYNAMIC_FILES := $(filter $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-CD-% $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-AUTO-%,$(PRUNED_QUANT_FILES))
STANDARD_FILES := $(filter-out $(DYNAMIC_FILES),$(PRUNED_QUANT_FILES))
GGUF_RELEASES := $(if $(STANDARD_FILES),$(RELEASE)) $(if $(DYNAMIC_FILES),$(DYNAMIC_RELEASE))
RELEASES := $(GGUF_RELEASES) $(CHECKPOINT_RELEASE)
REPORT := $(PRUNED)/report/$(PRUNED_NAME)-report.html

# ---- what can be checked before anything runs
require = $(if $(shell [[ '$(2)' =~ $(3) ]] && echo yes),,$(error $(1): expected $(4), found '$(2)'))
MODEL_SOURCE := $(or $(realpath $(MODEL)),$(MODEL))
ifneq ($(filter-out help settings setup test bench clean,$(MAKECMDGOALS)),)
  $(call require,SCORED,$(SCORED),^(yes|no)$$,yes or no)
  $(foreach v,LICENSE QUANTIZED_BY,$(call require,$(v),$($(v)),^[A-Za-z0-9._-]*$$,letters$(,) digits$(,) dots$(,) dashes))
  $(foreach v,STREAM_LAYERS RECOMPUTE_FULL,$(call require,$(v),$($(v)),^(yes|no)?$$,yes$(,) no or nothing))
  $(call require,SPILL,$(SPILL),^[^[:space:]]*$$,a path without blanks)
  $(foreach v,NAME PRUNED_NAME EVAL_QUANT,$(call require,$(v),$($(v)),^[A-Za-z0-9._-]+$$,letters$(,) digits$(,) dots$(,) dashes))
  $(call require,PROTECT_TOP,$(PROTECT_TOP),^[0-9]+$$,a whole number)
  $(call require,CRITERION,$(CRITERION),^[a-z-]+(:[0-9]+)?$$,a criterion of scripts/criteria.py)
  $(call require,FOLD,$(FOLD),^([0-9]+/[0-9]+)?$$,I/K)
  $(call require,QUALITY_SCORE,$(QUALITY_SCORE),^(reply|all)$$,reply or all)
  $(call require,QUALITY_CHATS,$(QUALITY_CHATS),^([1-9][0-9]*)?$$,a whole number above 0)
  $(foreach v,KEEP CTX MAX_GEN_TOKS NP FOLDS RANKS COMPARE_SEEDS SENSITIVITY_CHATS,$(call require,$(v),$($(v)),^[1-9][0-9]*$$,a whole number above 0))
  $(call require,COMPARE_KEEP,$(strip $(COMPARE_KEEP)),^[1-9][0-9]*( [1-9][0-9]*)*$$,whole numbers above 0)
  $(foreach v,KEEP_F16 UPLOAD,$(call require,$(v),$($(v)),^(yes|no)$$,yes or no))
  $(foreach v,REASONING_BUDGET SEED GPU_LAYERS MIN_EXPERT_TOKENS,$(call require,$(v),$($(v)),^[0-9]+$$,a whole number))
  $(foreach v,MODEL BASE BUILD QUESTIONS EVAL_QUESTIONS,$(call require,$(v),$($(v)),^[^[:space:]]+$$,a path without blanks))
  $(foreach q,$(QUANTS) $(REFERENCE_QUANTS) $(EVAL_QUANT),$(if $(filter $(q),$(KNOWN_QUANTS))$(shell [[ '$(q)' =~ ^AUTO-[0-9]+([.][0-9]+)?$$ ]] && echo wish),,$(error QUANTS: expected AUTO-<GiB> or quants among $(KNOWN_QUANTS), found $(q))))
  $(if $(filter $(HELDOUT_QUANT),F16 $(REFERENCE_QUANTS) $(EVAL_QUANT)),,$(error HELDOUT_QUANT: expected F16$(,) EVAL_QUANT or one of REFERENCE_QUANTS$(,) found $(HELDOUT_QUANT)))
  $(call require,CALIBRATION,$(CALIBRATION),^[^[:space:]]*$$,a path without blanks)
  $(foreach f,$(QUESTIONS) $(EVAL_QUESTIONS) $(filter-out v5,$(CALIBRATION)),$(if $(filter $(BUILD)/%,$(f))$(wildcard $(f)),,$(error $(f): expected a file, found nothing)))
  ifneq ($(wildcard $(FULL_SOURCE)),)
    ifneq ($(file <$(FULL_SOURCE)),$(MODEL_SOURCE))
      $(error $(FULL_SOURCE): expected an output of $(MODEL_SOURCE), found one of $(file <$(FULL_SOURCE)); give another NAME or remove $(BUILD)/$(NAME))
    endif
  endif
endif

.PHONY: help settings setup plan analyze drop imatrix quants quality compare-cd-scopes eval eval-heldout compare release check-release report upload release-ollama verify reproduce compare-criteria demo test bench clean FORCE
help: ## print targets and variables
	@printf 'Targets\n'
	@sed -nE 's/^([a-z][a-z -]*):.*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-19s %s\n", $$1, $$2}'
	@printf '\nVariables (make TARGET NAME=value)\n'
	@sed -nE 's/^([A-Z_]+) \?= ?([^#]*)# *(.*)/  \1|\3|\2/p' $(MAKEFILE_LIST) | sed -E 's/^(([^|]*\|){2}.{36}).{9,}/\1 .../' | awk -F'|' '{printf "%-18s %-66s %s\n", $$1, $$2, $$3}'
	@printf '\nStart with `make demo`. The defaults are those of the reference case, the 26B.\n'

settings: ## print every variable's value
	@$(foreach v,$(VARIABLES),printf '%s = %s\n' '$(v)' '$($(v))';)

setup: $(TOOLS) ## create .venv and build the llama.cpp tools (done by every other target, too)
analyze: $(DROP_MAP) $(PLOTS) ## teacher-forced analysis of MODEL over QUESTIONS, the drop map, and pictures of both
drop: $(DROP_METADATA) ## the pruned checkpoint
imatrix: $(IMATRIX_COVERAGE) ## imatrix of the pruned model on CALIBRATION, and which experts that text reached
	@cat $<
quants: $(ASKED_QUANT_FILES) ## F16, imatrix and QUANTS of the pruned model
	$(if $(filter-out 0,$(MIN_EXPERT_TOKENS)),$(PYTHON) scripts/report_imatrix.py --imatrix $(PRUNED_QUANT_DIR)/imatrix.gguf \
	  --min-expert-tokens $(MIN_EXPERT_TOKENS) --output-prefix $(PRUNED_QUANT_DIR)/imatrix-coverage >/dev/null)
	$(if $(filter no,$(KEEP_F16)),rm -f $(PRUNED_F16))
eval: $(SCORES) ## score both models at EVAL_QUANT on EVAL_QUESTIONS, and compare them
eval-heldout: $(HELDOUT_SCORES) ## score the choice of experts on QUESTIONS it has not seen: FOLDS maps and GGUFs, pooled
	@cat $<
ifneq ($(RUNS),)
$(foreach s,$(filter-out $(FULL_EVAL) $(PRUNED_EVAL) $(HELDOUT_EVALS) $(HELDOUT_REFERENCE) $(HELDOUT_POOLED),$(RUN_SUMMARIES)),$(if $(wildcard $(s)),,$(if $(filter compare,$(MAKECMDGOALS)),$(error RUNS: expected $(s), a finished run, found nothing))))
compare: $(RUNS_SCORES)
	@cat $<
else
compare: ## compare RUNS="a b c" question by question: table, intervals, paired tests, picture
	$(error RUNS: expected run directories or summary.json files, the reference first, found none)
endif
release: $(RELEASES:%=%/manifest.json) ## the release folders: standard quants, CD and AUTO quants, checkpoint; each with card and manifest
check-release: release ## what holds of the release folders and what does not: files, names, sizes, KLD, texts, an answer
	@failed=0; for folder in $(RELEASES); do $(PYTHON) scripts/check_release.py $$folder --gpu-layers $(GPU_LAYERS) || failed=1; done; exit $$failed

# Says what the quants will be. Needs no build: MODEL may be a config.json, a Hub id, a checkpoint or a float GGUF.
PLAN_IMATRIX = $(if $(wildcard $(PRUNED_QUANT_DIR)/imatrix.gguf),--imatrix $(PRUNED_QUANT_DIR)/imatrix.gguf,--dataset $(notdir $(CALIBRATION_TEXT)))
plan: $(TOOLS) ## size to the byte, types, disk and refusals of F16 and QUANTS with KEEP experts, before anything is built
	@$(PYTHON) scripts/plan_quants.py $(if $(SHAPE),--shape $(SHAPE),--source $(MODEL)) --keep $(KEEP) --name $(PRUNED_NAME) \
	  --types F16 $(filter-out F16,$(QUANTS)) $(PLAN_IMATRIX) $(if $(wildcard $(STATS)),--stats $(STATS)) $(CD_OPTIONS) \
	  $(if $(wildcard $(PRUNED_QUANT_DIR)/$(SENSITIVITY)),--sensitivity $(PRUNED_QUANT_DIR)/$(SENSITIVITY)) --disk $(BUILD)

# ---- set-up
# Of llama-cpp-python only the declarations are wanted, of the version that the tools are built from. pip's cache must not
# keep them: it would hand them to whoever asks for that package with its library.
BINDINGS := llama-cpp-python==$(shell sed -n 's/^VERSION=//p' scripts/build_llama_cpp.sh)

.venv/.installed: requirements.txt
	python3 -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: python3: expected 3.11 or newer, found " + sys.version.split()[0])'
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-cache-dir \
	  --config-settings cmake.define.LLAMA_BUILD=OFF $(BINDINGS)
	touch $@

ifneq ($(LLAMA_READY),)
$(LLAMA_READY): | $(SETUP)
	scripts/build_llama_cpp.sh
endif

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

$(DROP_MAP): $(STATS) scripts/generate_drop_map.py
	$(PYTHON) scripts/generate_drop_map.py --stats $< --keep $(KEEP) --criterion $(CRITERION) --protect-top $(PROTECT_TOP) \
	  $(if $(FOLD),--fold $(FOLD)) --output $@

$(PLOTS) &: $(DROP_MAP) $(STATS) scripts/plot_expert_stats.py
	$(PYTHON) scripts/plot_expert_stats.py --stats $(STATS) --drop-map $< --output-prefix $(PRUNED)/experts

$(DROP_METADATA): $(DROP_MAP) $(FULL_SOURCE) scripts/expert_drop.py
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
    scripts/generate_drop_map.py scripts/criteria.py | $(TOOLS) scripts/compare_criteria.py
	$(PYTHON) scripts/compare_criteria.py --gguf $(FULL_F16) --stats $(STATS) --model $(FULL)/checkpoint \
	  --questions $(EVAL_QUESTIONS) --keep $(COMPARE_KEEP) --seeds $(COMPARE_SEEDS) \
	  --gpu-layers $(GPU_LAYERS) $(if $(filter yes,$(RECOMPUTE_FULL)),--recompute-full) --output $(COMPARISON) > /dev/null

# ---- convert and quantise, the full model and the pruned one alike
$(BUILD)/calibration/calibration_datav5.txt: | $(SETUP)
	$(PYTHON) scripts/fetch_calibration.py --output $@

ifeq ($(CALIBRATION),)
$(CALIBRATION_TEXT): $(QUESTIONS) $(FULL_SOURCE) scripts/render_calibration.py
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

%/imatrix-coverage.md %/imatrix-coverage.png: %/imatrix.gguf scripts/report_imatrix.py
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
$(FULL_QUANT_DIR)/cd.settings $(PRUNED_QUANT_DIR)/cd.settings:
	@mkdir -p $(@D); printf '%s\n' '$(CD_OPTIONS)' >$@

# Only a changed setting forces: a forced file would call for the F16 GGUF that KEEP_F16=no has removed.
squash = $(subst $() ,_,$(strip $(1)))
$(foreach d,$(FULL_QUANT_DIR) $(PRUNED_QUANT_DIR),$(if $(filter $(call squash,$(CD_OPTIONS)),$(call squash,$(file <$d/cd.settings))),,$(eval $d/cd.settings: FORCE)))

# What each type costs where, which the AUTO quants are made from; its name is not in theirs.
$(FULL_QUANT_DIR)/$(SENSITIVITY): $(FULL_F16) $(FULL_QUANT_DIR)/imatrix.gguf
$(PRUNED_QUANT_DIR)/$(SENSITIVITY): $(PRUNED_F16) $(PRUNED_QUANT_DIR)/imatrix.gguf
%/$(SENSITIVITY): $(QUESTIONS) | $(TOOLS) scripts/measure_sensitivity.py
	$(PYTHON) scripts/measure_sensitivity.py --input $(filter %-F16.gguf,$^) --imatrix $(@D)/imatrix.gguf --model $(FULL)/checkpoint \
	  --questions $(QUESTIONS) --limit $(SENSITIVITY_CHATS) --gpu-layers $(GPU_LAYERS) --output $@
AUTO_FILES := $(filter $(FULL_QUANT_DIR)/$(NAME)-AUTO-% $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-AUTO-%,$(FULL_QUANT_FILES) $(PRUNED_QUANT_FILES))
$(foreach f,$(AUTO_FILES),$(eval $f: $(dir $f)$(SENSITIVITY) $(dir $f)auto.settings))
$(FULL_QUANT_DIR)/auto.settings $(PRUNED_QUANT_DIR)/auto.settings:
	@mkdir -p $(@D); printf '%s\n' '$(SENSITIVITY)' >$@
$(foreach d,$(FULL_QUANT_DIR) $(PRUNED_QUANT_DIR),$(if $(filter $(SENSITIVITY),$(file <$d/auto.settings)),,$(eval $d/auto.settings: FORCE)))

# ---- what each quant costs. Both F16 models' logits and the results by file stay under the full model: a killed run goes on.
DEMO_WISHES := $(addprefix AUTO-,0.0044 0.0048 0.0053 0.006 0.0072 0.0086)
MEASURE_QUALITY = $(PYTHON) scripts/measure_quality.py --full $(FULL_F16) --pruned $(PRUNED_F16) --model $(FULL)/checkpoint \
  --gguf $(filter-out $(FULL_F16) $(PRUNED_F16),$(filter %.gguf,$^)) --questions $(EVAL_QUESTIONS) --calibration $(CALIBRATION_TEXT) \
  --chose $(QUESTIONS) $(if $(QUALITY_CHATS),--limit $(QUALITY_CHATS)) --score $(QUALITY_SCORE) --gpu-layers $(GPU_LAYERS) --cache $(FULL)/logits --output $@

ifeq ($(origin MODEL),file)
quality: ## KLD, top token and probabilities of QUANTS on held-out chats, with errors; Pareto picture (without a MODEL: the demo)
	@$(MAKE) --no-print-directory $@ $(DEMO) QUANTS='$(QUANTS) $(if $(filter file,$(origin QUANTS)),$(DEMO_WISHES))'
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
$(dir $(QUALITY))settings.txt $(dir $(SCOPES))settings.txt: FORCE
	@mkdir -p $(@D); settings='$(sort $(QUANTS))'; [ -f $@ ] && [ "$$(<$@)" = "$$settings" ] || printf '%s\n' "$$settings" >$@

$(QUALITY): $(ASKED_QUANT_FILES)
$(SCOPES): $(filter-out $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-CD-%,$(filter-out $(AUTO_FILES),$(ASKED_QUANT_FILES))) $(SCOPE_FILES)
.PRECIOUS: $(foreach f,$(QUALITY) $(SCOPES),$f $(f:.md=.json) $(f:.md=.png))
$(QUALITY) $(SCOPES): %/quality.md: $(FULL_F16) $(PRUNED_F16) $(EVAL_QUESTIONS) $(QUESTIONS) $(CALIBRATION_TEXT) %/settings.txt \
    | $(TOOLS) scripts/measure_quality.py
	$(MEASURE_QUALITY)

# ---- evaluate and compare
SCORING := scripts/compare_scores.py scripts/paired_statistics.py scripts/score_tables.py
EVALUATE = TOKENIZER=$(FULL)/checkpoint OUTPUT=$(@D) CTX=$(CTX) REASONING_BUDGET=$(REASONING_BUDGET) MAX_GEN_TOKS=$(MAX_GEN_TOKS) \
  SEED=$(SEED) NP=$(NP) GPU_LAYERS=$(GPU_LAYERS) PATCH=yes scripts/eval_gpqa_v3.sh

$(FULL_EVAL): $(FULL_QUANT_DIR)/$(NAME)-$(EVAL_QUANT).gguf $(EVAL_QUESTIONS) | $(TOOLS) scripts/eval_gpqa_v3.sh
	QUESTIONS=$(EVAL_QUESTIONS) $(EVALUATE) $(NAME) $<

$(PRUNED_EVAL): $(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-$(EVAL_QUANT).gguf $(EVAL_QUESTIONS) | $(TOOLS) $(DROP_METADATA) scripts/eval_gpqa_v3.sh
	QUESTIONS=$(EVAL_QUESTIONS) CHOSEN_BY=$(DROP_METADATA) $(EVALUATE) $(PRUNED_NAME) $<

.PRECIOUS: $(SCORES:.md=.json) $(SCORES:.md=.png)
$(SCORES) $(SCORES:.md=.json) $(SCORES:.md=.png) &: $(FULL_EVAL) $(PRUNED_EVAL) $(FULL_QUANT_FILES) $(PRUNED_QUANT_FILES) $(SCORING)
	$(PYTHON) scripts/compare_scores.py \
	  --model $(FULL_EVAL) $(FULL_QUANT_FILES:%=%.json) --model $(PRUNED_EVAL) $(PRUNED_QUANT_FILES:%=%.json) --output $(SCORES)

$(RUNS_SCORES): $(RUN_SUMMARIES) $(SCORING) | $(SETUP)
	$(PYTHON) scripts/compare_scores.py --runs $(RUN_SUMMARIES) --output $@ >/dev/null

# Of QUESTIONS each fold holds out every FOLDS-th; its map is made from the others and applied inside the GGUF.
$(HELDOUT)/fold%/drop_map.json: $(STATS) scripts/generate_drop_map.py
	$(PYTHON) scripts/generate_drop_map.py --stats $< --keep $(KEEP) --criterion $(CRITERION) --protect-top $(PROTECT_TOP) \
	  --fold $*/$(FOLDS) --output $@

$(HELDOUT)/fold%/$(HELDOUT_FILE)/$(PRUNED_NAME)-$(HELDOUT_QUANT).gguf: $(HELDOUT)/fold%/drop_map.json $(HELDOUT_SOURCE) scripts/expert_drop.py
	$(PYTHON) scripts/expert_drop.py --source $(HELDOUT_SOURCE) --drop-map $< --output $@

$(HELDOUT_EVALS): $(HELDOUT)/fold%/$(HELDOUT_RUN)/summary.json: $(HELDOUT)/fold%/$(HELDOUT_FILE)/$(PRUNED_NAME)-$(HELDOUT_QUANT).gguf $(QUESTIONS) | $(TOOLS) scripts/eval_gpqa_v3.sh
	QUESTIONS=$(QUESTIONS) HELD_OUT_OF=$(HELDOUT)/fold$*/drop_map.json CHOSEN_BY=$(HELDOUT)/fold$*/drop_map.json \
	  $(EVALUATE) $(PRUNED_NAME)-fold$* $<

ifneq ($(HELDOUT_REFERENCE),$(FULL_EVAL))
$(HELDOUT_REFERENCE): $(HELDOUT_SOURCE) $(QUESTIONS) | $(TOOLS) scripts/eval_gpqa_v3.sh
	QUESTIONS=$(QUESTIONS) $(EVALUATE) $(NAME) $<
endif

$(HELDOUT_POOLED): $(HELDOUT_EVALS) scripts/pool_heldout.py
	$(PYTHON) scripts/pool_heldout.py --name $(PRUNED_NAME)-held-out --summary $(HELDOUT_EVALS) --output $@

$(HELDOUT_SCORES): $(HELDOUT_REFERENCE) $(HELDOUT_POOLED) $(SCORING)
	$(PYTHON) scripts/compare_scores.py --runs $(HELDOUT_REFERENCE) $(HELDOUT_POOLED) --output $@ >/dev/null

# ---- release
# What goes into a folder depends on variables that are not in its path, and on whether quality was measured: remake it then.
RELEASE_SCORES := $(if $(filter yes,$(SCORED)),$(SCORES:.md=.json))
RELEASE_QUALITY := $(wildcard $(QUALITY:.md=.json))
PICTURES = $(PLOTS) $(RELEASE_SCORES:.json=.png) $(if $(filter $(CHECKPOINT_RELEASE),$(@D)),,$(PRUNED_QUANT_DIR)/imatrix-coverage.png $(RELEASE_QUALITY:.json=.png))

$(PRUNED)/release.settings: FORCE
	@mkdir -p $(@D); settings='$(BASE) $(LICENSE) $(QUANTIZED_BY) $(CALIBRATION_SET) $(PROTOCOL) $(sort $(QUANTS) $(EVAL_QUANT)) $(RELEASE_SCORES) $(RELEASE_QUALITY)'; \
	  [ -f $@ ] && [ "$$(<$@)" = "$$settings" ] || printf '%s\n' "$$settings" >$@

BUILD_RELEASE = $(PYTHON) scripts/build_release.py --name $(PRUNED_NAME) --base $(BASE) $(if $(LICENSE),--license $(LICENSE)) \
  $(if $(QUANTIZED_BY),--quantized-by $(QUANTIZED_BY)) --metadata $(DROP_METADATA) $(RELEASE_SCORES:%=--scores %) --pictures $(PICTURES) \
  --questions $(sort $(QUESTIONS) $(EVAL_QUESTIONS)) --output $(@D)
SIDECARS := --template modelfiles/gemma4.template --params modelfiles/gemma4.params.json

$(RELEASES:%=%/manifest.json): $(RELEASE_SCORES) $(DROP_METADATA) $(PLOTS) $(PRUNED)/release.settings $(wildcard scripts/build_release.py \
    scripts/release_*.py scripts/*card*.py scripts/front_matter.py scripts/context_cache.py scripts/ollama_files.py scripts/score_tables.py \
    scripts/kld_statistics.py scripts/quant_recipes.py) | $(TOOLS)
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

$(PRUNED)/report/records.txt: FORCE
	@mkdir -p $(@D); records="$$(stat -c '%n %s %y' $(or $(REPORT_RECORDS),/dev/null))"; \
	  [ -f $@ ] && [ "$$(<$@)" = "$$records" ] || printf '%s\n' "$$records" >$@

$(REPORT): $(PRUNED)/report/records.txt scripts/build_report.py $(wildcard scripts/report_*) scripts/score_tables.py | $(SETUP)
	$(PYTHON) scripts/build_report.py --name $(PRUNED_NAME) $(call report_of,--stats,$(STATS)) $(call report_of,--drop-map,$(DROP_MAP)) \
	  $(call report_of,--metadata,$(DROP_METADATA)) $(call report_of,--f16,$(PRUNED_F16).json) \
	  $(call report_of,--imatrix,$(PRUNED_QUANT_DIR)/imatrix.gguf) $(call report_of,--quants,$(PRUNED_QUANT_DIR)/$(PRUNED_NAME)-%.gguf.json) \
	  $(call report_of,--quality,$(QUALITY:.md=.json)) $(call report_of,--scores,$(SCORES:.md=.json)) \
	  $(call report_of,--summaries,$(FULL_EVAL) $(PRUNED_EVAL)) --output $@

# ---- what leaves the machine. Nothing is built here: what is sent is what was checked.
upload: | $(SETUP) ## after the gates list what REPO=USER/NAME would get of RELEASE=folder; with UPLOAD=yes send it (token: HF_TOKEN or hf auth login)
	@$(PYTHON) scripts/upload_release.py --release $(RELEASE) --repo '$(REPO)' $(if $(filter command,$(origin RELEASE)),,--name $(PRUNED_NAME)) \
	  $(if $(filter yes,$(UPLOAD)),--send)

release-ollama: | $(SETUP) ## print the commands that wrap the quants of RELEASE (or of REPO on the Hub) for Ollama's tool calls; run them where there is an ollama
	@$(PYTHON) scripts/release_ollama.py $(RELEASE) $(if $(REPO),--repo '$(REPO)')

# ---- the embedded demo: the same targets with other variables
DEMO := MODEL=data/demo/model NAME=gemma-4-demo QUESTIONS=data/demo/calibration_questions.csv \
  EVAL_QUESTIONS=data/demo/eval_questions.csv CALIBRATION= QUANTS='Q8_0 Q6_K Q4_K_M' REFERENCE_QUANTS='Q8_0 Q6_K Q4_K_M' \
  CTX=4096 REASONING_BUDGET=1024 MAX_GEN_TOKS=2048 LICENSE=

demo: ## run everything on the small embedded model, end with a table like the model card's
	@$(MAKE) --no-print-directory release $(DEMO)
	@$(MAKE) --no-print-directory --silent show-results $(DEMO)

.PHONY: show-results
show-results:
	@printf '\n'; cat $(SCORES)
	@printf '\nStatistics   %s\nDrop map     %s\nCheckpoint   %s\nScores       %s\nReleases     %s\n' \
	  $(STATS) $(DROP_MAP) $(dir $(DROP_METADATA)) $(SCORES) '$(RELEASES)'

# ---- tests
test: $(TOOLS) ## set up and run the tests
	$(PYTHON) -m pytest tests

# ---- benchmarks, on generated layers of the 26B's sizes
BENCH := $(BUILD)/bench

bench: $(TOOLS) ## measure against the limits: ratios and peak memory, as tables and in build/bench/ (30 GB of disk)
	$(PYTHON) bench/generate_checkpoint.py --tokenizer data/demo/model --output $(BENCH)/checkpoints
	$(PYTHON) bench/bench_analysis.py --checkpoints $(BENCH)/checkpoints --output $(BENCH)/analysis.json
	$(PYTHON) bench/bench_drop.py --checkpoint $(BENCH)/checkpoints/4 --output $(BENCH)/drop.json
	$(PYTHON) bench/bench_quantize.py --checkpoint $(BENCH)/checkpoints/2 --output $(BENCH)/quantize.json
	$(PYTHON) scripts/convert_to_gguf.py --model data/demo/model --name gemma-4-demo --output $(BENCH)/demo-F16.gguf
	$(PYTHON) bench/bench_eval.py --gguf $(BENCH)/demo-F16.gguf --tokenizer data/demo/model --questions data/demo/eval_questions.csv \
	  --output $(BENCH)/eval.json

clean: ## remove build/ (the llama.cpp tools and .venv stay)
	rm -rf build
