# What can be refused before anything runs: names, values, files, and settings other than those a folder was made by.

DRY := $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS))))
# Those of the first two lines write nothing into BUILD. clean has a look of its own at what it removes.
NEVER_IN_BUILD := help help-all settings new status targets setup test lint lock audit sbom print-% \
  clean clean-gguf clean-tools
IN_BUILD := $(filter-out $(NEVER_IN_BUILD),$(MAKECMDGOALS))
ASIDE := $(NEVER_IN_BUILD) bench% rehearse rehearsal-table rehearse-cluster kill-test fault-test twice-test mutate
WORK := $(filter-out $(ASIDE),$(MAKECMDGOALS))

# ---- names: an unknown one is refused with the nearest known one
nearest = $(shell python3 -E make/nearest_name.py '$(1)' $(2))
unknown = $(error $(1): unknown $(3)$(if $(4),; did you mean $(4)?,; known: $(2)))
check_name = $(if $(filter $(1),$(2)),,$(call unknown,$(1),$(2),$(3),$(call nearest,$(1),$(2))))

$(foreach v,$(filter-out $(NOT_OURS),$(COMMAND_LINE)),$(call check_name,$v,$(SETTINGS),variable))
$(foreach g,$(MAKECMDGOALS),$(if $(or $(findstring /,$g),$(wildcard $g)),,$(call check_name,$g,$(TARGETS),target)))
$(foreach r,$(RUNS) $(FROM),$(if $(or $(findstring /,$r),$(wildcard $r)),,$(call check_name,$r,$(KNOWN_RUNS),run)))
$(foreach s,$(REPLACE),$(call check_name,$s,$(STAGES),stage in REPLACE))
$(call check_name,$(firstword $(subst :, ,$(CRITERION))),$(KNOWN_CRITERIA),criterion)
$(call check_name,$(TASK),$(KNOWN_TASKS),task)
KNOWN_PARAMS := $(patsubst modelfiles/gemma4-%.params.json,%,$(wildcard modelfiles/gemma4-*.params.json))
$(call check_name,$(OLLAMA_PARAMS),$(KNOWN_PARAMS),set of params)
$(foreach q,$(MMPROJ),$(call check_name,$q,F16 BF16 F32 Q8_0,type in MMPROJ))
NAMED_QUANTS := $(filter-out AUTO-%,$(ASKED_QUANTS) $(EVAL_QUANT) $(HELDOUT_QUANT) $(LOOP_QUANTS) $(TASK_QUANTS))
$(foreach q,$(NAMED_QUANTS) $(NO_IMATRIX) $(COMPARE_IMATRIX),$(call check_name,$q,$(KNOWN_QUANTS),quant))

# ---- values
# Its locks and seals would be those of the whole machine.
$(if $(filter /,$(abspath $(BUILD)) $(realpath $(BUILD))),$(error BUILD: expected a folder \
  for what is built$(,) found /))
$(if $(filter new,$(MAKECMDGOALS)),$(if $(filter RUN,$(COMMAND_LINE)),,$(error new: expected RUN=name$(,) found none)))
# Make would run the target of that name, and not look at the file.
$(foreach v,MODEL QUESTIONS EVAL_QUESTIONS CALIBRATION DROP_MAP OTHER_MAPS DRAFT TASK_DATA TASK_EXAMPLES RELEASE,\
  $(foreach f,$(filter-out /%,$($v)),$(if $(subst .,,$(subst /,,$(dir $f))),,\
    $(if $(filter $(notdir $f),$(TARGETS) FORCE),$(error $v: expected a file or folder$(,) found the target $f; write \
    its whole path)))))
$(if $(filter $(OTHER_FOLDERS),$(NAME)),$(error NAME: expected another name than that of a folder that all models \
  share$(,) found $(NAME)))
