# Gemma 4 26B-A4B as Google trained it for 4 bits (QAT), pruned from 128 to 109 experts per layer.
# The training rounded each weight as Q4_0 does, so Q4_0 is the file to build, and without an imatrix: an imatrix moves
# the scales away from those that the training knew (docs/quants.md).

MODEL = google/gemma-4-26B-A4B-it-qat-q4_0-unquantized   # bf16 weights, 52 GB from the Hub; or a directory
NAME = gemma-4-26B-A4B-it-qat
KEEP = 109                             # of 128, by coverage as in the card; CRITERION names another way to choose

# As in runs/gemma-4-26b-a4b-109e.mk: gated, and the scores are in-sample.
QUESTIONS = $(DOWNLOADS)/gpqa_diamond.csv
CALIBRATION = v5                       # only Q8_0, which is there to compare with, is built with an imatrix

QUANTS = Q4_0 Q8_0
NO_IMATRIX = Q4_0
EVAL_QUANT = Q4_0
