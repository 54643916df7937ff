# The embedded demo, its experts ordered by reconstruction: what a layer puts out once the router has to choose again
# (docs/choosing.md). The model and all else are the demo's; what is pruned lies beside the demo's own.

MODEL = data/demo/model
NAME = gemma-4-demo
KEEP = 109
CRITERION = reconstruction
RECONSTRUCTION = all                   # reply: the tokens of the replies only; 0.5: they count half of the whole
QUESTIONS = data/demo/calibration_questions.csv
EVAL_QUESTIONS = data/demo/eval_questions.csv
QUANTS = Q8_0 Q6_K Q4_K_M

CTX = 4096
REASONING_BUDGET = 1024
MAX_GEN_TOKS = 2048
LOOP_TOKENS = 1024