$(if $(filter full,$(VARIANT)),$(error VARIANT: expected another folder than the full model's$(,) found full))
must_be = $(foreach v,$(1),'$v' '$($v)' '$(2)' '$(3)')
COUNTS := $(if $(DROP_MAP)$(SHAPE),,KEEP) CTX MAX_GEN_TOKS NP LOCAL_SERVERS FOLDS RANKS COMPARE_SEEDS SAMPLES \
  SENSITIVITY_CHATS DRAFT_TOKENS DRAFT_QUESTIONS LOOP_SEEDS LOOP_TOKENS HOST_PATIENCE
NAME_CHARACTERS := letters, digits, dots, dashes, underscores
# A share in RECONSTRUCTION has one spelling, since it names a folder: .5 or 0.50 would make another beside 0.5.
RULES = $(call must_be,SCORED KEEP_F16 UPLOAD SEALS,^(yes|no)$$,yes or no) \
  $(call must_be,STREAM_LAYERS ALLOW_EMPTY_REASONING RECOMPUTE_FULL ACTIVE_SCORED,^(yes|no)?$$,yes$(,) no or nothing) \
  $(call must_be,LOW_DISK,^(yes|no|all)?$$,yes$(,) no$(,) all or nothing) \
  $(call must_be,LAYERS,^([1-9][0-9]*)?$$,a whole number above 0$(,) or nothing) \
  $(call must_be,NAME PRUNED_NAME VARIANT EVAL_NAME,^[A-Za-z0-9_][A-Za-z0-9._-]*$$,$(NAME_CHARACTERS)$(,)\
    no dot first) \
  $(call must_be,BASE,^[A-Za-z0-9._][A-Za-z0-9._-]*(/[A-Za-z0-9._][A-Za-z0-9._-]*)?$$,a Hub id OWNER/NAME or a name \
    ($(NAME_CHARACTERS))) \
  $(call must_be,LICENSE OWNER QUANTIZED_BY,^[A-Za-z0-9._-]*$$,$(NAME_CHARACTERS)) \
  $(call must_be,MODEL QUESTIONS EVAL_QUESTIONS,^[^[:space:]]+$$,a path without blanks) \
  $(call must_be,BUILD,^[^[:space:]~$(,)][^[:space:]$(,)]*$$,a path without blanks and commas$(,) and no ~ first) \
  $(call must_be,CALIBRATION SPILL DROP_MAP DRAFT LLAMA_CPP MOE_TOOLS_CACHE TASK_DATA TASK_EXAMPLES,^[^[:space:]]*$$,\
    a path without blanks) \
  $(call must_be,SEAL_KEY,^(~/)?[^~[:space:]]*$$,a path without blanks and without ~ but at its beginning) \
  $(call must_be,FOLDS SAMPLES,^[1-9][0-9]{0$(,)2}$$,a whole number from 1 to 999) \
  $(call must_be,$(COUNTS),^[1-9][0-9]*$$,a whole number above 0) \
  $(call must_be,PROTECT_TOP REASONING_BUDGET SEED GPU_LAYERS MIN_EXPERT_TOKENS,^[0-9]+$$,a whole number) \
  $(call must_be,QUALITY_CHATS,^([1-9][0-9]*)?$$,a whole number above 0$(,) or nothing) \
  $(call must_be,COMPARE_KEEP,^[1-9][0-9]*( [1-9][0-9]*)*$$,whole numbers above 0) \
  $(call must_be,BACKEND,^(llama[.]cpp|openai)$$,llama.cpp or openai) \
  $(call must_be,DRAFT_TYPE,^(F16|Q8_0|Q4_0)$$,F16$(,) Q8_0 or Q4_0) \
  $(call must_be,ACTIVE_EXPERTS,^([1-9][0-9]*( [1-9][0-9]*)*)?$$,whole numbers above 0) \
  $(call must_be,CRITERION,^[a-z-]+(:[0-9]+)?$$,a criterion such as coverage or random:1) \
  $(call must_be,RECONSTRUCTION,^(all|reply|0[.]([0-9]*[1-9]|0))?$$,all$(,) reply or a share of \
    the replies such as 0.5) \
  $(call must_be,FOLD,^([0-9]+/[0-9]+)?$$,I/K) \
  $(call must_be,CD_RECIPE,^(ours|card)$$,ours or card) \
  $(call must_be,CD_PROTECT,^(attention)?$$,attention or nothing) \
  $(call must_be,QUALITY_SCORE,^(reply|all)$$,reply or all) \
  $(foreach v,QUANTS EVAL_QUANT HELDOUT_QUANT LOOP_QUANTS TASK_QUANTS,\
    $(patsubst %,'$v' '%' '^AUTO-[0-9]+([.][0-9]+)?$$' 'AUTO-<GiB>',$(filter AUTO-%,$($v))))
# llama.cpp takes a file with such a word in its name for no model: the release would be refused (release/names.py).
NOT_A_MODEL = mmproj imatrix mtp- eagle3- dflash- dspark-
$(foreach v,NAME PRUNED_NAME,$(foreach w,$(NOT_A_MODEL),$(if $(findstring $w,$($v)),$(error $v: expected a name \
  without $w$(,) by which llama.cpp knows what is no model$(,) found $($v)))))
# MODEL-CD-Q8_0.gguf would be a file of the type CD-Q8_0, and the release would be refused.
$(foreach v,NAME PRUNED_NAME,$(if $(filter CD %-CD AUTO %-AUTO PAD %-PAD,$($v)),$(error $v: expected a name \
  without -CD$(,) -AUTO or -PAD at its end$(,) where they begin a type$(,) found $($v))))
# The order by reconstruction is made from all questions at once, in the analysis.
LEFT_OUT := $(if $(FOLD),FOLD) $(filter eval-heldout,$(MAKECMDGOALS))
$(if $(and $(filter reconstruction,$(CRITERION)),$(strip $(LEFT_OUT))),$(error CRITERION: expected another criterion \
  than reconstruction with $(strip $(LEFT_OUT))$(,) for its order is made from all QUESTIONS))
$(if $(and $(filter reconstruction,$(CRITERION)),$(if $(RECONSTRUCTION),,none)),$(error RECONSTRUCTION: \
  expected all$(,) reply or a share of the replies with CRITERION=reconstruction$(,) found nothing))
# Servers of others score checkpoints; the gates of a release make requests of llama.cpp again.
OPENAI_GOALS := $(if $(filter openai,$(BACKEND)),$(WORK))
$(if $(and $(OPENAI_GOALS),$(if $(SERVERS),,none)),$(error SERVERS: expected addresses \
  with BACKEND=openai$(,) found none))
# Before a step runs, whose command stands in the log. What is behind the host may be a password or a key, and is not
# shown.
BARE_SERVERS := $(patsubst https://%,%,$(patsubst http://%,%,$(SERVERS:%/=%)))
$(if $(strip $(foreach s,@ ? / \#,$(findstring $s,$(BARE_SERVERS)))),$(error SERVERS: expected addresses such as \
  http://a:8080$(,) without keys and paths$(,) found one with more; a key goes into SERVER_KEY))
$(if $(filter release demo check-release upload,$(OPENAI_GOALS)),$(error BACKEND: expected llama.cpp for a release$(,) \
  found openai))
$(if $(and $(filter eval,$(OPENAI_GOALS)),$(OTHER_TASK)),$(error BACKEND: expected llama.cpp with TASK=$(TASK)$(,) \
  whose scores are of GGUF files$(,) found openai))
# A card, and its command, tell question files apart by their names.
$(if $(filter release demo check-release upload,$(WORK)),$(if $(filter-out $(QUESTIONS),$(EVAL_QUESTIONS)),$(if \
  $(filter $(notdir $(QUESTIONS)),$(notdir $(EVAL_QUESTIONS))),$(error EVAL_QUESTIONS: expected another name \
  than that of QUESTIONS for a release$(,) found two files named $(notdir $(QUESTIONS))))))
# The folds are of QUESTIONS, which have GPQA's columns.
$(if $(and $(filter eval-heldout,$(MAKECMDGOALS)),$(filter-out gpqa_%,$(TASK))),$(error TASK: expected a task of GPQA \
  with eval-heldout$(,) whose folds are of QUESTIONS$(,) found $(TASK)))
# Asked for every goal, since settings stand in rules, which make reads for each. What nothing is made of may be empty.
broken_rule = $(shell LC_ALL=C; set -- $(RULES); while [ $$# -gt 0 ]; do \
  [[ "$$2" =~ $$3 $(if $(IN_BUILD),,|| -z "$$2") ]] || \
  { printf "%s: expected %s, found '%s'" "$$1" "$$4" "$${2//[^[:print:]]/?}"; break; }; shift 4; done)

BROKEN := $(broken_rule)
$(if $(BROKEN),$(error $(BROKEN)$(if $(filter-out command,$(firstword $(origin RUN)))$(RUN), (run $(RUN)))))
ifneq ($(WORK),)
  OWN_FILES := $(filter-out $(DOWNLOADS)/% v5,$(QUESTIONS) $(EVAL_QUESTIONS) $(CALIBRATION) \
    $(DROP_MAP) $(OTHER_MAPS) $(TASK_DATA) $(TASK_EXAMPLES))
  $(foreach f,$(OWN_FILES),$(if $(wildcard $f),,$(error $f: expected a file, found nothing)))
  $(if $(DRAFT),$(if $(or $(call hub_id,$(DRAFT)),$(wildcard $(DRAFT))),,$(error $(DRAFT): expected an assistant$(,) a \
    directory or a Hub id OWNER/NAME$(,) found nothing; DRAFT names it)))
endif

# ---- the stages that each target comes by
SPECIAL_QUANTS = $(if $(filter CD-%,$(1)),cd) $(if $(filter AUTO-%,$(1)),auto)
TOUCHED_BY_analyze := statistics choice
TOUCHED_BY_drop := $(TOUCHED_BY_analyze)
TOUCHED_BY_verify := $(TOUCHED_BY_analyze)
TOUCHED_BY_reproduce := $(TOUCHED_BY_analyze)
TOUCHED_BY_imatrix := $(TOUCHED_BY_analyze) imatrix
TOUCHED_BY_quants := $(TOUCHED_BY_imatrix) $(call SPECIAL_QUANTS,$(ASKED_QUANTS))
TOUCHED_BY_scores := $(if $(OPENAI),$(TOUCHED_BY_analyze) eval,$(TOUCHED_BY_imatrix) eval \
  $(call SPECIAL_QUANTS,$(EVAL_QUANT)))
TOUCHED_BY_tasks := $(TOUCHED_BY_imatrix) tasks $(call SPECIAL_QUANTS,$(EVAL_QUANT) $(TASK_QUANTS))
TOUCHED_BY_eval := $(if $(OTHER_TASK),$(TOUCHED_BY_tasks),$(TOUCHED_BY_scores))
TOUCHED_BY_release := $(TOUCHED_BY_quants) $(TOUCHED_BY_scores) $(if $(DRAFT),draft)
TOUCHED_BY_demo := $(TOUCHED_BY_release)
TOUCHED_BY_check-release := $(TOUCHED_BY_release)
TOUCHED_BY_quality := $(TOUCHED_BY_quants) quality
TOUCHED_BY_draft := $(TOUCHED_BY_imatrix) draft $(call SPECIAL_QUANTS,$(EVAL_QUANT))
TOUCHED_BY_loops := $(TOUCHED_BY_imatrix) loops $(call SPECIAL_QUANTS,$(EVAL_QUANT) $(LOOP_QUANTS))
TOUCHED_BY_active-experts := $(TOUCHED_BY_draft)
TOUCHED_BY_findings := $(TOUCHED_BY_analyze) findings
TOUCHED_BY_compare-cd-scopes := $(TOUCHED_BY_quants) cd quality
TOUCHED_BY_compare-imatrix := $(TOUCHED_BY_imatrix) quality $(call SPECIAL_QUANTS,$(COMPARE_IMATRIX))
TOUCHED_BY_compare-criteria := statistics quality
TOUCHED_BY_eval-heldout := statistics imatrix heldout $(call SPECIAL_QUANTS,$(HELDOUT_QUANT))

# ---- settings: each stage folder says what its bytes depend on. A run that asks for others is refused, or replaces it.
# Precious: of two runs at once, one that ends by an error would delete what the other has written.
TO_TARGET = make/to_target.sh $@
# $(call guard,STAGE,FILE,SETTINGS,WHAT REPLACE SETS ASIDE) keeps SETTINGS, words KEY=value, in FILE, written before the
# stage's outputs. These depend on it order-only and on $(call again,STAGE): its time alone, which a copy of the folder
# changes, makes nothing again.
again = $(if $(filter $(1),$(REPLACED)),FORCE)
# A file that is downloaded by a pinned revision is known by its name.
digest = $(notdir $(1))$(if $(filter-out $(DOWNLOADS)/%,$(wildcard $(1))),:$(shell sha256sum <'$(1)' | cut -c 1-12))
setting = $(foreach v,$(1),$v=$(call words_of,$($v)))
WAY_OUT_statistics := give the question file another name
WAY_OUT_eval = give it a name of its own, such as EVAL_NAME=$(EVAL_QUANT)-2
SHARED_BY = $(if $(filter $(FULL)/%,$(2)),$(,) for all runs of $(NAME))
ways_out = $(or $(WAY_OUT_$(1)),choose another RUN or VARIANT), or add REPLACE=$(1) to make it again$(SHARED_BY)
# Only the stages that are asked for are compared.
TOUCHED = $(foreach g,$(or $(WORK),none),$(if $(findstring /,$g),$(STAGES),$(TOUCHED_BY_$g)))
TO_COMPARE := $(filter-out $(REPLACED),$(TOUCHED))
# A kill or a refused input can leave the file alone, even empty: then nothing was made by it, and others may take over.
made = $(filter-out %.txt %/plan.json,$(wildcard $(1)))
differs = $(if $(and $(filter $(TO_COMPARE),$(1)),$(call made,$(4))),$(if $(file <$(2)),\
  $(call compare,$(1),$(2),$(3),$(file <$(2))),$(call lost,$(1),$(2))))
lost = $(error $(2): expected the settings of what lies there$(,) found none; $(call ways_out,$(1),$(2)))
taken_over = $(if $(call made,$(3)),,$(if $(filter-out $(2),$(file <$(1)))$(filter-out $(file <$(1)),$(2)),FORCE))
compare = $(if $(filter-out $(3),$(4))$(filter-out $(4),$(3)),$(error $(2): \
  expected $(or $(filter-out $(4),$(3)),nothing else)$(,) \
  found $(if $(call controls_in,$(4)),control characters,$(or $(filter-out $(3),$(4)),nothing of it)); \
  $(call ways_out,$(1),$(2))))

define guard
$(call differs,$(1),$(2),$(3),$(4))
.PRECIOUS: $(2)
$(2): $(call again,$(1)) $(call taken_over,$(2),$(3),$(4)) | $(MARKER)
	@mkdir -p $$(@D)$(if $(call again,$(1)), && $(call set_aside,$(2),$(4))) && printf '%s\n' $(3:%='%') | $$(TO_TARGET)
endef
# Of two runs that replace, each would take away what the other makes. A step at work holds a lock on its log; another
# look of this kind holds it for a moment. A locale can have another sign in 0.3.
find_at_work = for log in '$(BUILD)/$(NAME)'/*/logs/*.log; do \
  [ ! -f "$$log" ] || LC_ALL=C flock -w 0.3 -E 9 "$$log" true || [ $$? -ne 9 ] || { printf %s "$$log"; break; }; done
AT_WORK := $(if $(and $(filter-out model quants report,$(REPLACED)),$(WORK)),$(if \
  $(COUNTING)$(DRY),,$(shell $(find_at_work))))
$(if $(AT_WORK),$(error REPLACE: expected no other run at work on $(NAME)$(,) \
  found $(AT_WORK); wait for its end))

# What REPLACE takes away, settings included, is moved and not deleted: the step may still refuse an input, and then it
# is put back (scripts/stages/set_aside.py). What lies aside already is older and whole, since the folder gets its name
# last; what a broken-off step has made since goes. $(call set_aside,SETTINGS FILE,FILES); "$$@" are the FILES that are
# there, the last by name first: summary.json, which says that all is there, goes before the answers. Their names may
# have blanks. A run that was broken off here, as by a full disk, is gone on with.
aside = $(dir $(1)).before-$(basename $(notdir $(1)))
no_room = { printf 'error: %s: expected room to set aside what REPLACE takes away, found none\n' $(dir $(1)) >&2; \
  false; }
set_aside = { set --; for f in $(2); do if [ -e "$$$$f" ] || [ -L "$$$$f" ]; then set -- "$$$$f" "$$$$@"; fi; done; \
  if [ -d $(call aside,$(1)) ]; then rm -rf -- "$$$$@"; elif [ "$$$${1+any}" ] || [ -d $(call aside,$(1)).new ]; then \
  mkdir -p $(call aside,$(1)).new && { [ ! -e $(1) ] || cp -p $(1) $(call aside,$(1)).new 2>/dev/null || \
  $(call no_room,$(1)); } && for f in "$$$$@"; do rm -rf -- $(call aside,$(1)).new/"$$$${f\#\#*/}" && \
  mv -- "$$$$f" $(call aside,$(1)).new || exit; done && \
  mv -- $(call aside,$(1)).new $(call aside,$(1)); fi; }

# What may change freely (lists, names on a card) stands in such a file, too; it is written anew when it changes, and
# what depends on it follows. $(call remember,FILE,WORDS)
define remember
.PRECIOUS: $(1)
$(1): $(if $(filter-out $(2),$(file <$(1)))$(filter-out $(file <$(1)),$(2))$(if $(wildcard $(1)),,none),FORCE) \
    | $(MARKER)
	@mkdir -p $$(@D) && printf '%s\n' $(2:%='%') | $$(TO_TARGET)
endef
