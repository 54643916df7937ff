# What comes from outside is text and nothing else: settings of the command line, of the environment and of a run's
# file, and names of files. Make puts it into rules and shell commands, so what either of them would act on is refused,
# before anything is run. No setting needs it. (A run's file itself is read by make: it may say $(DOWNLOADS), or run a
# command.)

SETTINGS := $(shell LC_ALL=C sed -nE 's/^([A-Z0-9_]+) \??=.*\#.*/\1/p' make/settings.mk)
quote := '
, := ,
define LINE_END


endef
ACTING := ; & | < > ( ) { } [ ] * ? ` " \ % \# $(quote) $$
ACTING_IN_CMAKE_ARGS := $(filter-out ;,$(ACTING))
ACTING_IN_DOMAIN_COLUMN := ` " \ $(quote) $$
# A colon ends a target, and an equals sign sets a variable, where a setting stands in a rule.
NO_EQUALS := $(filter-out DOMAIN_COLUMN CMAKE_ARGS,$(SETTINGS))
NO_COLON := $(filter-out CRITERION DOMAINS SERVERS,$(NO_EQUALS))
# A terminal obeys them; the last one is U+009B.
CONTROLS := $(shell printf '%b ' '\'{00{1..7},01{0,6,7},02{0..7},03{0..7},177,302\\233})
acting_in = $(firstword $(foreach c,$(or $(ACTING_IN_$(1)),$(ACTING)) $(if $(filter $(1),$(NO_COLON)),:) \
  $(if $(filter $(1),$(NO_EQUALS)),=),$(findstring $c,$(2))) \
  $(if $(call controls_in,$(2)),control) $(if $(findstring $(LINE_END),$(2)),line-end) \
  $(if $(filter-out CMAKE_ARGS,$(1)),$(patsubst -%,-,$(filter -%,$(2)))))
controls_in = $(strip $(foreach c,$(CONTROLS),$(findstring $c,$(1))))
what_acts = $(or $(if $(filter -,$(1)),a word that begins with -),$(subst control,a control character,$(subst \
  line-end,a line end,$(1))))
shown = $(if $(call controls_in,$(2)),it,$(subst $(LINE_END), ,$(2)))
# $(call check_text,NAME,TEXT) refuses a setting; $(call check_files,NAME,FILES) refuses files by their names.
check_text = $(if $(call acting_in,$(1),$(2)),$(error $(1): expected text without signs that make or the shell act \
  on$(,) found $(call what_acts,$(call acting_in,$(1),$(2))) in $(call shown,$(1),$(2))))
# A file may come to stand in a rule; check_words is for words that stand in a file of the build folder.
check_files = $(call check_found,$(1),$(2),$(or $(call acting_in,$(1),$(2)),\
  $(firstword $(foreach c,: =,$(findstring $c,$(2))))))
check_words = $(call check_found,$(1),$(2),$(call acting_in,$(1),$(2)))
check_found = $(if $(3),$(error $(1): expected names of files without signs that make or the shell act on$(,) \
  found one with $(call what_acts,$(3))))$(2)

# Unexpanded: to look at the value of a $(shell ...) would run it.
FROM_OUTSIDE := $(foreach v,$(SETTINGS),$(if $(filter-out file default undefined,$(firstword $(origin $v))),$v))
$(foreach v,$(FROM_OUTSIDE),$(call check_text,$v,$(value $v)))
$(call check_text,target,$(MAKECMDGOALS))
COMMAND_LINE := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $v))),$v))
NOT_OURS := MAKEFLAGS MAKEOVERRIDES COUNTING -*
$(foreach v,$(filter-out $(NOT_OURS),$(COMMAND_LINE)),$(call check_text,variable,$v))
$(foreach v,RUN FROM,$(if $(or $(findstring /,$($v)),$(word 2,$($v))),\
  $(error $v: expected a name$(,) found $($v))))
# For a make that this one starts. Make's own list of them is not quoted for a shell.
OVERRIDES = $(foreach v,$(filter-out $(NOT_OURS),$(COMMAND_LINE)),'$v=$(value $v)')
