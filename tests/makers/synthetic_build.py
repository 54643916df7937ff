"""Records of a build that never ran, in the real formats and of any size: for tests of what reads such records."""

import json
from pathlib import Path

from choice.drop_metadata import DropMetadata
from choice.expert_stats import protected, read_stats, write_stats
from choice.stats_record import EXPERT_SUMS, LAYER_SUMS
from compare_scores import main as compare_scores
from conftest import REPO
from files.input_errors import sha256_file
from files.written_records import write_record
from findings.bf16_norms import bf16_figures
from findings.domain_drops import domain_drops
from findings.findings_record import Findings
from findings.map_overlap import map_pair
from findings.specialisation import specialisation
from generate_drop_map import main as choose
from ggufs.imatrix import ImatrixRecord
from loops.loop_answers import asked_in_order, loop_inputs
from loops.loop_classes import LoopAnswer
from loops.loop_prompts import read_prompts
from loops.loop_rates import loop_results, loop_row
from loops.loop_results import LoopResults
from losses.quality_conclusions import Measured, quality_conclusions, quant_kind
from losses.quality_record import LOSSES, Quality
from quants.quant_record import ConversionRecord, QuantRecord
from quants.recipes import RECIPES
from scoring.eval_protocol import Protocol
from scoring.score_records import Summary, figures

import gguf
import numpy as np

F16_SHA256, TARGET_SIZES, CHATS = "f" * 64, ("AUTO-9.5", "AUTO-10.5", "AUTO-12"), 40
TASK = "gsm8k_cot_zeroshot"
PARAMETERS, LLAMA_CPP = 24_000_000_000, "version: 1 (made up)"


