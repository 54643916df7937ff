"""The tokenizer of a checkpoint: it comes without torch, and is the same."""

import json
import subprocess
import sys
from pathlib import Path

from chats.chat_tokenizer import load_tokenizer
from conftest import REPO

import torch  # noqa: F401 (here it is loaded)

TEXT = "Ein Satz, é \U0001f600 <b>| and 12.5 % of it"
ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from chats.chat_tokenizer import load_tokenizer
tokenizer = load_tokenizer(Path(sys.argv[2]))
print(json.dumps([type(tokenizer).__name__, tokenizer(sys.argv[3])["input_ids"], "torch" in sys.modules]))
"""


def test_a_tokenizer_alone_brings_no_torch_and_has_the_same_ids(demo_model: Path):
    command = [sys.executable, "-c", ALONE, REPO / "scripts", demo_model, TEXT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tokenizer = load_tokenizer(demo_model)
    assert json.loads(done.stdout) == [type(tokenizer).__name__, tokenizer(TEXT)["input_ids"], False]
