# Prune, quantise, evaluate and release a mixture-of-experts model. `make` prints the targets and variables.
#
# Parameters that change an output are part of its path. Long work (analysis, conversion, imatrix, quants, evaluation) is
# ordered after its script but not remade when the script changes; `make -B` forces it. Quick work depends on its command
# and on the rooms of scripts/ that it imports, so that an edited formula remakes what follows from it. Long work that follows
# then compares its record with its inputs, and does nothing where they are the same.

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
CRITERION ?= coverage#                    what ranks the experts (scripts/choice/criteria.py)
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
KNOWN_QUANTS := $(shell grep -ozP 'Recipe.\s*"\K[A-Z0-9_-]+(?=")' scripts/quants/recipes.py | tr '\0' ' ')

# ---- tools
PYTHON := .venv/bin/python
# Waiting threads yield the processor: two steps at once (make -j2) would else starve each other.
OMP_WAIT_POLICY ?= PASSIVE
export PYTHON LLAMA_CPP CMAKE_ARGS MOE_TOOLS_CACHE OMP_WAIT_POLICY
SETUP := .venv/.installed
LLAMA_READY := $(if $(LLAMA_CPP),,$(shell CMAKE_ARGS='$(CMAKE_ARGS)' MOE_TOOLS_CACHE='$(MOE_TOOLS_CACHE)' scripts/build_llama_cpp.sh --where)/llama_cpp.json)
TOOLS := $(SETUP) $(LLAMA_READY)

