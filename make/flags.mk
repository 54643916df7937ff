# The flags of each step, by name, and what a quick step depends on.

# A command and the rooms that it imports; tests/test_rooms.py holds each list against the imports.
code = scripts/$(1).py $(foreach room,$(2),$(wildcard scripts/$(room)/*.py))
CHOOSE := $(call code,generate_drop_map,chats choice files ggufs)
COPY_MAP := $(call code,copy_drop_map,checkpoints choice files)
DRAW := $(call code,plot_expert_stats,choice files)
DROP := $(call code,expert_drop,checkpoints choice files ggufs)
RENDER := $(call code,render_calibration,chats files)
REACHED := $(call code,report_imatrix,files ggufs)
SUM_UP := $(call code,summarize_scores,chats checkpoints choice files ggufs quants scoring)
POOL := $(call code,pool_heldout,files scoring)
COMPARE := $(call code,compare_scores,files quants scoring)
# All answers are recorded: what an edited class makes of them takes seconds.
LOOK := $(call code,measure_loops,chats files ggufs llama loops quants scoring)
PACK := $(call code,build_release,cards chats checkpoints choice files findings gates ggufs llama loops losses ollama \
  quants release scoring speed) VERSION $(wildcard scripts/ollama/go_template/*.go)
PAGE := $(call code,build_report,choice files findings ggufs loops losses page quants scoring speed) \
  $(wildcard scripts/page/page.*)

# ---- fetch and analyse
# The model is looked at again when it is named otherwise, its link leads nowhere or elsewhere, or its files are newer.
NEW_MODEL := $(call again,model) $(if $(filter-out $(file <$(MODEL_SOURCE)),$(MODEL)),FORCE) \
  $(if $(wildcard $(FULL)/checkpoint/config.json),,FORCE) \
  $(if $(wildcard $(MODEL)/config.json),$(if $(filter $(realpath $(wildcard $(MODEL))),$(realpath \
    $(FULL)/checkpoint)),,FORCE))
MODEL_FILES := $(filter-out $(MODEL)/adapter%,$(call check_files,$(MODEL),$(wildcard \
  $(MODEL)/config.json $(MODEL)/*.safetensors $(MODEL)/*.safetensors.index.json)))
ANALYZE := $(PYTHON) scripts/teacher_force_analysis.py
ANALYSIS_FLAGS = --questions $(QUESTIONS) $(KEEP:%=--check-keep %) \
  $(if $(filter yes,$(STREAM_LAYERS)),--stream-layers) $(SPILL:%=--spill %) \
  $(addprefix --processes ,$(filter-out 1,$(RANKS))) \
  $(if $(filter yes,$(ALLOW_EMPTY_REASONING)),--allow-empty-reasoning) \
  $(if $(RECONSTRUCTION),--reconstruction $(RECONSTRUCTION) $(DOMAIN_FLAGS))
QUESTIONS_DIGEST := $(call digest,$(QUESTIONS))

# ---- choose: by the statistics, or by an own map, which needs none
# A domain may be a question file, which is known by its digest.
DOMAIN_FILES := $(call check_files,DOMAINS,$(wildcard \
  $(foreach d,$(DOMAINS),$(filter %.csv %.jsonl %.parquet,$(firstword $(subst :, ,$d))))))
DOMAIN_SETTINGS := $(if $(DOMAINS),$(call setting,DOMAINS) $(foreach f,$(DOMAIN_FILES),DOMAIN=$(call digest,$f)))
DOMAIN_FLAGS := $(if $(DOMAINS),--domains $(DOMAINS) --domain-questions $(QUESTIONS))
ORDER_SETTINGS := $(if $(RECONSTRUCTION),$(call setting,RECONSTRUCTION) $(DOMAIN_SETTINGS))
CHOICE_SETTINGS := $(call setting,$(if $(DROP_MAP),,KEEP CRITERION PROTECT_TOP FOLD) PRUNED_NAME) \
  $(if $(DROP_MAP),,$(if $(filter reconstruction,$(CRITERION)),$(call setting,RECONSTRUCTION))) \
  $(if $(DROP_MAP),,$(DOMAIN_SETTINGS)) \
  $(if $(DROP_MAP),DROP_MAP=$(call digest,$(DROP_MAP)),QUESTIONS=$(QUESTIONS_DIGEST))
CHOICE_SOURCE := $(if $(DROP_MAP),$(DROP_MAP) $(COPY_MAP),$(STATS) $(CHOOSE))
OWN_MAP_COMMAND := scripts/copy_drop_map.py --map $(DROP_MAP) --model $(FULL)/checkpoint $(KEEP:%=--keep %)
CHOICE_COMMAND := $(if $(DROP_MAP),$(OWN_MAP_COMMAND),scripts/generate_drop_map.py --stats $(STATS) --keep $(KEEP) \
  --criterion $(CRITERION) --protect-top $(PROTECT_TOP) $(FOLD:%=--fold %) $(DOMAIN_FLAGS))
CHOSEN_FILES := $(patsubst %,$(PRUNED)/%,drop_map.json pictures checkpoint f16 report.html plan.json)
# An own map needs no analysis. It is drawn where there are statistics already, or will be: tiers of CD files need them.
TIERED := $(if $(CD_TIERS),,$(filter CD-%,$(ASKED_QUANTS) $(EVAL_QUANT) $(LOOP_QUANTS)))
DRAWN := $(if $(or $(if $(DROP_MAP),,chosen by them),$(TIERED),$(wildcard $(STATS))),$(PICTURES))

# ---- convert, imatrix and quantise
# An older version converted without holding the file against transformers, which a release asks for. A file without its
# record is converted again, too: that is what removing the record is for.
uncompared = $(if $(wildcard $(1)),$(if $(shell grep -qs '"tokens_alike"' '$(1).json' || echo so),FORCE))
# Asked of the shell when their turn comes: make itself remembers folders as they were when it began.
quant_records = $(call check_files,$(1),$(shell compgen -G '$(1)/$(2)-*.gguf.json' | LC_ALL=C sort))
FULL_RECORDS = $(call quant_records,$(FULL_GGUF),$(NAME))
PRUNED_RECORDS = $(call quant_records,$(PRUNED_GGUF),$(PRUNED_NAME))
CALIBRATION_SETTING := CALIBRATION=$(if $(CALIBRATION),$(call digest,$(CALIBRATION)),QUESTIONS:$(QUESTIONS_DIGEST))
CD_OPTIONS := --cd-recipe $(CD_RECIPE) --cd-rule $(CD_RULE) $(CD_CUTS:%=--cd-cuts %) --cd-scope $(CD_SCOPE) \
  $(CD_TIERS:%=--cd-tiers %) $(CD_PROTECT:%=--cd-protect %)
CD_SETTINGS := $(call setting,CD_RECIPE CD_RULE CD_CUTS CD_TIERS CD_SCOPE CD_PROTECT) \
  $(if $(CD_TIERS),,QUESTIONS=$(QUESTIONS_DIGEST))
AUTO_SETTINGS := $(call setting,SENSITIVITY_CHATS) QUESTIONS=$(QUESTIONS_DIGEST)
SENSITIVITY := $(PRUNED_GGUF)/sensitivity.json
# A quant has the imatrix among its prerequisites, or is built without one.
QUANTIZE = $(PYTHON) scripts/quantize_gguf.py --input $(filter %-F16.gguf,$^) \
  $(patsubst %,--imatrix % --min-expert-tokens $(MIN_EXPERT_TOKENS),$(filter %/imatrix.gguf,$^)) \
  $(if $(filter CD-%,$*),$(if $(CD_TIERS),,--stats $(STATS)) $(CD_OPTIONS)) \
  $(if $(filter AUTO-%,$*),--sensitivity $(@D)/sensitivity.json) --type $* --output $@
CHECK_REACHED = @$(PYTHON) scripts/report_imatrix.py --imatrix $(PRUNED_GGUF)/imatrix.gguf \
  --min-expert-tokens $(MIN_EXPERT_TOKENS) --output-prefix $(PRUNED_GGUF)/imatrix-coverage >/dev/null
# A shape, or a model that this very command names, is not the one that the run's files were measured on.
MEASURED = $(if $(SHAPE)$(filter MODEL,$(COMMAND_LINE)),,$(wildcard $(1)))
PLAN_FLAGS = $(or $(patsubst %,--imatrix %,$(call MEASURED,$(PRUNED_GGUF)/imatrix.gguf)),\
  --dataset $(notdir $(CALIBRATION_TEXT))) \
  $(patsubst %,--stats %,$(call MEASURED,$(STATS))) $(patsubst %,--sensitivity %,$(call MEASURED,$(SENSITIVITY))) \
  $(if $(NO_IMATRIX),--no-imatrix $(NO_IMATRIX))

# ---- evaluate, compare, measure
# What proves which choice of experts a scored file has: scripts/scoring/proven_choice.py follows it.
CHOICE_PROOF = $(METADATA) $(DROP_MAP_FILE) $(if $(DROP_MAP),,$(STATS)) $(if $(OPENAI),,$(PRUNED_F16).json)
# What no request to servers of others can say is no setting there.
PROTOCOL := $(call setting,$(if $(OPENAI),,CTX REASONING_BUDGET GPU_LAYERS) MAX_GEN_TOKS SEED NP)
EVAL_DIGEST := $(call digest,$(EVAL_QUESTIONS))
# Of the imatrix, what a scored quant's bytes depend on.
imatrix_setting = $(CALIBRATION_SETTING) $(patsubst %,NO_IMATRIX=%,$(filter $(1),$(NO_IMATRIX)))
EVAL_SETTINGS := $(if $(OPENAI),,$(call imatrix_setting,$(EVAL_QUANT))) EVAL_QUESTIONS=$(EVAL_DIGEST) \
  $(call setting,$(if $(OPENAI),BACKEND,EVAL_QUANT)) $(PROTOCOL)
# TASK and SAMPLES are set in any case: make hands those of the command line on, and here each sample has its own run.
EVALUATE = TOKENIZER=$(FULL)/checkpoint OUTPUT=$(@D) CTX=$(CTX) REASONING_BUDGET=$(REASONING_BUDGET) \
  MAX_GEN_TOKS=$(MAX_GEN_TOKS) SEED=$(or $(seed_of),$(SEED)) NP=$(NP) GPU_LAYERS=$(GPU_LAYERS) PATCH=yes \
  $(ASKED_SERVERS) TASK=$(if $(filter-out $(FULL_EVAL) $(PRUNED_EVAL),$(OTHER_TASK:%=$@)),$(TASK)) SAMPLES= \
  scripts/eval_gpqa_v3.sh
# The seed of a sample, by its folder.
seed_of = $(patsubst seed-%,%,$(filter seed-%,$(notdir $(@D))))
of_seed = $(seed_of:%=$() with seed %)
# Fewer or more samples are other scores of the same answers.
samples_of = $(if $(SEEDS),$(1)/samples.txt)
remember_samples = $(if $(SEEDS),$(call remember,$(1)/samples.txt,$(call setting,SAMPLES)))
# They are no part of the protocol: the answers are the same.
ASKED_SERVERS := $(if $(SERVERS),SERVERS='$(SERVERS)') $(if $(filter-out 1,$(LOCAL_SERVERS)),\
  LOCAL_SERVERS=$(LOCAL_SERVERS)) $(OPENAI:%=BACKEND=%)
HELDOUT_SETTINGS := $(if $(or $(OPENAI),$(filter F16,$(HELDOUT_QUANT))),,$(call imatrix_setting,$(HELDOUT_QUANT))) \
  QUESTIONS=$(QUESTIONS_DIGEST) \
  $(call setting,KEEP CRITERION PROTECT_TOP FOLDS $(if $(OPENAI),BACKEND,HELDOUT_QUANT)) $(DOMAIN_SETTINGS) $(PROTOCOL)
TASK_SETTINGS = QUANT=$(1) $(call imatrix_setting,$(1)) $(call setting,TASK) \
  TASK_DATA=$(call digest,$(TASK_QUESTIONS)) $(if $(TASK_SHOTS),TASK_EXAMPLES=$(call digest,$(TASK_SHOTS))) $(PROTOCOL)
QUALITY_SETTINGS := EVAL_QUESTIONS=$(EVAL_DIGEST) $(call setting,QUALITY_CHATS QUALITY_SCORE)
MEASURE_QUALITY = $(PYTHON) scripts/measure_quality.py \
  --full $(FULL_F16) --pruned $(PRUNED_F16) --model $(FULL)/checkpoint \
  --gguf $(filter-out $(FULL_F16) $(PRUNED_F16),$(filter %.gguf,$^)) --questions $(EVAL_QUESTIONS) \
  --calibration $(CALIBRATION_TEXT) --chose $(DROP_MAP_FILE) $(QUALITY_CHATS:%=--limit %) --score $(QUALITY_SCORE) \
  --gpu-layers $(GPU_LAYERS) --cache $(FULL)/logits --output $@
DRAFT_SETTINGS := EVAL_QUESTIONS=$(EVAL_DIGEST) \
  $(call setting,DRAFT DRAFT_TYPE DRAFT_TOKENS DRAFT_QUESTIONS EVAL_QUANT CTX GPU_LAYERS)
MEASURE_DRAFT = $(PYTHON) scripts/measure_draft.py --draft $(DRAFT_FILE) --draft-tokens $(DRAFT_TOKENS) \
  --gguf $(NAME)=$(call full_quant,$(EVAL_QUANT)) $(PRUNED_NAME)=$(call pruned_quant,$(EVAL_QUANT)) \
  --questions $(EVAL_QUESTIONS) --limit $(DRAFT_QUESTIONS) --context $(CTX) --gpu-layers $(GPU_LAYERS) \
  --output $(DRAFT_GAIN)
ACTIVE_SETTINGS := EVAL_QUESTIONS=$(EVAL_DIGEST) \
  $(call setting,EVAL_QUANT ACTIVE_EXPERTS ACTIVE_SCORED QUALITY_CHATS CTX REASONING_BUDGET MAX_GEN_TOKS GPU_LAYERS)
# For speed alone short answers do. A score needs whole ones, thoughts included.
ACTIVE_ANSWERS := --context $(CTX) --reasoning-budget $(REASONING_BUDGET) \
  $(if $(filter yes,$(ACTIVE_SCORED)),--scored --rounds 1 --answer-tokens $(MAX_GEN_TOKS))
MEASURE_ACTIVE = $(PYTHON) scripts/measure_active_experts.py --name $(PRUNED_NAME) --model $(FULL)/checkpoint \
  --gguf $(call pruned_quant,$(EVAL_QUANT)) $(if $(ACTIVE_EXPERTS),--counts $(ACTIVE_EXPERTS)) \
  --questions $(EVAL_QUESTIONS) $(QUALITY_CHATS:%=--limit %) --gpu-layers $(GPU_LAYERS) $(ACTIVE_ANSWERS) \
  --cache $(FULL)/logits --output $(ACTIVE)
LOOP_FILES := $(call full_quant,$(EVAL_QUANT)) \
  $(call pruned_quant,$(EVAL_QUANT) $(filter-out $(EVAL_QUANT),$(LOOP_QUANTS)))
LOOP_SETTINGS := $(call setting,EVAL_QUANT LOOP_TOKENS SEED CTX GPU_LAYERS)
MEASURE_LOOPS = $(PYTHON) scripts/measure_loops.py --gguf $(LOOP_FILES) --prompts $(LOOP_PROMPTS) \
  --seed $(SEED) --seeds $(LOOP_SEEDS) --max-tokens $(LOOP_TOKENS) --context $(CTX) --gpu-layers $(GPU_LAYERS) \
  $(if $(filter-out 1,$(LOCAL_SERVERS)),--local-servers $(LOCAL_SERVERS)) \
  --answers $(LOOP_ANSWERS) $(if $(call again,loops),--again) --output $(LOOPS)
FINDINGS_SETTINGS := QUESTIONS=$(QUESTIONS_DIGEST) $(call setting,DOMAIN_COLUMN) \
  OTHER_MAPS=$(call words_of,$(foreach m,$(OTHER_MAPS),$(call digest,$m)))
MEASURE_FINDINGS = $(PYTHON) scripts/measure_findings.py --name $(NAME) --model $(FULL)/checkpoint --stats $(STATS) \
  --questions $(QUESTIONS) --drop-map $(DROP_MAP_FILE) $(if $(OTHER_MAPS),--maps $(OTHER_MAPS)) \
  $(if $(DOMAIN_COLUMN),--domain-column '$(DOMAIN_COLUMN)') $(if $(filter yes,$(STREAM_LAYERS)),--stream-layers) \
  $(SPILL:%=--spill %) $(if $(call again,findings),--again) --measured $(FINDINGS_PASS) --output $(FINDINGS)
# Models with few experts protect fewer than the default, or all would be protected.
COMPARE_TOP := $(if $(filter PROTECT_TOP,$(SET_BY_RUN) $(COMMAND_LINE)),$(filter-out 0,$(PROTECT_TOP)))
COMPARISON_SETTINGS := EVAL_QUESTIONS=$(EVAL_DIGEST) QUESTIONS=$(QUESTIONS_DIGEST) \
  $(if $(RECONSTRUCTION),$(call setting,RECONSTRUCTION)) \
  $(call setting,COMPARE_KEEP COMPARE_SEEDS $(if $(COMPARE_TOP),PROTECT_TOP) $(if $(DOMAINS),CRITERION)) \
  $(DOMAIN_SETTINGS)

# A run by its name stands for its summary, after that of the full model of the first one.
SAME_TASK := $(foreach v,$(filter TASK TASK_QUANTS SAMPLES SEED EVAL_QUANT EVAL_NAME,$(COMMAND_LINE)),$v='$($v)')
runs_of = $(shell $(MAKE) -s --no-print-directory RUN=$(1) BUILD=$(BUILD) $(SAME_TASK) print-$(2)-runs)
summary_in = $(if $(filter %.json,$(1)),$(1),$(patsubst %/,%,$(1))/summary.json)
summary_of = $(if $(filter $(1),$(KNOWN_RUNS)),$(call runs_of,$(1),pruned),$(call summary_in,$(1)))
FIRST_RUN := $(filter $(firstword $(RUNS)),$(KNOWN_RUNS))
RUN_SUMMARIES := $(if $(FIRST_RUN),$(call runs_of,$(FIRST_RUN),full)) \
  $(foreach r,$(RUNS),$(call summary_of,$r))
UNFINISHED := $(if $(filter compare,$(MAKECMDGOALS)),$(filter-out $(wildcard $(RUN_SUMMARIES)),$(RUN_SUMMARIES)))
$(if $(UNFINISHED),$(error RUNS: expected $(firstword $(UNFINISHED)), found nothing; make eval of that run first))

# ---- release and report
RELEASE_RECORDS := $(if $(filter yes,$(SCORED)),$(SCORES:.md=.json))
# Where one call asks for a measurement and the release, the release waits: it would else be made without the figures.
measure_first = $(if $(filter $(1),$(MAKECMDGOALS)),$(2))
MEASURED_FIRST := $(call measure_first,quality,$(QUALITY)) $(call measure_first,findings,$(FINDINGS)) \
  $(call measure_first,loops,$(LOOPS)) $(call measure_first,active-experts,$(ACTIVE)) \
  $(if $(OTHER_TASK),$(call measure_first,eval,$(TASK_SCORES)))
of_release = $(or $(patsubst %.md,%.json,$(filter $(1),$(MEASURED_FIRST))),$(wildcard $(1:.md=.json)))
RELEASE_QUALITY := $(call of_release,$(QUALITY))
RELEASE_FINDINGS := $(call of_release,$(FINDINGS))
RELEASE_LOOPS := $(call of_release,$(LOOPS))
RELEASE_ACTIVE := $(call of_release,$(ACTIVE))
# All further tasks that were scored, each with what its scores are made from.
TASKS_FIRST := $(if $(OTHER_TASK),$(call measure_first,eval,$(TASK_SCORES)))
TASK_RECORDS := $(call check_files,$(PRUNED)/tasks,$(sort $(wildcard $(PRUNED)/tasks/*/scores.json) \
  $(TASKS_FIRST:.md=.json)))
