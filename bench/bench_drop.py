#!/usr/bin/env python3
"""Measure dropping experts against `cp` of the same bytes, and against loading, slicing and saving with torch.

Inputs:  a checkpoint of generate_checkpoint.py of at least 6 GB (4 layers), one shard per layer.
Output:  a table, and the same figures as JSON. Every step is a process of its own, run in turn, and flushes its files
         to the disk within the time that counts. Peak memory is the process's, the interpreter included (ru_maxrss,
         which is at least that of this script).
Example: .venv/bin/python bench/bench_drop.py --checkpoint build/bench/checkpoints/4 --output build/bench/drop.json

cp: the pruned shards copied, then fsync. torch: safetensors load_file of each shard, rows indexed, saved in shards of
5 GB. The sources are a many-shard checkpoint, the same in one shard, and a GGUF file with the same tensors.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "scripts"))

from checkpoints.checkpoint import read_checkpoint
from files.byte_ranges import Run, write_runs
from files.option_types import command_parser
from files.safe_files import GIB, remove, run
from files.written_records import write_json
from ggufs.gguf_header import aligned, empty_header, header_bytes, key_value

from bench_table import end_on_broken_limit, row, table
from gguf.constants import GGMLQuantizationType

EXPERTS, KEEP = 128, 109
SPEED_LIMIT, MEMORY_LIMIT_BYTES = 0.9, 300_000_000
GGUF_NAMES = {
    "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
    "router.proj.weight": "ffn_gate_inp.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
}
COPY = """
import os, shutil, sys
source, target = sys.argv[1:]
os.mkdir(target)
for name in sorted(os.listdir(source)):
    if name.endswith((".safetensors", ".gguf")):
        os.spawnlp(os.P_WAIT, "cp", "cp", f"{source}/{name}", f"{target}/{name}") and sys.exit("cp failed")
        handle = os.open(f"{target}/{name}", os.O_RDONLY)
        os.fsync(handle)
"""
# Takes hold of nearly all free memory once: see `timed`.
TOUCH = """
import mmap
free = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemFree")) * 1024 - (1 << 30)
if free > 0:
    memory = mmap.mmap(-1, free)
    for offset in range(0, free, 4096):
        memory[offset] = 1
"""
TORCH = """
import json, os, sys, glob
import torch
from safetensors.torch import load_file, save_file
source, drop_map, target = sys.argv[1:]
keep = {layer: entry["keep"] for layer, entry in json.load(open(drop_map))["layers"].items()}
os.mkdir(target)
shard, size, number = {}, 0, 0
def save():
    global shard, size, number
    number += 1
    path = f"{target}/model-{number:05d}.safetensors"
    save_file(shard, path, {"format": "pt"})
    os.fsync(os.open(path, os.O_RDONLY))
    shard, size = {}, 0
for path in sorted(glob.glob(f"{source}/*.safetensors")):
    for name, tensor in load_file(path).items():
        if ".experts." in name or ".router.proj." in name or "per_expert_scale" in name:
            tensor = tensor[torch.tensor(keep[name.split(".")[2]])]
        if size + tensor.nbytes > 5_000_000_000:
            save()
        shard[name] = tensor
        size += tensor.nbytes
