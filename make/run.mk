# The run: its settings file over the defaults of settings.mk, and what follows from both.

TARGETS := $(shell LC_ALL=C sed -nE 's/^([a-z][a-z-]*):.*/\1/p' Makefile make/*.mk | LC_ALL=C sort -u)
STAGES := model statistics choice imatrix cd auto eval tasks heldout quality findings loops draft quants report
# The shell sees these names: a file with other characters in its name is no run.
KNOWN_RUNS := $(sort $(shell printf '%s\n' runs/*.mk | LC_ALL=C sed -nE 's/^runs.([A-Za-z0-9._-]+)\.mk$$/\1/p'))
KNOWN_QUANTS := $(shell LC_ALL=C sed -nE 's/^    Recipe."([A-Z0-9_-]+)".*/\1/p' scripts/quants/recipes.py)
KNOWN_TASKS := $(shell LC_ALL=C sed -nE 's/^    "([a-z][a-z0-9_]+)": .*,/\1/p' scripts/scoring/eval_tasks.py)
KNOWN_CRITERIA := $(shell LC_ALL=C sed -nE 's/^    "([a-z-]+)": [a-z_]+,.*/\1/p' scripts/choice/criteria.py) random
OPTIONAL_QUANTS := $(shell LC_ALL=C sed -nE 's/^    Recipe."([A-Z0-9_-]+)".*opt_in=True.*/\1/p' \
  scripts/quants/recipes.py)

ifeq ($(filter new,$(MAKECMDGOALS))$(filter $(RUN),$(KNOWN_RUNS)),)
  $(error RUN: unknown run $(RUN); known: $(KNOWN_RUNS); to write one: make new RUN=$(RUN) FROM=demo)
endif
# The defaults, before a run changes them: the cards name what differs.
$(foreach v,$(SETTINGS),$(eval DEFAULT_OF_$v = $$(strip $(value $v))))
RUN_FILE := runs/$(if $(filter new,$(MAKECMDGOALS)),$(or $(FROM),demo),$(RUN)).mk
same = $(and $(findstring x$(strip $(1))x,x$(strip $(2))x),$(findstring x$(strip $(2))x,x$(strip $(1))x))
SEALS_WERE := $(foreach v,SEAL_KEY SEALS,$(origin $v) $(value $v))
-include $(RUN_FILE)
SET_BY_RUN := $(if $(wildcard $(RUN_FILE)),$(shell LC_ALL=C sed -nE 's/^([A-Z0-9_]+) *[:?]?=.*/\1/p' $(RUN_FILE)))
# Whose seals count says who runs make, and no file of a run, however it is spelled there.
$(if $(call same,$(SEALS_WERE),$(foreach v,SEAL_KEY SEALS,$(origin $v) $(value $v))),,$(error $(RUN_FILE): \
  expected SEAL_KEY and SEALS in the environment or on the command line$(,) found them there))
$(foreach v,$(filter-out $(SETTINGS),$(SET_BY_RUN)),$(error $(RUN_FILE): unknown setting $v; make help-all lists them))

# A comment behind a value leaves blanks at its end.
$(foreach v,$(SETTINGS),$(if $(filter file environment,$(origin $v)),$(eval $v = $$(strip $(value $v)))))

# What the run's file made of its settings goes where those of the command line go.
$(foreach v,$(SETTINGS),$(call check_text,$v,$($v)))

# A list or a text as one word, for a path or a settings file.
words_of = $(subst $() ,_,$(strip $(1)))
ALL_QUANTS := $(filter-out $(OPTIONAL_QUANTS),$(KNOWN_QUANTS))
ASKED_QUANTS := $(sort $(if $(filter all,$(QUANTS)),$(ALL_QUANTS)) $(filter-out all,$(QUANTS)))
# What follows from a replaced stage is replaced with it.
AFTER_model := $(STAGES)
AFTER_imatrix := cd auto eval tasks heldout quality loops
AFTER_choice := imatrix $(AFTER_imatrix) findings draft
AFTER_statistics := choice $(AFTER_choice)
REPLACED := $(sort $(REPLACE) $(foreach s,$(REPLACE),$(AFTER_$s)))