# A word a line, as `remember` writes it.
made_from = $(strip $(call check_words,$(1)made-from.txt,$(subst $(LINE_END), ,$(file <$(1)made-from.txt))))
TASK_FLAGS = $(foreach f,$(TASK_RECORDS),--task $f $(call made_from,$(dir $f)))
# What a card says of its people and licence stays, once given, until another is given, or none on the command line:
# check-release must not make the cards without it again. Anybody can edit that file: build_release.py seals what is
# given, and refuses what is said to have been given and was not.
RELEASE_SETTINGS_FILE := $(PRUNED)/release/settings.txt
given_before = $(strip $(call check_words,$(RELEASE_SETTINGS_FILE),\
  $(patsubst $(1)=%,%,$(filter $(1)=%,$(file <$(RELEASE_SETTINGS_FILE))))))
not_given = $(if $($(1))$(filter command,$(firstword $(origin $(1)))),,$(1))
remembered = $(or $($(1)),$(if $(call not_given,$(1)),$(call given_before,$(1))))
KNOWN_OWNER := $(call remembered,OWNER)
KNOWN_LICENSE := $(call remembered,LICENSE)
KNOWN_QUANTIZER := $(or $(call remembered,QUANTIZED_BY),$(KNOWN_OWNER))
# What a card's command to reproduce names: the run, what no default can know, and all else that differs from a default.
ALWAYS_NAMED := RUN MODEL QUESTIONS EVAL_QUESTIONS QUANTS
BYTES_DEPEND_ON := CALIBRATION ALLOW_EMPTY_REASONING FOLD DROP_MAP DOMAINS MIN_EXPERT_TOKENS NO_IMATRIX CD_RECIPE \
  CD_RULE CD_CUTS CD_TIERS CD_SCOPE CD_PROTECT RECONSTRUCTION SENSITIVITY_CHATS EVAL_QUANT EVAL_NAME GPU_LAYERS \
  QUALITY_CHATS QUALITY_SCORE SCORED $(if $(OTHER_TASK),,SAMPLES) LOOP_QUANTS LOOP_SEEDS LOOP_TOKENS OLLAMA_PARAMS \
  $(if $(MAY_SEE),MMPROJ) DRAFT $(if $(DRAFT),DRAFT_TYPE DRAFT_TOKENS DRAFT_QUESTIONS)
