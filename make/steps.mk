# How a step shows: one line with its place among the steps that are left, its result and its time; all else in a log.
# $(call step,STAGE,Words) stands before a command. A dry run (make -n) shows the bare commands, ready to paste.

STEP_NUMBER :=
next_step = $(eval STEP_NUMBER += x)$(words $(STEP_NUMBER))
# Counted once, when the first step begins: how many a dry run of the same goals would take.
count_steps = $(shell $(MAKE) -n --no-print-directory COUNTING=yes $(MAKECMDGOALS) $(MAKEOVERRIDES) 2>/dev/null | grep -c "^: 'step")
STEP_COUNT = $(eval STEP_COUNT := $(count_steps))$(STEP_COUNT)

ifdef COUNTING
  step = : 'step|$(1)|$(2)|$@|' ;
else ifdef DRY
  step =
else
  step = @$(PYTHON) scripts/run_step.py --place $(next_step)/$(STEP_COUNT) --logs $(LOGS) $(if $(V),--echo) --words '$(2)' --
endif

# What is said only when something was really asked for: the first line names the run, the last ones what came out.
ifneq ($(WORK),)
  ifeq ($(MAKELEVEL)$(COUNTING)$(DRY),0)
    $(info Run $(RUN)$(if $(filter file,$(origin RUN)), (no RUN given)): $(MODEL)$(if $(KEEP), with $(KEEP) experts kept per layer); settings: $(RUN_FILE))
    $(if $(wildcard $(BUILD)/$(NAME)/*/keep*),$(info $(BUILD)/$(NAME)/*/keep*: outputs of an older version; they are left alone))
  endif
endif
closing = $(if $(DRY),,@$(PYTHON) scripts/show_results.py --after $(1) --page $(REPORT) $(if $(filter command,$(firstword $(origin RUN))),--run $(RUN)) $(2))
