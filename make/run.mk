# The run: its settings file over the defaults of settings.mk, and what follows from both.

SETTINGS := $(shell sed -nE 's/^([A-Z0-9_]+) \??=.*\#.*/\1/p' make/settings.mk)
TARGETS := $(shell sed -nE 's/^([a-z][a-z-]*):.*/\1/p' Makefile make/*.mk | sort -u)
STAGES := model statistics choice imatrix cd auto eval heldout quality
KNOWN_RUNS := $(sort $(basename $(notdir $(wildcard runs/*.mk))))
KNOWN_QUANTS := $(shell sed -nE 's/^    Recipe."([A-Z0-9_-]+)".*/\1/p' scripts/quants/recipes.py)
OPTIONAL_QUANTS := $(shell sed -nE 's/^    Recipe."([A-Z0-9_-]+)".*opt_in=True.*/\1/p' scripts/quants/recipes.py)

ifeq ($(filter new,$(MAKECMDGOALS))$(filter $(RUN),$(KNOWN_RUNS)),)
  $(error RUN: unknown run $(RUN); known: $(KNOWN_RUNS); make new RUN=$(RUN) FROM=demo writes one)
endif
RUN_FILE := runs/$(if $(filter new,$(MAKECMDGOALS)),$(or $(FROM),demo),$(RUN)).mk
include $(RUN_FILE)
SET_BY_RUN := $(shell sed -nE 's/^([A-Z0-9_]+) *[:?]?=.*/\1/p' $(RUN_FILE))
$(foreach v,$(SET_BY_RUN),$(if $(filter $v,$(SETTINGS)),,$(error $(RUN_FILE): unknown setting $v; make help-all lists them)))

# A comment behind a value leaves blanks at its end.
$(foreach v,$(SETTINGS),$(if $(filter file environment,$(origin $v)),$(eval $v = $$(strip $(value $v)))))

ASKED_QUANTS := $(sort $(if $(filter all,$(QUANTS)),$(filter-out $(OPTIONAL_QUANTS),$(KNOWN_QUANTS))) $(filter-out all,$(QUANTS)))
# What follows from a replaced stage is replaced with it.
REPLACED := $(sort $(REPLACE) $(if $(filter model,$(REPLACE)),$(STAGES)) \
  $(if $(filter statistics,$(REPLACE)),choice imatrix cd auto eval heldout quality) \
  $(if $(filter choice,$(REPLACE)),imatrix cd auto eval heldout quality) $(if $(filter imatrix,$(REPLACE)),cd auto eval heldout quality))
