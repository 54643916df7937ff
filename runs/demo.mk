# The embedded demo: a small Gemma 4 mixture-of-experts model and its own questions. It needs no GPU and no network.
# This is what every target means when no RUN is given.

MODEL = data/demo/model
NAME = gemma-4-demo
KEEP = 109
# CRITERION = reconstruction           # by default the card's: coverage (docs/choosing.md names all)
QUESTIONS = data/demo/calibration_questions.csv      # these choose the experts
EVAL_QUESTIONS = data/demo/eval_questions.csv        # these are scored; none of them chooses an expert
QUANTS = Q8_0 Q6_K Q4_K_M
DRAFT = data/demo/assistant

# The demo's context has 4096 tokens, and its answers are short.
CTX = 4096
REASONING_BUDGET = 1024
MAX_GEN_TOKS = 2048
LOOP_TOKENS = 1024