save()
"""


def write_map(path: Path, layers: int) -> None:
    """Write a map that drops every seventh expert or so, in other places in every layer."""
    entries = {}
    for layer in range(layers):
        drop = sorted((7 * i + 3 * layer) % EXPERTS for i in range(EXPERTS - KEEP))
        entries[str(layer)] = {"drop": drop, "keep": [expert for expert in range(EXPERTS) if expert not in drop]}
    write_json(path, {"experts": EXPERTS, "layers": entries})


def write_gguf(checkpoint: Path, path: Path) -> None:
    """Write a GGUF with the expert tensors, routers and attention weights of a checkpoint, as they are (BF16)."""
    header = empty_header(path)
    pairs = [
        key_value("general.architecture", "gemma4"),
        key_value("gemma4.expert_count", EXPERTS),
        key_value("gemma4.expert_used_count", 8),
    ]
    tensors = []
    pieces: list[bytes | Run] = []
    for name, tensor in read_checkpoint(checkpoint).items():
        for end in filter(name.endswith, GGUF_NAMES):
            place = f"blk.{name.split('.')[2]}.{GGUF_NAMES[end]}"
            tensors.append((place, tuple(reversed(tensor.shape)), GGMLQuantizationType.BF16))
            padding = bytes(aligned(tensor.size, header.alignment) - tensor.size)
            pieces += [Run(tensor.file, tensor.offset, tensor.size), padding]
    remove(path)
    write_runs(path, [header_bytes(header, pairs, tensors), *pieces], lambda count: None)


def timed(command: list[str], clear: Path, source: Path) -> dict[str, float]:
    """Run a command after removing `clear`; return its seconds and peak bytes.

    Before that the disk is settled, free memory is touched and `source` is read into the page cache. Otherwise what ran
    before would decide whether a source is read from memory or disk. In a virtual machine that gives free memory back,
    it would also decide what a page of the output costs.
    """
    remove(clear)
    os.sync()
    subprocess.run([sys.executable, "-c", TOUCH], check=True)
    for path in [source] if source.is_file() else sorted(source.iterdir()):
        with open(path, "rb", buffering=0) as file:
            while file.read(64 << 20):
                pass
    start = time.monotonic()
    pid = os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        ],
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"error: {' '.join(command)[:200]}: expected success, found status {status}")
    return {"seconds": time.monotonic() - start, "peak_bytes": usage.ru_maxrss * 1024}


def drop_command(source: Path, drop_map: Path, output: Path, *options: str) -> list[str]:
    """Return the command line of expert_drop.py."""
    paths = ["--source", str(source), "--drop-map", str(drop_map), "--output", str(output)]
    return [sys.executable, str(REPO / "scripts/expert_drop.py"), *paths, *options]


def compare(
    source: Path, drop_map: Path, work: Path, repeats: int, with_torch: bool
) -> dict[str, list[dict[str, float]]]:
    """Take turns, each in the opposite order of the last: drop, cp of its output, and torch's load-slice-save."""
    target, folder = work / "pruned", work / "pruned"
    if source.suffix == ".gguf":
        (work / "gguf").mkdir(exist_ok=True)
        folder, target = work / "gguf", work / "gguf/pruned.gguf"
    copy = [sys.executable, "-c", COPY, str(folder), str(work / "copied")]
    plan = {"drop": (drop_command(source, drop_map, target), target, source), "cp": (copy, work / "copied", folder)}
    if with_torch:
        load_and_save = [sys.executable, "-c", TORCH, str(source), str(drop_map), str(work / "torch")]
        plan["torch"] = (load_and_save, work / "torch", source)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in plan}
    for turn in range(repeats + 1):  # the first turn warms up and is not counted
        for name, run_of in reversed(plan.items()) if turn % 2 else plan.items():
            result = timed(*run_of)
            if turn:
                runs[name].append(result)
    for path in (folder, work / "copied", work / "torch"):
        remove(path)
    return runs


def rows_of(name: str, runs: dict[str, list[dict[str, float]]]) -> list[dict]:
    """Return the table rows of one source."""
    seconds = {kind: [one["seconds"] for one in values] for kind, values in runs.items()}
    peak = {kind: max(one["peak_bytes"] for one in values) for kind, values in runs.items()}
    speeds = [cp / drop for cp, drop in zip(seconds["cp"], seconds["drop"])]
    rows = [
        row(f"{name}: speed of cp", statistics.median(speeds), "x", SPEED_LIMIT, at_least=True),
        row(f"{name}: the same, slowest turn", min(speeds), "x"),
        row(f"{name}: the same, fastest turn", max(speeds), "x"),
        row(f"{name}: peak memory", peak["drop"] / 1e6, "MB", MEMORY_LIMIT_BYTES / 1e6),
        row(f"{name}: seconds", statistics.median(seconds["drop"]), "s"),
    ]
    if "torch" in runs:
        speed = statistics.median(t / drop for t, drop in zip(seconds["torch"], seconds["drop"]))
        rows += [
            row(f"{name}: speed of torch load-slice-save", speed, "x"),
            row(f"{name}: its peak memory", peak["torch"] / 1e6, "MB"),
        ]
    return rows


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--checkpoint", type=Path, required=True, help="many-shard checkpoint of generate_checkpoint.py")
    add("--output", type=Path, required=True, help="JSON file to write")
    add = parser.add_argument_group("how it is measured").add_argument
    add("--repeats", type=int, default=3, help="counted turns")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    work = args.output.parent / "drop"
    remove(work)
    (work / "one").mkdir(parents=True)
    layers = json.loads((args.checkpoint / "config.json").read_text())["num_hidden_layers"]
    write_map(work / "map.json", layers)
    write_json(work / "keep-all.json", {str(layer): [] for layer in range(layers)})
    one = work / "one/checkpoint"  # the same tensors in one shard: a drop of nothing
    timed(
        drop_command(args.checkpoint, work / "keep-all.json", one, "--shard-bytes", str(1 << 40)), one, args.checkpoint
    )
    source_bytes = sum(tensor.size for tensor in read_checkpoint(args.checkpoint).values())
    results = {
        "many shards": compare(args.checkpoint, work / "map.json", work, args.repeats, with_torch=True),
        "one shard": compare(one, work / "map.json", work, args.repeats, with_torch=True),
    }
    shutil.rmtree(work / "one")
    write_gguf(args.checkpoint, work / "full.gguf")
    results["GGUF"] = compare(work / "full.gguf", work / "map.json", work, args.repeats, with_torch=False)
    rows = [row("source", source_bytes / GIB, "GiB")]
    rows += [entry for name, runs in results.items() for entry in rows_of(name, runs)]
    remove(work)
    write_json(args.output, {"rows": rows, "repeats": args.repeats, "runs": results})
    print(table(rows))
    end_on_broken_limit(args.output, rows)


if __name__ == "__main__":
    run(main)
