# How a step shows: one line with its place among the steps that are left, its result and its time; all else in a log.
# $(call step,STAGE,Words) stands before a command. A dry run (make -n) shows the bare commands, ready to paste.

STEP_NUMBER :=
next_step = $(eval STEP_NUMBER += x)$(words $(STEP_NUMBER))
# Counted once, when the first step begins: how many a dry run of the same goals would take.
count_steps = $(shell $(MAKE) -n COUNTING=yes $(MAKECMDGOALS) $(OVERRIDES) 2>/dev/null | grep -c "^: 'step")
STEP_COUNT = $(eval STEP_COUNT := $(count_steps))$(STEP_COUNT)

ifdef COUNTING
  step = : 'step|$(1)|$(2)|$@|' ;
else ifdef DRY
  step =
else
  MODEL_HERE := $(patsubst %/config.json,%,$(wildcard $(MODEL)/config.json))
  STEP_FLAGS = --logs $(LOGS) --disk $(BUILD)/$(NAME) $(MODEL_HERE) $(V:%=--echo) \
    $(if $(REPLACE),--replacing) $(foreach f,$(filter %settings.txt,$|),--aside $(call aside,$f))
  RUN_STEP := $(PYTHON) scripts/run_step.py
  # What another host made since then is not made again. An older bash knows whole seconds alone.
  BEGAN := $(shell echo $${EPOCHREALTIME:-$$(date +%s)})
  TURN = --target $@ --began $(BEGAN) --patience $(HOST_PATIENCE)
  step = @$(RUN_STEP) --place $(next_step)/$(STEP_COUNT) $(STEP_FLAGS) --stage $(1) $(TURN) --words '$(2)' --
endif

# What is said only when something was really asked for: the first line names the run, the last ones what came out.
ifneq ($(WORK)$(filter status,$(MAKECMDGOALS)),)
  ifeq ($(COUNTING)$(DRY),)
    RUN_IN_WORDS := $(RUN)$(if $(filter file,$(origin RUN)), (no RUN given))
    COMPARED := $(if $(filter compare,$(MAKECMDGOALS)),$(RUNS))
    KEEP_IN_WORDS := $(if $(KEEP), with $(KEEP) experts kept per layer)
    SUBJECT := $(if $(SHAPE),Shape $(SHAPE),Run $(RUN_IN_WORDS): $(MODEL))
    $(info $(if $(COMPARED),Runs $(COMPARED),$(SUBJECT)$(KEEP_IN_WORDS); settings: $(RUN_FILE)))
    OLD_BUILDS := $(wildcard $(BUILD)/$(NAME)/*/keep*)
    $(if $(OLD_BUILDS),$(info $(BUILD)/$(NAME): outputs of an older version (*/keep*); they are left alone))
  endif
endif
# A page of the build folder, without what a terminal obeys: anybody can have edited it.
SHOW := @LC_ALL=C sed -E 's/[\x01-\x08\x0b-\x1f\x7f]//g; s/\xc2+[\x80-\x9f]+//g'
RUN_NAMED := $(if $(filter RUN,$(COMMAND_LINE)),--run $(RUN))
closing = $(if $(DRY),,@$(PYTHON) scripts/show_results.py --after $(1) --page $(REPORT) $(RUN_NAMED) $(2))
