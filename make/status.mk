# Where a run stands, and what a person asks about it: help, settings, a new run, the machine, status, cleaning up.

EVERY_DAY := doctor plan analyze drop quants eval release report compare draft active-experts status
EVERY_DAY_SETTINGS := RUN MODEL KEEP QUESTIONS CALIBRATION QUANTS EVAL_QUANT REPLACE
# A target's or a setting's name and its comment, a line each.
DESCRIBED := LC_ALL=C sed -nE 's/^([a-z][a-z-]*):.*[^\#]\#\# (.*)/\1|\2/p' Makefile make/*.mk
DESCRIBED_SETTINGS := LC_ALL=C sed -nE 's/^([A-Z0-9_]+) \??=[^\#]*\#+ *(.*)/\1|\2/p' make/settings.mk
IN_COLUMNS := awk -F'|' '{printf "  %-18s %s\n", $$1, $$2}'

help: ## the targets and settings of every day
	@printf 'make TARGET [RUN=name] [SETTING=value]     without RUN: the embedded demo\n\nEvery day\n'
	@for name in $(EVERY_DAY); do $(DESCRIBED) | grep "^$$name|"; done | $(IN_COLUMNS)
	@printf '\nSettings (runs/NAME.mk holds those of a run; make new RUN=my-run FROM=demo writes one)\n'
	@for name in $(EVERY_DAY_SETTINGS); do $(DESCRIBED_SETTINGS) | grep "^$$name|"; done | $(IN_COLUMNS)
	@printf '\nRuns: $(KNOWN_RUNS)\nAll others: make help-all. Start with: make analyze\n'

help-all: ## every target and every setting
	@printf 'Targets\n'
	@$(DESCRIBED) | LC_ALL=C sort | $(IN_COLUMNS)
	@printf '\nSettings, by stage (make settings prints their values)\n'
	@LC_ALL=C sed -nE -e 's/^# ---- (.*)/\n\1/p' \
	  -e 's/^([A-Z0-9_]+) \??=([^#]*)#+ *(.*)/  \1|\3 [\2]/p' make/settings.mk | \
	  sed -E -e 's/ \[ +/ [/' -e 's/ \[([^]]*\$$.*)?\]$$//' | \
	  awk -F'|' 'NF > 1 {printf "%-20s %s\n", $$1, $$2; next} {print}'

# Marked with *: what the run's file or the command line sets.
settings: ## every setting's value for this run; * marks those that the run or the command line sets
	@$(foreach v,$(SETTINGS),printf '%s %-18s = %s\n' '$(if $(filter $v,$(SET_BY_RUN) $(COMMAND_LINE)),*, )' '$v' '$($v)';)

new: $(SETUP) ## write the settings file of a run: make new RUN=my-run FROM=demo
	@$(PYTHON) scripts/new_run.py --from $(RUN_FILE) --output runs/$(RUN).mk

doctor: $(SETUP) ## is this machine fit for the run: tools, disk, memory, GPU, access to model and questions
	@$(CHECK_MACHINE)

# What has been fetched is looked at where it lies: no network is needed for it any more.
CHECK_MACHINE = $(PYTHON) scripts/check_machine.py $(KNOWN_LICENSE:%=--license %) \
  --model $(if $(strip $(NEW_MODEL)),$(MODEL),$(FULL)/checkpoint) \
  $(if $(DRAFT),--draft $(if $(wildcard $(ASSISTANT)/config.json),$(ASSISTANT),$(DRAFT))) \
  --questions $(if $(filter $(DOWNLOADS)/gpqa%,$(QUESTIONS)),$(or $(wildcard $(QUESTIONS)),gpqa),$(QUESTIONS)) \
  $(addprefix --eval-questions ,$(filter-out $(QUESTIONS),$(EVAL_QUESTIONS))) \
  --build $(BUILD) --low-disk $(or $(LOW_DISK),no) --stream-layers $(or $(STREAM_LAYERS),no) \
  $(if $(DROP_MAP),,$(KEEP:%=--keep %) --protect-top $(PROTECT_TOP)) \
  --quants $(ASKED_QUANTS) \
  --reference-quants $(EVAL_QUANT) $(LLAMA_CPP:%=--llama-cpp %) --cmake-args='$(CMAKE_ARGS)' \
  $(if $(wildcard $(PLAN)),--plan $(PLAN))
# Before the first long step, without being asked; its report is in the log.
$(CHECKED): | $(SETUP) $(MARKER)
	$(call step,model,Check this machine) $(CHECK_MACHINE) $(if $(filter release demo,$(MAKECMDGOALS)),--releases)
	@mkdir -p $(@D) && touch $@

# A folder in which somebody keeps other things is not marked: clean would take them for ours by their names. Below the
# project all that begins with build is ours; disks and desktops put names of their own everywhere. Another run may have
# marked it just now.
OF_DISKS := lost+found .snapshot .zfs .nfs* .fuse_hidden* .DS_Store .Trash* .Spotlight-* .fseventsd
$(MARKER):
	@mkdir -p $(@D); other=$$(find $(@D)/ -mindepth 1 -maxdepth 1 $(OF_DISKS:%=! -name '%') -print -quit); \
	  case "$$(realpath $(@D))" in "$$(pwd -P)"/*) ;; *) [ -z "$$other" ] || [ -e $@ ] || { \
	    printf 'error: %s: expected a new or an empty folder, or one of this project, found %q in it; ' $(@D) "$$other"; \
	    echo 'set BUILD to a new one, such as $(@D)/build'; exit 1; } >&2 ;; esac; touch $@
# So is that of what writes no part of a model.
MARKED_TOO := plan rehearse rehearsal-table rehearse-cluster kill-test fault-test twice-test mutate
$(MARKED_TOO) $(filter bench%,$(TARGETS)): | $(MARKER)

joined = $(subst $() ,$(,),$(strip $(1)))
# Loops are looked for when asked: only what was measured once can be stale. Of a shape every step is planned, whatever
# the run has done: as of a model whose name nothing has.
STEPS_LEFT = $(MAKE) -n COUNTING=yes release $(if $(wildcard $(LOOPS)),loops) $(if $(OTHER_TASK),eval) \
  $(OVERRIDES) $(if $(SHAPE),NAME=shape-$(SHAPE)) | \
  sed -nE "s/^: '(step\|[^']*)'.*/@\1/p" | tr '|' '\t'