def write_statistics(path: Path, questions: int, layers: int, experts: int, seed: int = 0) -> None:
    """Write a statistics file whose sums spread over some decades; two experts of the first layer are never used."""
    draw = np.random.default_rng(seed)
    arrays = {name: draw.lognormal(0, 1.5, (questions, layers, experts)) for name in EXPERT_SUMS}
    arrays["token_count"] = draw.poisson(
        draw.gamma(1.0, 30, (1, layers, experts)), (questions, layers, experts)
    ).astype(np.int64)
    for name in EXPERT_SUMS:
        arrays[name][:, 0, 3:5] = 0
    arrays |= {name: draw.integers(1, 500, (questions, layers)) for name in LAYER_SUMS} | {
        "layer_numbers": np.arange(layers)
    }
    # Two experts of each token, but for the tokens whose outputs were not all finite; the rest were skipped.
    routed = arrays["token_count"].sum(axis=2)
    arrays["tokens"] = np.maximum(-(-routed // 2), arrays["token_count"].max(axis=2))
    arrays["nonfinite_tokens"] = arrays["tokens"] - routed // 2
    arrays["skipped_tokens"] = arrays["tokens"].max(axis=1, keepdims=True) - arrays["tokens"]
    arrays["moe_output_norm_sum"] = arrays["moe_output_norm_sum"].astype(np.float64)
    write_stats(
        path,
        arrays,
        {
            "questions": [{"id": f"rec{number:03d}"} for number in range(questions)],
            "top_k": 2,
            "questions_sha256": "1" * 64,
            "config_sha256": "2" * 64,
            "weights_sha256": "3" * 64,
        },
    )


def write_imatrix(path: Path, layers: int, experts: int) -> None:
    """Write an imatrix and its record; expert 1 of layer 0 was never reached."""
    draw = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    for layer in range(layers):
        counts = draw.poisson(draw.gamma(1.0, 300, experts)) + 1.0
        counts[1] *= layer > 0
        writer.add_tensor(f"blk.{layer}.ffn_down_exps.weight.in_sum2", draw.random((experts, 4)).astype(np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_down_exps.weight.counts", counts[:, None].astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    record = {
        "model_sha256": F16_SHA256,
        "calibration": "calibration.txt",
        "calibration_sha256": "5" * 64,
        "context": 512,
        "llama_cpp": LLAMA_CPP,
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
    }
    write_record(Path(f"{path}.json"), record, ImatrixRecord)


def quant_record(name: str, size: int, experts: int, sha256: str, imatrix_sha256: str) -> dict:
    """Return the record of one quant; F16 is made without an imatrix."""
    calibrated = name != "F16"
    return {
        "type": name,
        "base": name,
        "arguments": [],
        "note": "",
        "llama_cpp": LLAMA_CPP,
        "parameters": PARAMETERS,
        "experts": experts,
        "bytes": size,
        "bits_per_weight": round(8 * size / PARAMETERS, 3),
        "tensors_per_type": {name: 1},
        "source_sha256": F16_SHA256,
        "imatrix_sha256": imatrix_sha256 if calibrated else None,
        "calibration_sha256": "5" * 64 if calibrated else None,
        "sha256": sha256,
    }


def quant_records(imatrix_sha256: str, experts: int) -> dict[str, dict]:
    """Return a record for every recipe and some target sizes, by quant."""
    names = [*RECIPES, *TARGET_SIZES]
    sizes = np.linspace(22e9, 7.5e9, len(names)).astype(int).tolist()
    return {
        name: quant_record(name, size, experts, f"{number:064x}", imatrix_sha256)
        for number, (name, size) in enumerate(zip(names, sizes))
    }


def quality_of(quants: dict[str, dict]) -> dict:
    """Return what quality.json holds of the quants; F16 has no quantisation loss."""
    draw, counts = np.random.default_rng(2), np.full(CHATS, 100)
    measured = []
    for name, quant in quants.items():
        level = 0 if name == "F16" else 2e-3 * np.exp(-2.5 * (quant["bytes"] / 1e10 - 1)) * draw.lognormal(0, 0.3)
        sums = {"quantisation": level * draw.gamma(2, 50, CHATS)}
        sums["total"] = sums["quantisation"] + 4e-4 * draw.gamma(2, 50, CHATS)
        losses = {
            loss: {"kld": [sums[loss].sum() / counts.sum(), sums[loss].std() / 100 / CHATS**0.5]} for loss in LOSSES
        }
        measured.append(
            Measured(
                name,
                quant_kind(name),
                quant["bytes"],
                quant["bits_per_weight"],
                quant["sha256"],
                sums,
                losses | {"pruning": {"kld": [4e-4, 3e-5]}},
            )
        )
    return {
        "inputs": {"full_sha256": "0" * 64, "pruned_sha256": F16_SHA256},
        "chats": CHATS,
        "left_out": 0,
        "score": "reply",
        "tokens": {"reply": 4000, "all": 9000},
        "cut": 0,
        "conclusions": quality_conclusions(measured, counts),
        "files": [entry.described() for entry in measured],
    }


def run_summary(name: str, experts: int, gguf_sha256: str, questions: int, seed: int) -> dict:
    """Return a run's summary.json; some answers are empty, and half of those right after the patch."""
    draw, rows = np.random.default_rng(seed), []
    for number in range(questions):
        right, empty = bool(draw.random() < 0.8), bool(draw.random() < 0.05)
        row = {
            "record_id": f"rec<{number:03d}>",
            "order": [0, 1, 2, 3],
            "prompt_sha256": f"{number:064x}",
            "target": "C",
            "completion_tokens": 9,
            "class": "empty" if empty else "answered",
            "letter": None if empty else "C" if right else "A",
            "correct": right and not empty,
            "strict_correct": right and not empty,
        }
        rows.append(row | ({"patched_letter": "C" if right else "B", "patched_correct": right} if empty else {}))
    protocol = vars(Protocol())
    return {
        "name": name,
        "gguf": f"{name}-Q6_K.gguf",
        "gguf_sha256": gguf_sha256,
        "gguf_bytes": 200_000_000 * experts,
        "experts": experts,
        "protocol": protocol,
        "protocol_sha256": Protocol(**protocol).digest,
        "in_sample": None,
        **figures(rows, {"prefill": "x", "n_predict": 1, "temperature": 0}),
    }


def domains_found(norms: np.ndarray, layers: list[int], keep: int) -> dict:
    """Return what a record holds of topics, for three made-up domains."""
    labels, guarded = np.arange(len(norms)) % 3, protected(norms, 16)
    arrays, domains = {"weighted_norm_sum": norms, "protected": guarded}, ["Biology", "Chemistry", "Physics"]
    drops = domain_drops(arrays, guarded, domains, labels, ("coverage", keep), (3, 9, 1))
    counts = {name: int((labels == number).sum()) for number, name in enumerate(domains)}
    found = specialisation(norms, labels, layers, 16, 9, 9, 1)
    return {"column": "High-level domain", "domains": counts, "left_out": 0, **found, **drops}


def write_findings(folder: Path, keep: int) -> None:
    """Write findings.json: by the folder's statistics and drop map, with made-up cosines and norms in bf16."""
    arrays, metadata = read_stats(folder / "expert_stats.safetensors")
    norms, layers = arrays["weighted_norm_sum"], arrays["layer_numbers"].tolist()
    draw, experts = np.random.default_rng(4), norms.shape[2]
    measured = {"weighted_norm_sum": norms, "norms": arrays["tokens"] * metadata["top_k"]}
    measured |= {name: np.zeros_like(arrays["tokens"]) for name in ("nonfinite_norms", "bf16_nonfinite_norms")}
    for name, error in (("weighted_norm_bf16", 1e-3), ("weighted_norm_bf16_sums", 1e-2)):
        measured[name] = norms * draw.normal(1, error, norms.shape)
    weight = {"size": 4000, "pairs": 8128, "mean": 0.0, "largest": -0.051, "pair": [0, 1], "above": 1, "chance": 0.016}
    output = {"tokens": 396, "mean": [0.01, 0.0, 0.02], "chosen": None, "largest": [0.3, 0.2, 0.4], "pair": [1, 2]}
    drop = {layer: list(range(experts - keep)) for layer in layers}
    content = {
        "inputs": {
            "stats_sha256": sha256_file(folder / "expert_stats.safetensors"),
            "drop_map_sha256": sha256_file(folder / "drop_map.json"),
            "weights_sha256": metadata["weights_sha256"],
            "questions": len(norms),
            "shuffles": 9,
            "resamples": 9,
            "seed": 1,
            "tokens_per_question": 2,
        },
        "experts": experts,
        "top_k": metadata["top_k"],
        "keep_count": keep,
        "missing": {},
        "specialisation": domains_found(norms, layers, keep),
        "weights": [weight | {"layer": layer, "matrix": name} for layer in layers for name in ("gate_up", "down")],
        "outputs": [output | {"layer": layer} for layer in layers],
        "bf16": bf16_figures(measured, layers, 16, keep, (9, 1)),
        "maps": [map_pair("reap", (drop, None), ({layer: ids[1:] for layer, ids in drop.items()}, None), experts)],
    }
    write_record(folder / "findings.json", content, Findings)


def write_loops(folder: Path, quants: dict[str, dict]) -> None:
    """Write loops.json of the full model and of two quants; every tenth answer is empty, of Q4_K_M every second."""
    prompts, protocol, rows = read_prompts(REPO / "data/loop_prompts.json"), Protocol(llama_cpp=LLAMA_CPP), []
    asked = asked_in_order(prompts, protocol.seed, 2)
    files = [("full-Q6_K", {"sha256": "7" * 64, "source_sha256": "0" * 64}, 10)]
    files += [("pruned-Q6_K", quants["Q6_K"], 10), ("pruned-Q4_K_M", quants["Q4_K_M"], 2)]
    for name, record, every in files:
        answers = []
        for number, (prompt, seed) in enumerate(asked):
            text = {"reasoning": "", "content": "Yes." if number % every else "", "finish_reason": "stop", "error": ""}
            answers.append(LoopAnswer(prompt=prompt.id, seed=seed, calls=[], tokens=3, **text))
        rows.append(loop_row(record, f"{name}.gguf", answers, prompts))
    write_record(
        folder / "loops.json", loop_results(loop_inputs(prompts, protocol, "7" * 64), prompts, rows), LoopResults
    )


def write_made_up_records(folder: Path, questions: int, experts: int, keep: int) -> None:
    """Write the records that only a real build computes: the drop, the F16, quants, quality and two evaluations."""
    metadata = {
        "method": {},
        "experts": experts,
        "keep_count": keep,
        "drop_map_sha256": sha256_file(folder / "drop_map.json"),
        "source": {},
        "shards": {"model-00001-of-00001.safetensors": "6" * 64},
        "layers": {},
    }
    write_record(folder / "expert_drop_metadata.json", metadata, DropMetadata)
    conversion = {
        "name": "pruned",
        "outtype": "f16",
        "source_sha256": "8" * 64,
        "llama_cpp": LLAMA_CPP,
        "bytes": 40_000_000_000,
        "parameters": 20_000_000_000,
        "bits_per_weight": 16.0,
        "sha256": F16_SHA256,
    }
    write_record(folder / "pruned-F16.gguf.json", conversion, ConversionRecord)
    quants = quant_records(sha256_file(folder / "imatrix.gguf"), keep)
    for name, record in quants.items():
        write_record(folder / f"quants/pruned-{name}.gguf.json", record, QuantRecord)
    write_record(folder / "quality.json", quality_of(quants), Quality)
    write_loops(folder, quants)
    write_task(folder, quants)
    runs = (("full", experts, "7" * 64), ("pruned", keep, quants["Q6_K"]["sha256"]))
    for seed, (name, count, sha256) in enumerate(runs):
        write_record(folder / f"{name}.json", run_summary(name, count, sha256, questions, seed), Summary)


def write_task(folder: Path, quants: dict[str, dict]) -> None:
    """Write scores of a further task: of the full model and of two quants, two samples each of eight calculations."""
    files = [
        ("full-Q6_K", 20, "7" * 64),
        *((f"pruned-{name}", 16, quants[name]["sha256"]) for name in ("Q6_K", "Q4_K_M")),
    ]
    paths = []
    for place, (name, experts, sha256) in enumerate(files):
        for seed in (42, 43):
            run, rows = run_summary(name, experts, sha256, 8, 0), []
            for number, row in enumerate(run["answers"]):
                right = number + place + seed % 2 < 8
                found = {"target": "12", "letter": "12" if right else "1", "correct": right, "strict_correct": right}
                rows.append(row | found | {"order": [], "class": "answered", "chance": 0.0})
                rows[-1] = {key: value for key, value in rows[-1].items() if not key.startswith("patched")}
            protocol = Protocol(task=TASK, seed=seed, choice_order_seed=seed)
            run |= {"protocol": vars(protocol), "protocol_sha256": protocol.digest, "gguf": f"{name}.gguf"}
            paths.append(folder / f"task-{name}-{seed}.json")
            write_record(paths[-1], run | figures(rows, None), Summary)
    (folder / TASK).mkdir(exist_ok=True)
    compare_scores(["--runs", *map(str, paths), "--output", str(folder / TASK / "scores.md")])


def write_build(folder: Path, questions: int, layers: int, experts: int, keep: int) -> list[str]:
    """Write every record of a build to a folder; return the options that give them to build_report.py."""
    statistics, drop_map = str(folder / "expert_stats.safetensors"), str(folder / "drop_map.json")
    write_statistics(folder / "expert_stats.safetensors", questions, layers, experts)
    choose(["--stats", statistics, "--keep", str(keep), "--bootstrap", "20", "--output", drop_map])
    write_imatrix(folder / "imatrix.gguf", layers, keep)
    (folder / "quants").mkdir(exist_ok=True)
    write_made_up_records(folder, questions, experts, keep)
    write_findings(folder, keep)
    runs = [str(folder / "full.json"), str(folder / "pruned.json")]
    compare_scores(["--runs", *runs, "--output", str(folder / "scores.md")])
    return options(folder)


def options(folder: Path) -> list[str]:
    """Return the options that give a folder's records to build_report.py."""
    files = {
        "--stats": "expert_stats.safetensors",
        "--drop-map": "drop_map.json",
        "--metadata": "expert_drop_metadata.json",
        "--findings": "findings.json",
        "--f16": "pruned-F16.gguf.json",
        "--imatrix": "imatrix.gguf",
        "--quality": "quality.json",
        "--scores": "scores.json",
        "--loops": "loops.json",
    }
    given = [part for option, file in files.items() for part in (option, str(folder / file))]
    return [
        "--name",
        "pruned",
        *given,
        "--quants",
        *map(str, sorted((folder / "quants").iterdir())),
        "--summaries",
        str(folder / "full.json"),
        str(folder / "pruned.json"),
        "--tasks",
        str(folder / TASK / "scores.json"),
    ]


def change(path: Path, *keys: object, value: object) -> None:
    """Change one value inside a JSON file."""
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))
