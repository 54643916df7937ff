# The language test bed: a dense model's neurons as experts, and English questions. Both are made from packages of PyPI.

LANGUAGE := $(DOWNLOADS)/language
LANGUAGE_FILES := $(LANGUAGE)/model/README.md $(LANGUAGE)/calibration_questions.csv $(LANGUAGE)/eval_questions.csv
# Its own run makes it; every other run is free of it.
ifeq ($(MODEL),$(LANGUAGE)/model)
$(MODEL_SOURCE) $(MODEL_RECORD) $(CHECKED): | $(LANGUAGE)/model/README.md
endif

language-model: $(LANGUAGE_FILES) ## build the language test bed of RUN=language: 135M, split neurons (fetches 97 MB)
	$(SHOW) <$<

$(LANGUAGE_FILES) &: | $(SETUP) $(MARKER)
	$(call step,model,Build the language test bed) $(PYTHON) scripts/build_language_model.py \
	  --downloads $(DOWNLOADS) --output $(LANGUAGE)
