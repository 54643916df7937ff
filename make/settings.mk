# Every setting and its default, by stage. A run's file (runs/RUN.mk) sets what it wants otherwise, and the command line
# wins over both. The environment sets none of them: a MODEL or SEED exported for another tool must not change a run.

# ---- the run
RUN = demo#                               the settings file runs/RUN.mk
FROM =#                                   new: the run whose settings are copied
BUILD = build#                            where outputs go
REPLACE =# remade: model statistics choice imatrix quants cd auto eval tasks heldout quality findings loops draft report
HOST_PATIENCE = 300#                      several hosts: seconds to wait for one that gives no sign of life
LOW_DISK =#                               yes: what no later step needs goes at once; all: a local MODEL, too
V =#                                      1 shows every command and its whole output
YES =#                                    clean: 1 deletes; without it clean only lists

# ---- fetch
MODEL =#                                  checkpoint of the full model: a directory or a Hub id
NAME = $(notdir $(patsubst %/,%,$(MODEL)))#  name of the full model in paths and tables
QUESTIONS = $(DOWNLOADS)/gpqa_diamond.csv#  questions that choose the experts (GPQA's columns)
EVAL_QUESTIONS = $(QUESTIONS)#            questions that are scored
CALIBRATION =#                            text of the imatrix: a file, or v5 to download it; empty: QUESTIONS as chats

# ---- analyse
STREAM_LAYERS =#                          yes holds one layer of the model in memory, not all
SPILL =#                                  with STREAM_LAYERS: a directory to hold hidden states in
ALLOW_EMPTY_REASONING =#                  yes takes questions of which none has an Explanation
RANKS = 1#                                processes that share the questions
RECONSTRUCTION = $(if $(filter reconstruction,$(CRITERION)),all)#  order experts for these tokens: all, reply, or 0.5

# ---- choose and drop
KEEP =#                                   experts to keep in every layer
CRITERION = coverage#                     what ranks the experts (scripts/choice/criteria.py)
PROTECT_TOP = $(DEFAULT_PROTECT_TOP)#      experts protected per question and layer (docs/choosing.md)
DOMAINS =#                                of QUESTIONS, as NAME:WEIGHT or NAME:WEIGHT:FLOOR, such as "Physics:2:0.9"
FOLD =#                                   I/K: choose without every K-th question, from the I-th on
DROP_MAP =#                               an own map in place of a choice: ours, or {"0": [dropped ids], ...}
VARIANT = $(DEFAULT_VARIANT)#             folder of what was pruned, such as 109e or 109e-reap
PRUNED_NAME = $(NAME)-$(VARIANT)#         name of the pruned model

# ---- quantise
QUANTS = all#                         quants of the pruned model: all, or by name; AUTO-<GiB> is the best file of a size
NO_IMATRIX =#                             quants built without the imatrix, such as "Q6_K Q4_K_M"
MMPROJ = F16 Q8_0#                    files for pictures, where the model sees (F16 BF16 F32 Q8_0); empty: none
MIN_EXPERT_TOKENS = 0#                    least calibration tokens for every expert
KEEP_F16 = yes#                           no removes the pruned F16 GGUF once all quants are built
CD_RULE = weighted-norm#                  CD quants: what ranks the layers (weighted-norm, output-norm)
CD_RECIPE = ours#                         CD quants: shares, types and edges of the tiers (ours, card)
CD_CUTS =#                                CD quants: where the high and middle tiers end, such as 1/30,11/30
CD_TIERS =#                               CD quants: tiers by hand instead, such as 0/1-10/11-29
CD_SCOPE = all#                           CD quants: tensors that the tiers type (all, experts)
CD_PROTECT =#                             CD quants: attention gets Q6_K or more in every layer
SENSITIVITY_CHATS = 64#                   AUTO quants: first so many chats of QUESTIONS that they are made from
SHAPE =#                                  plan: a shape of data/shapes instead of MODEL, such as gemma-4-26b-a4b

