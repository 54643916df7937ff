# The reference case: Gemma 4 26B-A4B, pruned from 128 to 109 experts per layer, as its model card describes it.
# Copy it for a run of your own: make new RUN=my-26b FROM=gemma-4-26b-a4b-109e

MODEL = google/gemma-4-26B-A4B-it      # 52 GB from the Hub; or a directory that holds it
KEEP = 109                             # of 128
# CRITERION = reconstruction           # by default the card's: coverage (docs/choosing.md names all)

# GPQA Diamond is gated: accept its terms on the Hub and log in first (make doctor says whether that is done).
# As in the card, the questions that choose the experts are those that are scored, so the scores are in-sample.
# make eval-heldout scores the choice on questions that it has not seen.
QUESTIONS = $(DOWNLOADS)/gpqa_diamond.csv

# DOMAINS = Physics:1:0.9 Chemistry:1:0.9 Biology:1:0.9   # every layer keeps 90% or more of each domain's weighted norm

# Text of the imatrix: calibration data v5. Left empty it would be the scored questions, answers included.
CALIBRATION = v5

# All quants and the F16 file are 395 GiB by make plan. Name a few to begin with, such as: QUANTS = Q6_K Q4_K_M
QUANTS = all
EVAL_QUANT = Q6_K

# STREAM_LAYERS = yes                  # one layer in memory (1.6 GB) in place of the whole model (52 GB)
# CMAKE_ARGS = -DGGML_CUDA=ON          # llama.cpp's tools with CUDA; or LLAMA_CPP = /path/to/a/build

# DRAFT = google/gemma-4-26B-A4B-it-assistant   # a draft model, fetched; make draft measures what it gains