# A command and the rooms that it imports; tests/test_rooms.py holds each list against the imports.
step = scripts/$(1).py $(foreach room,$(2),$(wildcard scripts/$(room)/*.py))
CHOOSE := $(call step,generate_drop_map,chats choice files ggufs)
PLOT := $(call step,plot_expert_stats,choice files)
DROP := $(call step,expert_drop,checkpoints choice files ggufs)
RENDER := $(call step,render_calibration,chats files)
REACHED := $(call step,report_imatrix,files ggufs)
POOL := $(call step,pool_heldout,files scoring)
COMPARE := $(call step,compare_scores,files quants scoring)
PACK := $(call step,build_release,choice files ggufs llama losses ollama quants release scoring)
PAGE := $(call step,build_report,choice files ggufs losses page quants scoring) $(wildcard scripts/page/page.*)

# A value that is not in an output's path stands in a file beside it, written anew only when the value is another one.
squash = $(subst $() ,_,$(strip $(1)))
define remember
$(1): $(if $(call squash,$(2)),$(if $(filter $(call squash,$(2)),$(call squash,$(file <$(1)))),,FORCE),$(if $(strip $(file <$(1))),FORCE))
	@mkdir -p $$(@D); printf '%s\n' '$(2)' >$$@
endef

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
ifneq ($(filter-out help settings setup test lint bench bench-% clean demo-%,$(MAKECMDGOALS)),)
  $(call require,SCORED,$(SCORED),^(yes|no)$$,yes or no)
  $(foreach v,LICENSE QUANTIZED_BY,$(call require,$(v),$($(v)),^[A-Za-z0-9._-]*$$,letters$(,) digits$(,) dots$(,) dashes))
  $(foreach v,STREAM_LAYERS RECOMPUTE_FULL,$(call require,$(v),$($(v)),^(yes|no)?$$,yes$(,) no or nothing))
  $(call require,SPILL,$(SPILL),^[^[:space:]]*$$,a path without blanks)
  $(foreach v,NAME PRUNED_NAME EVAL_QUANT,$(call require,$(v),$($(v)),^[A-Za-z0-9._-]+$$,letters$(,) digits$(,) dots$(,) dashes))
  $(call require,PROTECT_TOP,$(PROTECT_TOP),^[0-9]+$$,a whole number)
  $(call require,CRITERION,$(CRITERION),^[a-z-]+(:[0-9]+)?$$,a criterion of scripts/choice/criteria.py)
  $(call require,FOLD,$(FOLD),^([0-9]+/[0-9]+)?$$,I/K)
  $(call require,QUALITY_SCORE,$(QUALITY_SCORE),^(reply|all)$$,reply or all)
  $(call require,QUALITY_CHATS,$(QUALITY_CHATS),^([1-9][0-9]*)?$$,a whole number above 0)
  $(foreach v,KEEP CTX MAX_GEN_TOKS NP FOLDS RANKS COMPARE_SEEDS SENSITIVITY_CHATS,$(call require,$(v),$($(v)),^[1-9][0-9]*$$,a whole number above 0))
  $(call require,COMPARE_KEEP,$(strip $(COMPARE_KEEP)),^[1-9][0-9]*( [1-9][0-9]*)*$$,whole numbers above 0)
  $(foreach v,KEEP_F16 UPLOAD,$(call require,$(v),$($(v)),^(yes|no)$$,yes or no))
  $(foreach v,REASONING_BUDGET SEED GPU_LAYERS MIN_EXPERT_TOKENS,$(call require,$(v),$($(v)),^[0-9]+$$,a whole number))
  $(foreach v,MODEL BASE BUILD QUESTIONS EVAL_QUESTIONS,$(call require,$(v),$($(v)),^[^[:space:]]+$$,a path without blanks))
  $(foreach q,$(QUANTS) $(REFERENCE_QUANTS) $(EVAL_QUANT),$(if $(filter $(q),$(KNOWN_QUANTS))$(shell [[ '$(q)' =~ ^AUTO-[0-9]+([.][0-9]+)?$$ ]] && echo target),,$(error QUANTS: expected AUTO-<GiB> or quants among $(KNOWN_QUANTS), found $(q))))
  $(if $(filter $(HELDOUT_QUANT),F16 $(REFERENCE_QUANTS) $(EVAL_QUANT)),,$(error HELDOUT_QUANT: expected F16$(,) EVAL_QUANT or one of REFERENCE_QUANTS$(,) found $(HELDOUT_QUANT)))
  $(call require,CALIBRATION,$(CALIBRATION),^[^[:space:]]*$$,a path without blanks)
  $(foreach f,$(QUESTIONS) $(EVAL_QUESTIONS) $(filter-out v5,$(CALIBRATION)),$(if $(filter $(BUILD)/%,$(f))$(wildcard $(f)),,$(error $(f): expected a file, found nothing)))
  ifneq ($(wildcard $(FULL_SOURCE)),)
    ifneq ($(file <$(FULL_SOURCE)),$(MODEL_SOURCE))
      $(error $(FULL_SOURCE): expected an output of $(MODEL_SOURCE), found one of $(file <$(FULL_SOURCE)); give another NAME or remove $(BUILD)/$(NAME))
    endif
  endif
endif

.PHONY: help settings setup plan analyze drop imatrix quants quality compare-cd-scopes eval eval-heldout compare release check-release report upload release-ollama verify reproduce compare-criteria demo test lint bench clean FORCE
help: ## print targets and variables
	@printf 'Targets\n'
	@sed -nE 's/^([a-z][a-z %-]*):.*## (.*)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-19s %s\n", $$1, $$2}'
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

include rules.mk

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

demo-%: ## any other target with the demo's variables, such as demo-check-release or demo-quants QUANTS=CD-Q4_K_M
	@$(MAKE) --no-print-directory $* $(DEMO) $(MAKEOVERRIDES)

.PHONY: show-results
show-results:
	@printf '\n'; cat $(SCORES)
	@printf '\nStatistics   %s\nDrop map     %s\nCheckpoint   %s\nScores       %s\nReleases     %s\n' \
	  $(STATS) $(DROP_MAP) $(dir $(DROP_METADATA)) $(SCORES) '$(RELEASES)'

# ---- tests. Two workers: more would share two processors. Files go whole to one worker, which builds their models once.
test: $(TOOLS) ## set up and run the tests
	$(PYTHON) -m pytest tests -n 2 --dist loadfile

lint: $(SETUP) ## names, types, shell scripts and the Go file: what `make test` does not run (settings: pyproject.toml)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy scripts
	.venv/bin/shellcheck scripts/*.sh .ci/run
	@# Found by the shell: make's own wildcard is asked before the environment exists.
	go=$$(echo $(CURDIR)/.venv/lib/python3*/site-packages/go/bin) && unformatted=$$($$go/gofmt -l scripts) && \
	  if [ -n "$$unformatted" ]; then printf 'error: %s: expected the form of gofmt\n' $$unformatted >&2; exit 1; fi && \
	  cd scripts/ollama/go_template && GOFLAGS=-mod=mod GOTOOLCHAIN=local $$go/go vet main.go tags.go

# ---- benchmarks, on generated layers of the 26B's sizes
BENCH := $(BUILD)/bench

.PHONY: bench-layers bench-analysis bench-drop bench-quantize bench-eval
bench: bench-analysis bench-drop bench-quantize bench-eval ## measure against the limits: ratios and peak memory, as tables and in build/bench/ (30 GB of disk; make -k goes on after a broken limit)

bench-layers: $(TOOLS)
	$(PYTHON) bench/generate_checkpoint.py --tokenizer data/demo/model --output $(BENCH)/checkpoints

bench-analysis: bench-layers
	$(PYTHON) bench/bench_analysis.py --checkpoints $(BENCH)/checkpoints --output $(BENCH)/analysis.json

bench-drop: bench-layers
	$(PYTHON) bench/bench_drop.py --checkpoint $(BENCH)/checkpoints/4 --output $(BENCH)/drop.json

bench-quantize: bench-layers
	$(PYTHON) bench/bench_quantize.py --checkpoint $(BENCH)/checkpoints/2 --output $(BENCH)/quantize.json

bench-eval: $(TOOLS)
	$(PYTHON) scripts/convert_to_gguf.py --model data/demo/model --name gemma-4-demo --output $(BENCH)/demo-F16.gguf
	$(PYTHON) bench/bench_eval.py --gguf $(BENCH)/demo-F16.gguf --tokenizer data/demo/model --questions data/demo/eval_questions.csv \
	  --output $(BENCH)/eval.json

clean: ## remove build/ (the llama.cpp tools and .venv stay)
	rm -rf build
