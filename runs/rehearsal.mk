# What make rehearse runs, in a build folder of its own: a random model of the 26B's form, asked three questions. Its
# answers mean nothing; its seconds, memory and disk do (docs/benchmarks.md).

MODEL = $(BUILD)/model
NAME = rehearsal
KEEP = 109
QUESTIONS = $(BUILD)/calibration_questions.csv       # 60 of the demo's
EVAL_QUESTIONS = $(BUILD)/eval_questions.csv         # 3 of the demo's
QUANTS = Q6_K Q4_K_M
EVAL_QUANT = Q4_K_M
MMPROJ = Q8_0
STREAM_LAYERS = yes
LOW_DISK = all

# A random model never ends an answer by itself.
CTX = 4096
REASONING_BUDGET = 16
MAX_GEN_TOKS = 48
