#!/usr/bin/env bash
# Evaluate one GGUF file on GPQA Diamond under one locked protocol (eval_protocol.py): llama-server, lm-eval, patch, summary.
#
# Use:     scripts/eval_gpqa_v3.sh NAME FILE.gguf
# Inputs:  a GGUF file, and by environment: QUESTIONS (GPQA's columns), TOKENIZER (directory or Hub id of the unmodified
#          base), OUTPUT (run directory). A smaller model may set CTX, REASONING_BUDGET and MAX_GEN_TOKS; SEED, NP (requests
#          at once) and GPU_LAYERS are open, too. PORT: llama-server's, by default a free one. CHOSEN_BY: drop map or
#          expert_drop_metadata.json of a pruned model, for the in-sample label. HELD_OUT_OF: a drop map of one fold, to
#          score only what it held out. PATCH=no leaves the patch step out.
# Output:  OUTPUT/summary.json, written last; beside it run.json (protocol and digests), answers.jsonl (as it happens),
#          patched.json, lm-eval's results and samples, logs. They hold question text: keep OUTPUT in build/.
#
# The same command goes on where a killed run stopped. Whatever ends this script ends its server, too.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-$SCRIPTS/../.venv/bin/python}
[ $# -eq 2 ] || { printf 'error: usage: scripts/eval_gpqa_v3.sh NAME FILE.gguf: expected 2 arguments, found %s\n' $# >&2; exit 1; }
name=$1
gguf=$2
[ -f "$gguf" ] || { printf 'error: %s: expected a GGUF file, found nothing\n' "$gguf" >&2; exit 1; }

QUESTIONS=${QUESTIONS:-build/questions/gpqa_diamond.csv}
OUTPUT=${OUTPUT:-build/eval/$name}
PORT=${PORT:-0}
mkdir -p "$OUTPUT"
exec 9<"$OUTPUT"  # two evaluations in one directory would take each other's answers and results away
flock --nonblock 9 || {
  printf 'error: %s: expected a directory that no other run is writing, found one that is being written\n' "$OUTPUT" >&2
  exit 1
}

step() { setpriv --pdeathsig KILL "$PYTHON" "$SCRIPTS/$1" "${@:2}"; }  # killed with this script, in whatever state it is

step freeze_questions.py --questions "$QUESTIONS" --seed "${SEED:-42}" --output "$OUTPUT/task" \
  ${HELD_OUT_OF:+--held-out-of "$HELD_OUT_OF"}

step ask_questions.py --name "$name" --gguf "$gguf" --run "$OUTPUT" --port "$PORT" \
  --tokenizer "${TOKENIZER:-google/gemma-4-26B-A4B-it}" \
  ${CTX:+--context "$CTX"} ${REASONING_BUDGET:+--reasoning-budget "$REASONING_BUDGET"} ${MAX_GEN_TOKS:+--max-gen-toks "$MAX_GEN_TOKS"} \
  ${SEED:+--seed "$SEED"} ${NP:+--concurrency "$NP"} ${GPU_LAYERS:+--gpu-layers "$GPU_LAYERS"}

[ "${PATCH:-yes}" = no ] || step patch_answers.py --run "$OUTPUT" --gguf "$gguf" --port "$PORT"
step summarize_scores.py --run "$OUTPUT" --gguf "$gguf" ${CHOSEN_BY:+--chosen-by "$CHOSEN_BY"} \
  $([ "${PATCH:-yes}" = no ] && printf %s --unpatched || :)
