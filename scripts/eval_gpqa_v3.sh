#!/usr/bin/env bash
# Evaluate one GGUF file on GPQA Diamond under one locked protocol: llama-server, lm-eval, patch step, summary.
#
# Use:     scripts/eval_gpqa_v3.sh NAME FILE.gguf
# Inputs:  a GGUF file, and by environment: QUESTIONS (GPQA's columns), TOKENIZER (directory or Hub id of the
#          unmodified base), OUTPUT (run directory). The protocol's values are below.
# Output:  OUTPUT/summary.json, written last; beside it protocol.json, patched.json, lm-eval's results and samples (these
#          hold question text: keep them in build/) and server.log.
#
# The protocol is the model card's. Smaller models may set CTX, REASONING_BUDGET and MAX_GEN_TOKS; every value is stored
# with the run. A run that was stopped goes on with the answers it has.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-$SCRIPTS/../.venv/bin/python}
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
[ $# -eq 2 ] || die "usage: scripts/eval_gpqa_v3.sh NAME FILE.gguf: expected 2 arguments, found $#"
name=$1
gguf=$2

QUESTIONS=${QUESTIONS:-build/questions/gpqa_diamond.csv}
TOKENIZER=${TOKENIZER:-google/gemma-4-26B-A4B-it}
OUTPUT=${OUTPUT:-build/eval/$name}
CTX=${CTX:-32768}
REASONING_BUDGET=${REASONING_BUDGET:-16384}
MAX_GEN_TOKS=${MAX_GEN_TOKS:-24576}
SEED=${SEED:-42}
NP=${NP:-1}
GPU_LAYERS=${GPU_LAYERS:-99}
TEMPERATURE=1.0
TOP_P=0.95
TOP_K=64
DRY_MULTIPLIER=0.5
REQUEST_TIMEOUT_SECONDS=7200
LOAD_TIMEOUT_SECONDS=1800

[ -f "$gguf" ] || die "$gguf: expected a GGUF file, found nothing"
llama_cpp=${LLAMA_CPP:-$("$SCRIPTS/build_llama_cpp.sh" --where)}
server=$llama_cpp/bin/llama-server
[ -x "$server" ] || server=$llama_cpp/build/bin/llama-server
[ -x "$server" ] || die "$llama_cpp: expected bin/llama-server or build/bin/llama-server, found neither; run \`make setup\` or set LLAMA_CPP"

for variable in CTX REASONING_BUDGET MAX_GEN_TOKS SEED NP GPU_LAYERS; do
  [[ ${!variable} =~ ^[0-9]+$ ]] || die "$variable: expected a whole number, found '${!variable}'"
done
mkdir -p "$OUTPUT"
"$PYTHON" "$SCRIPTS/freeze_questions.py" --questions "$QUESTIONS" --seed "$SEED" --output "$OUTPUT/task"
rm -f "$OUTPUT/summary.json"

server_flags=(-c "$((CTX * NP))" -np "$NP" -ngl "$GPU_LAYERS" --reasoning-format deepseek --reasoning-budget "$REASONING_BUDGET")
gen_kwargs=temperature=$TEMPERATURE,top_p=$TOP_P,top_k=$TOP_K,seed=$SEED,dry_multiplier=$DRY_MULTIPLIER,max_gen_toks=$MAX_GEN_TOKS

PYTHONPATH=$SCRIPTS "$PYTHON" - "$OUTPUT/protocol.json" "$name" "$llama_cpp" <<PY
import importlib.metadata, json, pathlib, sys
from llama_tools import LlamaCpp
path, name, llama_cpp = sys.argv[1:]
protocol = {"task": "gpqa_diamond_cot_zeroshot", "model": "local-chat-completions", "filter": "flexible-extract",
            "context": $CTX, "reasoning_format": "deepseek", "reasoning_budget": $REASONING_BUDGET,
            "max_gen_toks": $MAX_GEN_TOKS, "temperature": $TEMPERATURE, "top_p": $TOP_P, "top_k": $TOP_K, "seed": $SEED,
            "choice_order_seed": $SEED, "dry_multiplier": $DRY_MULTIPLIER, "concurrency": $NP,
            "lm_eval": importlib.metadata.version("lm-eval"), "llama_cpp": LlamaCpp(pathlib.Path(llama_cpp)).version()}
with open(path, "w") as file:
    json.dump({"name": name, "protocol": protocol}, file, indent=2)
print(name + ": " + ", ".join(f"{key} {value}" for key, value in protocol.items()))
PY

port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
# Neither server nor lm-eval outlives a killed evaluation.
tied=(setpriv --pdeathsig KILL --)
command -v setpriv >/dev/null || tied=()
"${tied[@]}" "$server" -m "$gguf" --alias "$name" --host 127.0.0.1 --port "$port" "${server_flags[@]}" >"$OUTPUT/server.log" 2>&1 </dev/null &
server_pid=$!
trap 'kill "$server_pid" 2>/dev/null; wait "$server_pid" 2>/dev/null || :' EXIT
printf 'Loading %s ...\n' "$gguf"
until "$PYTHON" -c "import urllib.request; urllib.request.urlopen('$url/health', timeout=5)" 2>/dev/null; do
  kill -0 "$server_pid" 2>/dev/null ||
    die "$gguf: expected a model that llama-server loads, found: $(grep -iE 'error|fail' "$OUTPUT/server.log" | tail -n 1) (log: $OUTPUT/server.log)"
  [ "$SECONDS" -lt "$LOAD_TIMEOUT_SECONDS" ] || die "$gguf: expected to be loaded after $LOAD_TIMEOUT_SECONDS s, found it loading"
  sleep 0.2
done

rm -rf "$OUTPUT/lm_eval"
# The cache is named for the model file and the whole protocol, because lm-eval's keys hold only messages and sampling.
identity=$({ stat -c %s-%Y "$gguf"; printf '%s\n' "$TOKENIZER"; cat "$OUTPUT/protocol.json"; } | sha256sum | cut -c 1-16)
LMEVAL_LOG_LEVEL=WARNING HF_DATASETS_CACHE=$OUTPUT/task/datasets "${tied[@]}" "$PYTHON" -m lm_eval run --model local-chat-completions \
  --model_args "model=$name,base_url=$url/v1/chat/completions,num_concurrent=$NP,max_retries=3,timeout=$REQUEST_TIMEOUT_SECONDS,tokenizer_backend=huggingface,tokenizer=$TOKENIZER" \
  --include_path "$OUTPUT/task" --tasks gpqa_diamond_cot_zeroshot_frozen --apply_chat_template \
  --gen_kwargs "$gen_kwargs" --seed "$SEED" --use_cache "$OUTPUT/task/cache-$identity" \
  --output_path "$OUTPUT/lm_eval" --log_samples >"$OUTPUT/lm_eval.txt" 2> >(tee "$OUTPUT/lm_eval.log" >&2) ||
  die "lm-eval: expected success, found: $(tail -n 1 "$OUTPUT/lm_eval.log") (log: $OUTPUT/lm_eval.log)"

"$PYTHON" "$SCRIPTS/patch_answers.py" --run "$OUTPUT" --url "$url"
"$PYTHON" "$SCRIPTS/summarize_scores.py" --run "$OUTPUT" --gguf "$gguf"