# The command of a card names no run, so it falls back to the demo's: what that one sets is named, too.
SET_BY_DEMO := $(shell LC_ALL=C sed -nE 's/^([A-Z0-9_]+) *=.*/\1/p' runs/demo.mk)
set_by_hand = $(or $(filter command,$(firstword $(origin $(1)))),\
  $(if $(call same,$(value $(1)),$(value DEFAULT_OF_$(1))),,yes))
# A local model is known by its digests and not by its place, which may change.
NAMED_SETTINGS := $(if $(call hub_id,$(MODEL)),$(ALWAYS_NAMED),$(filter-out MODEL,$(ALWAYS_NAMED))) \
  $(foreach v,$(BYTES_DEPEND_ON),$(if $(or $(call set_by_hand,$v),$(filter $v,$(SET_BY_DEMO))),$v))
# Without seals more is taken for known, such as whose questions a calibration text holds.
RELEASE_SETTINGS := $(call setting,BASE OLLAMA_PARAMS SCORED EVAL_NAME) $(if $(filter no,$(SEALS)),SEALS=no) \
  LICENSE=$(KNOWN_LICENSE) OWNER=$(KNOWN_OWNER) QUANTIZED_BY=$(KNOWN_QUANTIZER) \
  $(call setting,$(NAMED_SETTINGS)) $(ASKED_QUANTS) \
  $(if $(MMPROJ_FILES),$(call setting,MMPROJ)) $(if $(RELEASE_QUALITY),quality) \
  $(if $(RELEASE_FINDINGS),findings) $(if $(RELEASE_ACTIVE),active) $(DRAFT_FILE:%=draft) \
  $(if $(RELEASE_LOOPS),loops) $(patsubst %/scores.json,%,$(TASK_RECORDS))
