#!/usr/bin/env bash
# Evaluate one GGUF file on GPQA Diamond, or on another task of lm-eval (TASK), under one locked protocol
# (scoring/eval_protocol.py): llama-server, lm-eval, patch step, summary.
#
# usage: scripts/eval_gpqa_v3.sh NAME FILE.gguf
#        scripts/eval_gpqa_v3.sh --help | --version
#
# inputs and output:
#   NAME              name of the model in tables
#   FILE.gguf         GGUF file to evaluate
#
# inputs and output, from the environment:
#   QUESTIONS         questions in GPQA's columns (default build/downloads/gpqa_diamond.csv)
#   TOKENIZER         directory or Hub id of the unmodified base (default google/gemma-4-26B-A4B-it)
#   OUTPUT            run directory (default build/eval/NAME)
#   CHOSEN_BY         what proves how a pruned model's experts were chosen, for the in-sample label: its
#                     expert_drop_metadata.json, drop map, statistics and the record of its F16 file
#   TASK              task of lm-eval (default gpqa_diamond_cot_zeroshot); of another, QUESTIONS has the columns
#   EXAMPLES          few shots of a task that has them, in the same columns
#   HELD_OUT_OF       drop map of one fold: score only what it held out
#
# open values of the protocol, from the environment (a smaller model may set the first three):
#   CTX               tokens of context for each request (default 32768)
#   REASONING_BUDGET  most tokens of thought (default 16384)
#   MAX_GEN_TOKS      most tokens of an answer, its thought included (default 24576)
#   SEED              seed of sampling and of the order of choices (default 42)
#   NP                requests at once of each server (default 1)
#   GPU_LAYERS        layers on the GPU, if there is one (default 99)
#
# how it runs, from the environment:
#   BACKEND           openai: SERVERS are OpenAI-compatible servers, and FILE.gguf is the checkpoint that they serve;
#                     what their requests cannot say is named in the protocol, and nothing is patched
#   SAMPLES           runs with the seeds SEED, SEED + 1, ..., each in its own OUTPUT/seed-N (default: one, in OUTPUT);
#                     compare_scores.py --runs pools those of one model
#   PATCH             no leaves the patch step out (default yes)
#   PORT              port of llama-server on 127.0.0.1, of several the first (default 0: a Unix socket)
#   LOCAL_SERVERS     llama-servers that are started here, one per GPU (default 1)
#   SERVERS           addresses of llama-servers that run already, such as "http://a:8080 http://b:8080", in their place
#   SERVER_KEY        their key; SERVER_KEY_2 that of the second one
#   TMPDIR            where the lock lies (default /tmp)
#   PYTHON            interpreter of the steps (default .venv/bin/python beside scripts/)
#   LLAMA_CPP         directory of an existing llama.cpp build (default: the one of build_llama_cpp.sh)
#
# Output:  OUTPUT/summary.json, written last; beside it run.json (protocol and digests), answers.jsonl (as it happens),
#          patched.json, lm-eval's results and samples, logs. They hold question text: keep OUTPUT in build/.
# Example: QUESTIONS=data/demo/eval_questions.csv TOKENIZER=data/demo/model OUTPUT=build/try/evaluation \
#              CTX=4096 REASONING_BUDGET=1024 MAX_GEN_TOKS=2048 scripts/eval_gpqa_v3.sh gemma-4-demo \
#              build/gemma-4-demo/full/gguf/calibration_questions/gemma-4-demo-Q6_K.gguf
#
# The same command goes on where a killed run stopped; a finished run is only summed up again. Whatever ends this script
# ends its server, too.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ${1:-} in # before anything else, so that it needs no environment
  -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
  --version) cat "$SCRIPTS/../VERSION"; exit ;;
esac
PYTHON=${PYTHON:-$SCRIPTS/../.venv/bin/python}
refuse() { printf 'error: %s\n' "${1//[[:cntrl:]]/?}" >&2; exit 1; }
[ $# -eq 2 ] ||
  refuse "usage: scripts/eval_gpqa_v3.sh NAME FILE.gguf: expected 2 arguments, found $#; see --help"
name=$1
gguf=$2
if [ "${BACKEND:-llama.cpp}" = openai ]; then
  PATCH=no # it needs llama-server's own requests
else
  [ -f "$gguf" ] || refuse "$gguf: expected a GGUF file, found nothing"
fi

case ${TASK:-gpqa} in
  gpqa*) ;;
  *) PATCH=no ;; # only letters A to D can be asked for
