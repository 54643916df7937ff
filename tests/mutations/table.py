"""Every command with every input of it, as mutated inputs are given to it."""

from mutations.command import Command, slow

NAME = "gemma-4-demo-112e"
QUANT, OUTLINE = f"pruned/{NAME}-Q6_K.gguf", f"pruned/{NAME}-Q6_K.outline.gguf"
SUMMARIES = "evidence/run-full/summary.json evidence/run-pruned/summary.json"
BASE_RECORD = "evidence/gemma-4-demo-Q6_K.gguf.json"
FULL, F16, STATS = "IN/pruned/full-F16.gguf", "IN/pruned/F16.gguf", "IN/pruned/statistics.safetensors"
MAP, IMATRIX, FEW, RUN = "IN/pruned/map.json", "IN/pruned/imatrix.gguf", "IN/questions/few.csv", "evidence/run-pruned"
PAGE, METADATA = "IN/page", "pruned/checkpoint/expert_drop_metadata.json"
TEXTS = "model/tokenizer.json model/tokenizer_config.json model/chat_template.jinja"
CHATS = "--model IN/model --questions IN/questions/exam.csv --limit 2"
ANSWERED = f"{RUN}/run.json {RUN}/answers.jsonl {RUN}/patched.json {RUN}/task/frozen.jsonl"
LM_EVAL = f"{RUN}/lm_eval/samples.jsonl {RUN}/lm_eval/results.json"
RELEASE_INPUTS = (
    "pruned/*.json evidence/*.json evidence/run-*/*.json evidence/run-pruned/*.jsonl evidence/run-pruned/*/*.json* "
    f"evidence/logits/*/* pruned/text.txt pruned/statistics.safetensors {METADATA} evidence/scored.csv {QUANT}"
)


def release(kind: str, *parts: str) -> str:
    """Return the arguments of build_release.py with its evidence."""
    origins = "map=map.json f16=F16.gguf.json full-f16=full-F16.gguf.json imatrix-record=imatrix.gguf.json"
    origins += " full-imatrix=full-imatrix.gguf.json"
    origins += " calibration=text.txt statistics=statistics.safetensors"
    found = [f"--kind {kind} --name {NAME} --base google/gemma-4-26B-A4B-it --metadata IN/{METADATA} --license gemma"]
    found += ["--source IN/model", *(f"--{part.replace('=', ' IN/pruned/')}" for part in origins.split())]
    found += ["--scores IN/evidence/scores.json --runs", *(f"IN/{name}" for name in SUMMARIES.split())]
    found += [f"--quants IN/{BASE_RECORD} IN/{QUANT}.json --questions IN/evidence/scored.csv IN/repo/data/demo/*s.csv"]
    return " ".join([*found, *parts, "--output OUT/release"])