# What is said of GGUF files has no place in the checkpoint's folder.
of_ggufs = $(if $(filter %/checkpoint,$(@D)),,$(1))
CARD_PICTURES = $(DRAWN) $(RELEASE_RECORDS:.json=.png) \
  $(call of_ggufs,$(PRUNED_GGUF)/imatrix-coverage.png $(RELEASE_QUALITY:.json=.png) $(RELEASE_ACTIVE:.json=.png))
# The other folders of the release, as KIND=REPOSITORY.
OTHERS := GGUF:standard=$(PRUNED_NAME)-GGUF dynamic-GGUF:dynamic=$(PRUNED_NAME)-dynamic-GGUF \
  checkpoint:checkpoint=$(PRUNED_NAME)
siblings_of = $(foreach f,$(filter-out $(1),$(notdir $(RELEASES))),$(patsubst $f:%,%,$(filter $f:%,$(OTHERS))))
# A release without scores and losses needs no F16 file of the full model.
KNOWN_FULL = $(if $(RELEASE_RECORDS)$(RELEASE_QUALITY)$(wildcard $(FULL_F16).json),--full-f16 $(FULL_F16).json)
OTHER_MAPS_BY_NUMBER = \
  $(foreach n,$(if $(OTHER_MAPS),$(shell seq $(words $(OTHER_MAPS)))),map-$n=$(word $n,$(OTHER_MAPS)))