esac
if [ -n "${SAMPLES:-}" ]; then
  [[ $SAMPLES =~ ^[1-9][0-9]?$ ]] || refuse "SAMPLES: expected a whole number, 1 to 99, found '$SAMPLES'"
  [[ ${SEED:-42} =~ ^(0|[1-9][0-9]{0,8})$ ]] || refuse "SEED: expected a whole number, found '$SEED'"
  for ((seed = ${SEED:-42}; seed < ${SEED:-42} + SAMPLES; seed++)); do
    setpriv --pdeathsig KILL env -u SAMPLES SEED=$seed OUTPUT="${OUTPUT:-build/eval/$name}/seed-$seed" \
      "${BASH_SOURCE[0]}" "$name" "$gguf"
  done
  exit
fi
QUESTIONS=${QUESTIONS:-build/downloads/gpqa_diamond.csv}
OUTPUT=${OUTPUT:-build/eval/$name}
servers=(--port "${PORT:-0}" ${LOCAL_SERVERS:+--local-servers "$LOCAL_SERVERS"})
if [ -n "${SERVERS:-}" ]; then
  # A command line is seen by all, and a log keeps it.
  plain="addresses such as http://a:8080, without keys and paths"
  [[ $SERVERS =~ [@?#]|[^:/]/[^[:space:]] ]] && refuse "SERVERS: expected $plain, found one with more; a key goes into \
SERVER_KEY"
  read -ra addresses <<<"$SERVERS"
  servers+=(--servers "${addresses[@]}")
fi
# What mkdir says of it would be a line beside ours.
mkdir -p -- "$OUTPUT" 2>/dev/null ||
  refuse "$OUTPUT: expected a directory to write to, found none and no way to make one"
command -v -- "$PYTHON" >/dev/null ||
  refuse "$PYTHON: expected the Python of the environment, found nothing; run make setup"
# Two evaluations in one directory would take each other's answers and results away. The steps inherit the lock, so it
# holds until the last of them has ended. It lies with those of files/safe_files.py, where nobody else can hold it.
locks=${TMPDIR:-/tmp}
[ -d "$locks" ] || locks=/tmp
locks=$locks/output-locks-$(id -u)
mkdir -m 700 -- "$locks" 2>/dev/null || true
[ -O "$locks" ] && [ ! -L "$locks" ] || refuse "$locks: expected a folder of your own, for locks; set TMPDIR to another"
exec 9>>"$locks/eval-$(realpath -- "$OUTPUT" | sha256sum | cut -c 1-64)"
flock --nonblock 9 ||
  refuse "$OUTPUT: expected a directory that no other run is writing, found one that is being written"

# A step is killed with this script, whatever it is doing: bash itself would leave it running.
step() { setpriv --pdeathsig KILL "$PYTHON" "$SCRIPTS/$1" "${@:2}"; }

step freeze_questions.py --questions "$QUESTIONS" --seed "${SEED:-42}" --output "$OUTPUT/task" \
  ${HELD_OUT_OF:+--held-out-of "$HELD_OUT_OF"} ${TASK:+--task "$TASK"} ${EXAMPLES:+--examples "$EXAMPLES"}

step ask_questions.py --name "$name" --gguf "$gguf" --run "$OUTPUT" "${servers[@]}" ${BACKEND:+--backend "$BACKEND"} \
  --tokenizer "${TOKENIZER:-google/gemma-4-26B-A4B-it}" \
  ${CTX:+--context "$CTX"} ${REASONING_BUDGET:+--reasoning-budget "$REASONING_BUDGET"} \
  ${MAX_GEN_TOKS:+--max-gen-toks "$MAX_GEN_TOKS"} \
  ${TASK:+--task "$TASK"} ${SEED:+--seed "$SEED"} ${NP:+--concurrency "$NP"} ${GPU_LAYERS:+--gpu-layers "$GPU_LAYERS"}

unpatched=()
if [ "${PATCH:-yes}" = no ]; then
  unpatched=(--unpatched)
else
  step patch_answers.py --run "$OUTPUT" --gguf "$gguf" "${servers[@]}"
fi
read -ra proofs <<<"${CHOSEN_BY:-}"
step summarize_scores.py --run "$OUTPUT" --gguf "$gguf" ${CHOSEN_BY:+--chosen-by "${proofs[@]}"} "${unpatched[@]}"
