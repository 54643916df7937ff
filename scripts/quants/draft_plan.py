"""The size of a draft model before it is built: the converter writes a header alone, and llama-quantize tries it."""

from pathlib import Path

from checkpoints.assistant import check_assistant, check_states
from files.input_errors import InputError
from ggufs.companions import DRAFT
from ggufs.gguf_header import GgufHeader, read_header
from llama.llama_tools import LlamaCpp, convert_header_only
from quants.quant_plan import plan_quant
from quants.recipes import RECIPES


def plan_draft(assistant: Path, target: GgufHeader, name: str, kind: str, llama_cpp: LlamaCpp, work: Path) -> dict:
    """Return name and bytes of the draft model of an assistant checkpoint, to the byte, or why it would be refused.

    name, kind: as build_draft.py is given them; work: a directory. Raises InputError when the checkpoint is none.
    """
    config, width = check_assistant(assistant), target.value(f"{target.architecture}.embedding_length")
    try:
        check_states(config, width, assistant, "the model")
    except InputError as error:  # the quants' rows are still wanted
        return {"name": f"{DRAFT}{kind}", "refused": str(error)}
    f16 = work / f"{DRAFT}F16.gguf"
    convert_header_only(llama_cpp, assistant, name, f16, "f16")
    size = f16.stat().st_size
    if kind != "F16":
        size = plan_quant(llama_cpp.tool("llama-quantize"), RECIPES[kind], read_header(f16), None).size
    return {"name": f"{DRAFT}{kind}", "bytes": size}