FINDINGS_FLAGS = $(if $(RELEASE_FINDINGS),--findings $(RELEASE_FINDINGS) --findings-from model=$(FULL)/checkpoint \
  questions=$(QUESTIONS) measured=$(FINDINGS_PASS) $(OTHER_MAPS_BY_NUMBER))
BUILD_RELEASE = $(PYTHON) scripts/build_release.py --name $(PRUNED_NAME) --base $(BASE) $(KNOWN_LICENSE:%=--license %) \
  $(KNOWN_OWNER:%=--owner %) $(KNOWN_QUANTIZER:%=--quantized-by %) \
  --given-before $(RELEASE_SETTINGS_FILE) $(foreach v,LICENSE OWNER QUANTIZED_BY,$(call not_given,$v)) \
  --settings $(foreach v,$(NAMED_SETTINGS),'$v=$($v)') --metadata $(METADATA) \
  $(RELEASE_RECORDS:%=--scores %) $(FINDINGS_FLAGS) \
  --siblings $(call siblings_of,$(notdir $(@D))) \
  --pictures $(CARD_PICTURES) --questions $(sort $(QUESTIONS) $(EVAL_QUESTIONS) $(DOMAIN_FILES)) \
  --source $(FULL_SOURCE) --model-record $(MODEL_RECORD) --map $(DROP_MAP_FILE) \
  $(patsubst %/config.json,--given-model %,$(wildcard $(MODEL)/config.json)) \
  $(DROP_MAP:%=--own-map %) $(if $(DRAWN),--statistics $(STATS)) \
  $(call there,--sensitivity,$(SENSITIVITY)) \
  --f16 $(PRUNED_F16).json $(KNOWN_FULL) \
  --imatrix-record $(PRUNED_GGUF)/imatrix.gguf.json --calibration $(CALIBRATION_TEXT) \
  $(call there,--full-imatrix,$(FULL_GGUF)/imatrix.gguf.json) \
  $(if $(RELEASE_RECORDS),--runs $(FULL_EVAL) $(PRUNED_EVAL)) \
  --quants $(FULL_RECORDS) $(PRUNED_RECORDS) $(call of_ggufs,$(if $(RELEASE_QUALITY),--logits $(FULL)/logits)) \
  $(call of_ggufs,$(RELEASE_QUALITY:%=--quality %) $(RELEASE_ACTIVE:%=--active-experts %) \
  $(RELEASE_LOOPS:%=--loops % --loop-answers $(LOOP_ANSWERS) --loop-prompts $(LOOP_PROMPTS)) \
  $(if $(DRAFT),--draft $(DRAFT_FILE) --assistant $(ASSISTANT) --draft-results $(DRAFT_GAIN:.md=.json)) \
  $(call there,--mmproj,$(MMPROJ_FILES))) $(TASK_FLAGS) --output $(@D)
