"""What is evaluated: a GGUF file, or the directory of a checkpoint that another server serves."""

from pathlib import Path

from checkpoints.checkpoint import hold_checkpoint, read_checkpoint, read_config, source_digest
from checkpoints.moe_families import family_of, shape_of
from files.known_digests import known_sha256
from ggufs.gguf_header import read_header


def evaluated_sha256(path: Path) -> str:
    """Return the digest of a GGUF file, or that of a checkpoint over all its files."""
    if not path.is_dir():
        return known_sha256(path)
    hold_checkpoint(path)
    return source_digest(path)


def evaluated_facts(path: Path) -> dict:
    """Return what a summary says of the evaluated file: name, digest, bytes and experts per layer."""
    digest = evaluated_sha256(path)
    if not path.is_dir():
        facts = {"gguf_bytes": path.stat().st_size, "experts": read_header(path).experts}
        return {"gguf": path.name, "gguf_sha256": digest, **facts}
    config, tensors = read_config(path), read_checkpoint(path)
    experts = shape_of(path, family_of(path, config, list(tensors)), config).experts
    size = sum(tensor.size for tensor in tensors.values())
    return {"gguf": path.resolve().name, "gguf_sha256": digest, "gguf_bytes": size, "experts": experts}