CHOICE = [
    Command("generate_drop_map", f"--stats {STATS} --keep 112 --output OUT/map.json", "pruned/statistics.safetensors"),
    Command(
        "generate_drop_map",
        f"--stats {STATS} --keep 112 --domains Physics:1 Chemistry:2 Biology:1 --domain-questions {FEW} "
        "--output OUT/m.json",
        "questions/few.csv",
        variant="by domains",
    ),
    Command(
        "generate_drop_map",
        f"--imatrix {IMATRIX} --keep 100 --output OUT/map.json",
        "pruned/imatrix.gguf",
        variant="of an imatrix",
    ),
    Command(
        "copy_drop_map",
        f"--map {MAP} --stats {STATS} --output OUT/map.json",
        "pruned/map.json pruned/statistics.safetensors",  # a map of other statistics is taken as one of one's own
    ),
    Command(
        "copy_drop_map",
        f"--map {MAP} --model IN/model --output OUT/map.json",
        "pruned/map.json",
        "model/config.json model/model.safetensors",
        "for a model",
    ),
    slow(
        "plot_expert_stats",
        f"--stats {STATS} --drop-map {MAP} --output-prefix OUT/experts",
        "pruned/statistics.safetensors pruned/map.json",
        weight=0.3,
    ),
    Command(
        "expert_drop",
        f"--source IN/model --drop-map {MAP} --output OUT/checkpoint",
        f"model/model.safetensors pruned/map.json {TEXTS} model/config.json model/generation_config.json",
    ),
    Command(
        "expert_drop",
        f"--source {FULL} --drop-map {MAP} --output OUT/pruned.gguf",
        "pruned/full-F16.gguf pruned/map.json",
        variant="of a GGUF",
    ),
    Command(
        "fetch_model",
        "--model IN/model --output OUT/checkpoint --record OUT/model.json",
        f"model/model.safetensors model/config.json {TEXTS}",
        weight=0.3,
        quick=False,
    ),
]
QUESTIONS = [
    *(
        Command(
            "freeze_questions",
            f"--questions IN/questions/few.{form} --output OUT/task",
            f"questions/few.{form}",
            variant=form,
        )
        for form in ("csv", "jsonl", "parquet")
    ),
    Command(
        "render_calibration",
        f"--model IN/model --questions {FEW} --output OUT/text.txt",
        f"questions/few.csv {TEXTS}",
        "model/config.json",
        weight=0.4,
        quick=False,
    ),
    Command("generate_demo_questions", "--facts IN/facts.json --output OUT/questions", "facts.json", weight=0.5),
]
GGUFS = [
    Command("report_imatrix", f"--imatrix {IMATRIX} --output-prefix OUT/coverage", "pruned/imatrix.gguf"),
    slow("plan_quants", f"--source {F16} --types Q6_K --output OUT/plan.json", "pruned/F16.gguf", weight=0.5),
    slow(
        "plan_quants",
        "--source IN/pruned/checkpoint --types Q6_K --output OUT/plan.json",
        "pruned/checkpoint/config.json pruned/checkpoint/model*",
        variant="of a checkpoint",
        weight=0.1,
        seconds=100,
    ),
    slow(
        "quantize_gguf",
        f"--input {F16} --imatrix {IMATRIX} --type Q4_K_M --output OUT/q-Q4_K_M.gguf",
        "pruned/F16.gguf pruned/imatrix.gguf",
        "pruned/F16.gguf.json pruned/imatrix.gguf.json",
        weight=0.5,
    ),
    slow(
        "quantize_gguf",
        f"--input {F16} --imatrix {IMATRIX} --type CD-Q4_K_M --stats {STATS} --output OUT/q-CD-Q4_K_M.gguf",
        "pruned/statistics.safetensors",
        variant="by tiers",
    ),
    slow(
        "convert_to_gguf",
        f"--model IN/pruned/checkpoint --name {NAME} --output OUT/f16.gguf",
        "pruned/checkpoint/*",
        weight=0.1,
        seconds=100,
    ),
    slow(
        "build_imatrix",
        f"--model {F16} --calibration IN/pruned/text.txt --output OUT/imatrix.gguf",
        "pruned/text.txt pruned/F16.gguf",
        "pruned/F16.gguf.json",
    ),
]
SCORING = [
    Command(
        "compare_scores",
        "--runs IN/evidence/run-full IN/evidence/run-pruned --output OUT/scores.md",
        "",
        SUMMARIES,
        weight=2,
    ),
    Command(
        "compare_scores",
        f"--model IN/evidence/run-full/summary.json IN/{BASE_RECORD} "
        f"--model IN/evidence/run-pruned/summary.json IN/{QUANT}.json --output OUT/scores.md",
        "",
        f"{BASE_RECORD} {QUANT}.json {SUMMARIES}",
        "with sizes",
    ),
    Command(
        "summarize_scores",
        f"--run IN/{RUN} --gguf IN/{QUANT} --chosen-by IN/{METADATA}",
        "",
        f"{ANSWERED} {LM_EVAL} {QUANT}.json {METADATA}",
        writes=f"{RUN}/summary.json",
        weight=2,
    ),
    Command(
        "patch_answers",
        f"--run IN/{RUN} --gguf IN/{QUANT}",
        f"{RUN}/patched.json",  # of another run it counts for nothing and is made again
        f"{ANSWERED} {QUANT}.json",
        writes=f"{RUN}/patched.json {RUN}/patch-server.log",
        quick=False,
        weight=0.5,
    ),
    Command(
        "pool_heldout",
        "--name pooled --summary IN/fold0.json IN/fold1.json --output OUT/summary.json",
        "",
        "fold0.json fold1.json",
    ),
]
STANDARD = release(
    "standard",
    f"--gguf IN/pruned/{NAME}-Q8_0.gguf IN/{QUANT} IN/pruned/{NAME}-Q4_K_M.gguf",
    "--quality IN/evidence/quality.json --logits IN/evidence/logits",
    "--template IN/repo/modelfiles/*.template --params IN/repo/modelfiles/gemma4-card.params.json",
)
SHOWN = [
    ("eval", "evidence/scores.json", "evidence/scores.json"),
    ("analyze", "pruned/map.json", "pruned/map.json"),
    ("drop", METADATA, METADATA),
    ("quants", QUANT, f"{QUANT}.json"),
    ("release", f"evidence/{NAME}-GGUF", f"evidence/{NAME}-GGUF/manifest.json"),
]
PAGES = [
    slow(
        "build_report",
        f"--name pruned --stats {PAGE}/expert_stats.safetensors --drop-map {PAGE}/drop_map.json --findings "
        f"{PAGE}/findings.json --metadata {PAGE}/expert_drop_metadata.json --f16 {PAGE}/pruned-F16.gguf.json --imatrix "
        f"{PAGE}/imatrix.gguf --quality {PAGE}/quality.json --scores {PAGE}/scores.json --quants {PAGE}/quants/*.json "
        f"--summaries {PAGE}/full.json {PAGE}/pruned.json --output OUT/report.html",
        "page/expert_stats.safetensors",
        "page/*.json page/imatrix.gguf page/quants/*-Q6_K.gguf.json page/quants/*-F16.gguf.json",
        weight=1,
    ),
    slow("build_release", STANDARD, "", RELEASE_INPUTS, weight=1),
    slow(
        "build_release",
        release("checkpoint", "--checkpoint IN/pruned/checkpoint"),
        "",
        "pruned/map.json evidence/scores.json pruned/checkpoint/*",
        "of a checkpoint",
    ),
    slow(
        "check_release",
        f"IN/evidence/{NAME}-GGUF",
        "",
        f"evidence/{NAME}-GGUF/* evidence/{NAME}-GGUF.sources.json",
        weight=0.4,
    ),
    slow(
        "upload_release",
        f"--release IN/evidence/{NAME}-GGUF --repo zq/{NAME}-GGUF",  # refused at its end: the Modelfile has no owner
        "",
        f"evidence/{NAME}-GGUF/manifest.json evidence/{NAME}-GGUF/README.md evidence/{NAME}-GGUF.sources.json",
        refused=True,
    ),
    Command(
        "release_ollama",
        f"IN/evidence/{NAME}-GGUF --print",
        "",
        f"evidence/{NAME}-GGUF/manifest.json evidence/{NAME}-GGUF/params evidence/{NAME}-GGUF/*Q6_K.gguf",
    ),
    *(Command("show_results", f"--after {stage} IN/{path}", "", name, stage) for stage, path, name in SHOWN),
    Command(
        "show_status",
        "--logs IN/logs --plan IN/plan.json --stage choice=IN/pruned/map.json",
        "plan.json",
        "logs/choose.log",
        stdin="@step\tchoice\tChoose\tIN/zq-Q6_K.gguf\n",
        weight=0.5,
    ),
]
MODELS = [
    slow(
        "measure_quality",
        f"--full {FULL} --pruned {F16} --gguf IN/{QUANT} --calibration IN/pruned/text.txt --chose {MAP} {CHATS} "
        "--cache OUT/cache --output OUT/quality.md",
        "questions/exam.csv model/chat_template.jinja pruned/text.txt pruned/map.json",
        f"{QUANT}.json pruned/F16.gguf.json {QUANT} model/tokenizer.json",
        weight=0.5,
    ),
    slow(
        "measure_sensitivity",
        f"--input {F16} --imatrix {IMATRIX} --output OUT/s.json {CHATS}",
        "questions/exam.csv pruned/imatrix.gguf pruned/F16.gguf",
        "pruned/F16.gguf.json",
        weight=0.03,
        seconds=200,
    ),
    slow(
        "compare_criteria",
        f"--gguf {FULL} --stats {STATS} --keep 40 --seeds 1 {CHATS} --output OUT/c.md",
        "pruned/full-F16.gguf pruned/statistics.safetensors questions/exam.csv",
        weight=0.03,
        seconds=200,
        refused=True,
    ),
    slow(
        "measure_findings",
        f"--model IN/model --stats IN/analysis/stats.safetensors --questions {FEW} "
        "--drop-map IN/analysis/map.json --measured OUT/m.safetensors --output OUT/f.md --shuffles 9 --resamples 9",
        f"analysis/stats.safetensors questions/few.csv analysis/map.json model/model.safetensors {TEXTS}",
        "model/config.json",
    ),
    slow(
        "teacher_force_analysis",
        f"{CHATS} --allow-empty-reasoning --output OUT/stats.safetensors",
        f"questions/exam.csv model/model.safetensors model/config.json {TEXTS}",
        weight=0.5,
    ),
    slow(
        "train_demo_model",
        "--facts IN/facts.json --chat-template IN/chat_template.jinja --drill-steps 0 --question-steps 1 "
        "--output OUT/demo",
        "facts.json chat_template.jinja",
        weight=0.03,
        seconds=200,
    ),
]
AROUND = [
    Command("new_run", "--from IN/run.mk --output OUT/mine.mk", "run.mk", weight=0.5),
    Command("clean_build", "--build IN/build --what all", "", "build/demo/109e/drop_map.json", weight=0.2),
    slow(
        "check_machine",
        f"--model IN/model --questions {FEW} --build IN/build --plan IN/plan.json",
        "plan.json questions/few.csv model/config.json",
        "model/model.safetensors",
    ),
    Command(
        "ask_questions",
        f"--name {NAME} --gguf IN/{QUANT} --tokenizer IN/model --run IN/evidence/asked",
        "evidence/asked/answers.jsonl",  # what is no answer any more is asked again
        "evidence/asked/run.json evidence/asked/task/frozen.jsonl",
        weight=0.2,
        quick=False,
        writes="evidence/asked/* evidence/asked/lm_eval/*",
    ),
]
ASSISTANT, DRAFT = "repo/data/demo/assistant", "draft/mtp-Q8_0.gguf"
BESIDE = [
    Command(
        "verify_build",
        f"--build IN/logs --checkpoint IN/pruned/checkpoint --f16 {F16} --imatrix {IMATRIX} --quants IN/{QUANT}",
        "",
        f"pruned/F16.gguf pruned/F16.gguf.json {IMATRIX[3:]} {IMATRIX[3:]}.json {QUANT} {QUANT}.json {METADATA}",
    ),
    Command("free_disk", f"--gguf IN/{QUANT} --outlined", "", f"{QUANT} {QUANT}.json", writes=f"{QUANT} {OUTLINE}"),
    Command(
        "pad_gguf",
        f"--input {F16} --imatrix {IMATRIX} --output OUT/padded.gguf --imatrix-output OUT/imatrix.gguf",
        "pruned/F16.gguf pruned/imatrix.gguf",
        "pruned/F16.gguf.json pruned/imatrix.gguf.json",
        weight=0.5,
        quick=False,
    ),
    slow(
        "build_draft",
        f"--model IN/{ASSISTANT} --target {F16} --name {NAME} --output OUT/mtp.gguf",
        f"{ASSISTANT}/* pruned/F16.gguf",
        weight=0.1,
        seconds=100,
    ),
    # The next three write what they measured by the clock: their output is another each time.
    slow(
        "measure_draft",
        f"--draft IN/{DRAFT} --gguf quant=IN/{QUANT} --questions IN/questions/exam.csv --limit 2 --max-tokens 8 "
        "--rounds 1 --output OUT/draft.md",
        f"{DRAFT} {DRAFT}.json {QUANT} {QUANT}.json questions/exam.csv",
        weight=0.1,
        seconds=100,
    ),
    slow(
        "measure_active_experts",
        f"--name quant --gguf IN/{QUANT} --counts 6 --cache OUT/cache {CHATS} --max-tokens 128 --rounds 1 "
        "--output OUT/active.md",
        f"{QUANT} {QUANT}.json questions/exam.csv {TEXTS}",
        weight=0.1,
        seconds=100,
    ),
    slow(
        "measure_loops",
        f"--gguf IN/{QUANT} --prompts IN/repo/data/loop_prompts.json --answers OUT/answers --seeds 1 --max-tokens 4 "
        "--output OUT/loops.md",
        f"{QUANT} {QUANT}.json repo/data/loop_prompts.json",
        weight=0.1,
        seconds=100,
    ),
    Command(
        "plan_run",
        "--plan IN/plan.json --questions IN/questions/few.csv --eval-questions IN/questions/exam.csv "
        "--answer-tokens 100 --calibration IN/machine.json",
        "plan.json questions/few.csv questions/exam.csv machine.json",
        stdin="@step\tchoice\tChoose\tIN/zq-Q6_K.gguf\n",
        writes="machine.json",  # of another machine it is measured anew
        weight=0.5,
        quick=False,
    ),
    slow(
        "fetch_task",
        "--task gsm8k_cot_zeroshot --dataset IN/dataset --output OUT/task.jsonl",
        "dataset/test.jsonl",
        weight=0.1,
        seconds=100,
    ),
    slow(
        "train_demo_assistant",
        "--facts IN/facts.json --target IN/model --steps 1 --output OUT/assistant",
        f"facts.json model/model.safetensors model/config.json {TEXTS}",
        weight=0.03,
        seconds=200,
    ),
]
COMMANDS = [*CHOICE, *QUESTIONS, *GGUFS, *SCORING, *PAGES, *MODELS, *AROUND, *BESIDE]
