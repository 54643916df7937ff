#!/usr/bin/env bash
# Evaluate one GGUF file on GPQA Diamond under one locked protocol (scoring/eval_protocol.py): llama-server, lm-eval,
# patch step, summary.
#
# Use:     scripts/eval_gpqa_v3.sh NAME FILE.gguf
# Inputs:  a GGUF file, and by environment: QUESTIONS (GPQA's columns), TOKENIZER (directory or Hub id of the unmodified
#          base), OUTPUT (run directory). A smaller model may set CTX, REASONING_BUDGET and MAX_GEN_TOKS. SEED, NP
#          (requests at once) and GPU_LAYERS are open, too. PORT: llama-server's, by default a free one. CHOSEN_BY: drop
#          map or expert_drop_metadata.json of a pruned model, for the in-sample label. HELD_OUT_OF: a drop map of one
#          fold, to score only what it held out. PATCH=no leaves the patch step out.
# Output:  OUTPUT/summary.json, written last; beside it run.json (protocol and digests), answers.jsonl (as it happens),
#          patched.json, lm-eval's results and samples, logs. They hold question text: keep OUTPUT in build/.
#
# The same command goes on where a killed run stopped; a finished run is only summed up again. Whatever ends this script
# ends its server, too.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-$SCRIPTS/../.venv/bin/python}
refuse() { printf 'error: %s\n' "$1" >&2; exit 1; }
[ $# -eq 2 ] || refuse "usage: scripts/eval_gpqa_v3.sh NAME FILE.gguf: expected 2 arguments, found $#"
name=$1
gguf=$2
[ -f "$gguf" ] || refuse "$gguf: expected a GGUF file, found nothing"

QUESTIONS=${QUESTIONS:-build/questions/gpqa_diamond.csv}
OUTPUT=${OUTPUT:-build/eval/$name}
PORT=${PORT:-0}
mkdir -p "$OUTPUT"
# Two evaluations in one directory would take each other's answers and results away. The steps inherit the lock, so it
# holds until the last of them has ended.
exec 9<"$OUTPUT"
flock --nonblock 9 ||
  refuse "$OUTPUT: expected a directory that no other run is writing, found one that is being written"

# A step is killed with this script, whatever it is doing: bash itself would leave it running.
step() { setpriv --pdeathsig KILL "$PYTHON" "$SCRIPTS/$1" "${@:2}"; }

step freeze_questions.py --questions "$QUESTIONS" --seed "${SEED:-42}" --output "$OUTPUT/task" \
  ${HELD_OUT_OF:+--held-out-of "$HELD_OUT_OF"}

step ask_questions.py --name "$name" --gguf "$gguf" --run "$OUTPUT" --port "$PORT" \
  --tokenizer "${TOKENIZER:-google/gemma-4-26B-A4B-it}" \
  ${CTX:+--context "$CTX"} ${REASONING_BUDGET:+--reasoning-budget "$REASONING_BUDGET"} \
  ${MAX_GEN_TOKS:+--max-gen-toks "$MAX_GEN_TOKS"} \
  ${SEED:+--seed "$SEED"} ${NP:+--concurrency "$NP"} ${GPU_LAYERS:+--gpu-layers "$GPU_LAYERS"}

unpatched=()
if [ "${PATCH:-yes}" = no ]; then
  unpatched=(--unpatched)
else
  step patch_answers.py --run "$OUTPUT" --gguf "$gguf" --port "$PORT"
fi
step summarize_scores.py --run "$OUTPUT" --gguf "$gguf" ${CHOSEN_BY:+--chosen-by "$CHOSEN_BY"} "${unpatched[@]}"
