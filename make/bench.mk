# Measurements against the limits, on generated layers of the 26B's sizes: ratios and peak memory, as tables and in
# build/bench/. They take 30 GB of disk; make -k goes on after a broken limit.

BENCH := $(BUILD)/bench

bench: bench-analysis bench-drop bench-quantize bench-eval bench-servers ## speed and memory against limits (30 GB disk)

bench-layers: $(TOOLS)
	$(PYTHON) bench/generate_checkpoint.py --tokenizer data/demo/model --output $(BENCH)/checkpoints

bench-analysis: bench-layers ## the analysis against a plain forward pass
	$(PYTHON) bench/bench_analysis.py --checkpoints $(BENCH)/checkpoints --output $(BENCH)/analysis.json

bench-drop: bench-layers ## dropping against cp
	$(PYTHON) bench/bench_drop.py --checkpoint $(BENCH)/checkpoints/4 --output $(BENCH)/drop.json

bench-quantize: bench-layers ## quantize_gguf.py against llama-quantize alone
	$(PYTHON) bench/bench_quantize.py --checkpoint $(BENCH)/checkpoints/2 --output $(BENCH)/quantize.json

bench-eval: $(TOOLS) ## the evaluation against bare requests
	$(PYTHON) scripts/convert_to_gguf.py --model data/demo/model --name gemma-4-demo --output $(BENCH)/demo-F16.gguf
	$(PYTHON) bench/bench_eval.py --gguf $(BENCH)/demo-F16.gguf --tokenizer data/demo/model \
	  --questions data/demo/eval_questions.csv --output $(BENCH)/eval.json

bench-servers: $(SETUP) ## eight servers that sleep against one
	$(PYTHON) bench/bench_servers.py --tokenizer data/demo/model --questions data/demo/eval_questions.csv \
	  --output $(BENCH)/servers.json

bench-sequential: $(SETUP) ## what an evaluation that stops early would save, by simulation
	$(PYTHON) bench/bench_sequential.py --output $(BENCH)/sequential.json

# A run as a user's, on a random model of the 26B's form. Each number of layers has a build folder of its own.
REHEARSED := plan analyze drop quants eval release
# Not named in the recipe itself: make would run it in a dry run, too.
MAKE_AGAIN = $(MAKE)
rehearse: $(TOOLS) ## run everything on LAYERS random layers of the 26B's form; seconds, memory, disk of each step
	@layers=$(or $(LAYERS),$$($(PYTHON) bench/generate_rehearsal.py --how-many $(BUILD))); \
	  build=$(BUILD)/rehearsal/$$layers; mkdir -p $$build; touch $$build/$(notdir $(MARKER)); \
	  rm -f $$build/*_questions.csv; \
	  head -n 61 data/demo/calibration_questions.csv >$$build/calibration_questions.csv; \
	  head -n 4 data/demo/eval_questions.csv >$$build/eval_questions.csv; \
	  $(PYTHON) bench/generate_rehearsal.py --shape data/shapes/gemma-4-26b-a4b.json --tokenizer data/demo/model \
	    --layers $$layers --output $$build/model; \
	  for target in $(REHEARSED); do $(MAKE_AGAIN) $$target RUN=rehearsal BUILD=$$build; done; \
	  $(MAKE_AGAIN) rehearsal-table RUN=rehearsal BUILD=$$build LAYERS=$$layers; \
	  mkdir -p $(BUILD)/plans; cp --remove-destination $$build/plans/calibration.json $(BUILD)/plans/

# The plan of all layers lies where that of a shape does. What was seen of this machine's speed serves later plans.
rehearsal-table: $(TOOLS) ## the table of a rehearsal that is done
	@$(MAKE_AGAIN) plan RUN=rehearsal BUILD=$(BUILD) SHAPE=gemma-4-26b-a4b >/dev/null
	@$(PYTHON) bench/rehearsal_table.py --logs $(LOGS) --plan $(PLAN) --whole-plan $(BUILD)/plans/gemma-4-26b-a4b.json \
	  --questions $(QUESTIONS) --eval-questions $(EVAL_QUESTIONS) --answer-tokens $(MAX_GEN_TOKS) --layers $(LAYERS) \
	  --output $(BUILD)/rehearsal.md --calibration $(BUILD)/plans/calibration.json

kill-test: $(TOOLS) ## kill the stages KILLS times in all at random moments, go on, and compare (an hour and more)
	$(PYTHON) tests/kills/kill_stages.py --kills $(KILLS) --seed $(KILL_SEED) --folder $(BUILD)/kills

fault-test: $(TOOLS) ## let writes, flushes and renames of the stages fail FAULTS times (needs strace)
	$(PYTHON) tests/kills/fault_stages.py --faults $(FAULTS) --seed $(KILL_SEED) --folder $(BUILD)/faults

twice-test: $(TOOLS) ## start every stage twice at once, and a whole release by make -j4
	$(PYTHON) tests/kills/run_at_once.py --folder $(BUILD)/at-once

rehearse-cluster: $(TOOLS) ## a demo release by two hosts of one machine, one of them killed, against one host's
	$(PYTHON) tests/hosts/rehearse_cluster.py --folder $(BUILD)/cluster

mutate: $(TOOLS) ## mutate inputs of all commands N times in all, drawn by MUTATE_SEED (docs/reliability.md)
	$(PYTHON) tests/mutations/campaign.py --cases $(N) --seed $(MUTATE_SEED) --folder $(BUILD)/mutations
