# The environment. Make takes each of its variables for one of its own: $(shell ...) in it would run where our files ask
# for that name before they set it, and a COUNTING of another tool's would keep all steps from running. So what has a
# name that our files know is neither seen nor handed on, but for what they let the environment set (by ?=). All
# else is handed on as it is, unread.

override from_environment = $(filter environment,$(firstword $(origin $(1))))
# Make's own, which it leaves to the environment where that has them. The last three it expands for each shell. Of these
# MAKEOVERRIDES counts as of the environment where the command line has settings, which then is the value of the next.
override MAKES_OWN := MAKE_COMMAND MAKECMDGOALS MAKEOVERRIDES -*-command-variables-*- -*-eval-flags-*-
$(foreach v,$(MAKES_OWN),$(if $(call from_environment,$v),\
  $(if $(filter-out $${-*-command-variables-*-},$(value $v)),$(error $v: expected the value that make gives it; \
  found one in the environment))))
# Without a shell all that follows would be empty, and the first to complain would blame a setting.
$(if $(shell echo yes),,$(error bash: expected on PATH; found none))
# In Turkish, and some languages more, [A-Z] has no I: so letters are those of C, here and wherever make asks sed.
# Asked for, by $(NAME) or a function of NAME, or set; $$NAME is the shell's.
override NAMES_HERE := ${shell sed -E -e 's/\#.*//' -e 's/[$$][$$]//g' -e 's/[$$][(](call|value|origin) */$$(/g' \
  -e 's/^ *((else +)?ifn?def|override|define|unexport) +/$$(/' Makefile make/*.mk | \
  LC_ALL=C grep -oE '[$$][(]?[A-Za-z_][A-Za-z0-9_]*|^ *[A-Za-z_][A-Za-z0-9_]* *[:+?]?=' | \
  LC_ALL=C grep -oE '[A-Za-z_]\w*' | LC_ALL=C sort -u}
override TAKEN_FROM_IT := $(shell LC_ALL=C sed -nE 's/^([A-Z0-9_]+) \?=.*/\1/p' make/*.mk) MAKE% SHELL
# Some names are made of two parts, such as AFTER_ and a stage.
override BEGINNINGS := $(addsuffix %,$(filter-out _,$(filter %_,$(NAMES_HERE))))
$(foreach v,$(filter-out $(TAKEN_FROM_IT),$(NAMES_HERE) $(filter $(BEGINNINGS),$(.VARIABLES))),\
  $(if $(findstring $$,$v),,$(if $(call from_environment,$v),$(eval override undefine $v))))
override MAKE = $(MAKE_COMMAND)