SIDECARS := --template $(wildcard modelfiles/gemma4-*.template) --params modelfiles/gemma4-$(OLLAMA_PARAMS).params.json

# The page is made of the records that there are when its turn comes. None is a prerequisite: make would bring it up to
# date, and that may be days of work. What this very call of make is asked for comes first.
REPORT_AFTER := $(call measure_first,eval,$(ASKED_SCORES)) $(MEASURED_FIRST) $(call measure_first,draft,$(DRAFT_GAIN)) \
  $(if $(filter release demo,$(MAKECMDGOALS)),$(RELEASES:%=%/manifest.json))
REPORT_RECORDS := $(call check_files,$(PRUNED),$(wildcard $(TASK_RECORDS) \
  $(STATS) $(DROP_MAP_FILE) $(METADATA) $(PRUNED_F16).json \
  $(PRUNED_GGUF)/*.gguf.json $(QUALITY) $(FINDINGS:.md=.json) $(LOOPS:.md=.json) $(SCORES) $(DRAFT_GAIN) $(ACTIVE)))
# All targets are secondary: one that is missing makes nothing stale that is newer than what it is made from.
missing = $(filter-out $(wildcard $(1)),$(1))
newer_than = $(if $(and $(1),$(2)),$(shell find $(2) -newer $(1) -print -quit))
NEW_RECORDS := $(call newer_than,$(wildcard $(REPORT)),$(REPORT_RECORDS))
# Likewise a release: what was measured since is in it, and nothing is measured for it.
NEW_RESULTS := $(call newer_than,$(firstword $(wildcard $(RELEASES:%=%/manifest.json))),$(wildcard \
  $(TASK_RECORDS) $(RELEASE_QUALITY) $(RELEASE_FINDINGS) $(RELEASE_LOOPS) $(RELEASE_ACTIVE)))
there = $(strip $(foreach f,$(2),$(shell [ -e '$f' ] && echo '$(1) $f')))
all_there = $(if $(word $(words $(2)),$(call there,,$(2))),$(1))
MMPROJ_RECORDS = $(call there,,$(MMPROJ_FILES:%=%.json))
REPORT_FLAGS = $(call all_there,--stats $(STATS),$(STATS) $(DROP_MAP_FILE)) \
  $(call there,--drop-map,$(DROP_MAP_FILE)) \
  $(call there,--metadata,$(METADATA)) $(call there,--f16,$(PRUNED_F16).json) \
  $(call there,--full-f16,$(FULL_F16).json) \
  $(call there,--imatrix,$(PRUNED_GGUF)/imatrix.gguf) \
  $(if $(PRUNED_RECORDS),--quants $(PRUNED_RECORDS)) \
  $(call there,--findings,$(FINDINGS:.md=.json)) $(call there,--loops,$(LOOPS:.md=.json)) \
  $(call there,--draft,$(DRAFT_GAIN:.md=.json)) $(call there,--active-experts,$(ACTIVE:.md=.json)) \
  $(if $(MMPROJ_RECORDS),--mmproj $(MMPROJ_RECORDS)) \
  $(call there,--quality,$(QUALITY:.md=.json)) $(call there,--scores,$(SCORES:.md=.json)) \
  $(call all_there,--summaries $(FULL_EVAL) $(PRUNED_EVAL),$(FULL_EVAL) $(PRUNED_EVAL)) \
  $(if $(TASK_RECORDS),--tasks $(TASK_RECORDS))