# ---- evaluate and compare
EVAL_QUANT = Q6_K#                        quant that is scored, of both models
BACKEND = llama.cpp#                      eval, eval-heldout: SERVERS are llama.cpp's, or openai: any compatible ones
EVAL_NAME = $(or $(OPENAI),$(EVAL_QUANT))$(OTHER_SEED)$(if $(SEEDS),-samples)#  folder of the scores of one protocol
TASK = gpqa_diamond_cot_zeroshot#         task of lm-eval; scores of another one stand beside those of the release
TASK_DATA =#                              questions of another TASK, in its columns; empty: from the Hub
TASK_EXAMPLES =#                          few shots of a TASK that has them; empty: from the Hub
TASK_QUANTS = Q4_K_M#                     another TASK: quants of the pruned model that are scored beside EVAL_QUANT
SAMPLES = 1#                              answers to each question, by the seeds SEED, SEED + 1, ...
CTX = 32768#                              context tokens
REASONING_BUDGET = 16384#                 tokens of thought
MAX_GEN_TOKS = 24576#                     tokens of one answer
SEED = 42#                                sampling and order of choices
NP = 1#                                   requests at once
GPU_LAYERS = 99#                          layers on the GPU, if there is one
LOCAL_SERVERS = 1#                        llama-servers that share the questions, one per GPU
SERVERS =#                                llama-servers that run already, such as "http://a:8080 http://b:8080"
FOLDS = 5#                                eval-heldout: folds
HELDOUT_QUANT = F16#                      eval-heldout: quant of the full model that is pruned and scored
RUNS =#                                   compare: runs by name (or their folders), such as "a b c"

# ---- measure
QUALITY_CHATS =#                          quality: first so many held-out chats of EVAL_QUESTIONS; empty: all
QUALITY_SCORE = reply#                    quality: tokens that count (reply, all)
COMPARE_IMATRIX = Q6_K Q5_K_M Q4_K_M Q4_0 Q3_K_M Q2_K#  compare-imatrix: quants built both ways
COMPARE_KEEP = 109 96 64#                 compare-criteria: keep counts
COMPARE_SEEDS = 5#                        compare-criteria: random choices per keep count
DOMAIN_COLUMN =#                          findings: column of QUESTIONS with the domains; empty: High-level domain
OTHER_MAPS =#                             findings: drop maps of the model to compare the run's own with
LOOP_QUANTS = Q4_K_M#                     loops: quants of the pruned model that are asked beside EVAL_QUANT
LOOP_SEEDS = 3#                           loops: answers to each prompt
LOOP_TOKENS = 8192#                       loops: most tokens of an answer, its thought included
RECOMPUTE_FULL =#                         compare-criteria: yes holds both models in memory, keeps no logits on disk

DRAFT =#                                  draft model for speculative decoding: an assistant, a directory or a Hub id
DRAFT_TYPE = Q8_0#                        draft: type of its weights (F16, Q8_0, Q4_0)
DRAFT_TOKENS = 2#                         draft: tokens drafted in a row
DRAFT_QUESTIONS = 20#                     draft: first so many EVAL_QUESTIONS that are answered with and without it
ACTIVE_EXPERTS =#                         active-experts: numbers to try; empty: the model's own down to 5/8 of it
ACTIVE_SCORED =#                          active-experts: yes answers all EVAL_QUESTIONS and counts the right answers

# ---- release
BASE = $(if $(call hub_id,$(MODEL)),$(MODEL),$(NAME))#  base model named in the card: a Hub id OWNER/NAME or a name
LICENSE =#                                licence of the release (the Hub's identifier); empty: the base model's own
OWNER = $(if $(findstring /,$(REPO)),$(firstword $(subst /, ,$(REPO))))#  owner of the repositories on the Hub
QUANTIZED_BY = $(OWNER)#                  who quantised, for the cards' front matter
OLLAMA_PARAMS = card#                     sampling params for Ollama: card (the reference card's), current
SCORED = yes#                             no leaves the evaluation out, and the cards say so
RELEASE = $(PRUNED)/release/GGUF#       upload, release-ollama: the folder that is meant
REPO =#                                   upload, release-ollama: repository on the Hub, OWNER/NAME
UPLOAD = no#                              upload: yes sends; without it the files are only listed
SEALS = yes#                              no: what is written gets no seal, and no seal is checked
SEAL_KEY ?=#                              key of the seals; empty: ~/.local/state/moe-tools/seal.key, made when needed

# ---- test
LAYERS =#                                 rehearse: layers of the random model; empty: as many as the disk holds
KILLS = 200#                              kill-test: kills in all, shared by the stages
FAULTS = 100#                             fault-test: calls that fail
KILL_SEED = 1#                            kill-test, fault-test: seed of moments, of what is killed and of what fails
N = 5000#                                 mutate: cases in all, shared by the commands
MUTATE_SEED = 1#                          mutate: seed of what is changed, and how

# ---- tools
LLAMA_CPP ?=#                             an existing llama.cpp build; empty: built once into a cache
CMAKE_ARGS ?=#                            extra flags for that build, such as -DGGML_CUDA=ON
MOE_TOOLS_CACHE ?=#                       where that cache is; empty: ~/.cache/moe-tools