# All further tasks that were scored, and the one that this call names.
TASK_PAGES = $(sort $(TASK_RECORDS:.json=.md) $(if $(OTHER_TASK),$(TASK_SCORES)))
status: $(SETUP) ## each stage: done, stale, missing or running; what comes next and what it needs
	@steps=$$($(STEPS_LEFT)); printf '%s\n' "$$steps" | $(PYTHON) scripts/show_status.py \
	  --logs $(LOGS) $(if $(wildcard $(PLAN)),--plan $(PLAN)) \
	  --stream-layers $(or $(STREAM_LAYERS),no) \
	  --stage model=$(FULL)/checkpoint --stage statistics=$(STATS) --stage choice=$(DROP_MAP_FILE) \
	  --stage drop=$(CHECKPOINT) --stage imatrix=$(PRUNED_GGUF)/imatrix.gguf --stage quants=$(call joined,$(QUANT_FILES)) \
	  $(if $(MMPROJ_FILES),--stage mmproj=$(call joined,$(MMPROJ_FILES))) \
	  --stage eval=$(SCORES) \
	  $(if $(TASK_PAGES),--stage tasks=$(call joined,$(TASK_PAGES))) --stage loops=$(LOOPS) \
	  $(if $(DRAFT),--stage draft=$(call joined,$(DRAFT_FILE) $(DRAFT_GAIN))) \
	  $(if $(wildcard $(ACTIVE)),--stage active-experts=$(ACTIVE)) --stage report=$(REPORT) \
	  --stage release=$(call joined,$(RELEASES))

demo: $(RELEASES:%=%/manifest.json) $(REPORT) ## everything on the embedded demo
	$(call closing,eval,$(SCORES:.md=.json))
	$(call closing,release,$(RELEASES))

clean: $(SETUP) ## list what has been built (by RUN alone, where it is given); with YES=1 delete it
	@$(PYTHON) scripts/clean_build.py --build $(BUILD) \
	  --what $(if $(filter RUN VARIANT,$(COMMAND_LINE)),$(PRUNED),all) $(if $(filter 1 yes,$(YES)),--yes)

clean-gguf: $(SETUP) ## list this model's GGUF files; with YES=1 delete them, their records stay
	@$(PYTHON) scripts/clean_build.py --build $(BUILD) --what gguf $(BUILD)/$(NAME) $(if $(filter 1 yes,$(YES)),--yes)

clean-tools: ## show where the llama.cpp tools lie; with YES=1 delete them
	@printf '%s\n' '$(or $(TOOLS_PLACE),$(LLAMA_CPP): yours, left alone)'
	$(if $(and $(filter 1 yes,$(YES)),$(TOOLS_PLACE)),@rm -rf -- '$(TOOLS_PLACE)')
