"""A draft model by the real tools: it fits or is refused, drafts what transformers drafts, and changes no answer."""

import io
import json
import shutil
import urllib.error
from email.message import Message
from pathlib import Path

import build_draft
import measure_draft
import quantize_gguf
from calls import call
from chats.questions import QUESTION_SEED, load_questions
from conftest import DEMO
from demo.demo_assistant import DRAFTED_TOKENS, drafts
from files.input_errors import InputError, sha256_file
from files.json_records import read_record
from ggufs.draft_fit import check_fits
from ggufs.gguf_header import GgufHeader, key_value, read_header, write_header_only
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import convert_header_only
from makers.quantize_runs import quantize_arguments
from makers.shared_ggufs import demo_ggufs, tiny_ggufs
from quants.draft_plan import plan_draft
from quants.draft_record import DraftRecord
from speed.draft_results import DraftResults, acceptance, check_same_answers, draft_rows, tokens_per_pass
from speed.greedy_answers import ask_greedily
from speed.round_speeds import factor_and_error

import pytest
import torch
import transformers

ASSISTANT = DEMO / "assistant"
DRAFT = "mtp-demo-Q8_0.gguf"


def arguments(built: Path, output: Path, model: Path = ASSISTANT, target: str = "F16.gguf") -> list[object]:
    return ["--model", model, "--target", built / target, "--name", "demo", "--output", output]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with F16.gguf and Q8_0.gguf of the demo, and its draft model."""
    folder, shared = tmp_path_factory.mktemp("draft"), demo_ggufs(tmp_path_factory)
    for name in ("F16.gguf", "F16.gguf.json", "imatrix.gguf", "imatrix.gguf.json"):
        shutil.copy2(shared / name, folder / name)
    quantize_gguf.main(quantize_arguments(folder, "Q8_0", folder / "Q8_0.gguf"))
    call(build_draft.main, *arguments(folder, folder / DRAFT))
    return folder


def test_an_assistant_becomes_a_file_with_a_record_and_is_not_built_twice(built, capsys):
    record = read_record(Path(f"{built / DRAFT}.json"), DraftRecord)
    assert (record["sha256"], record["bytes"]) == (sha256_file(built / DRAFT), (built / DRAFT).stat().st_size)
    assert record["target_sha256"] == sha256_file(built / "F16.gguf") and record["architecture"] == "gemma4-assistant"
    header = read_header(built / DRAFT)
    assert {tensor.kind.name for tensor in header.tensors if len(tensor.dims) > 1} == {"Q8_0"}
    before = (built / DRAFT).read_bytes()
    call(build_draft.main, *arguments(built, built / DRAFT))
    assert "built already" in capsys.readouterr().out and (built / DRAFT).read_bytes() == before


def test_its_size_is_planned_to_the_byte(built, tools, tmp_path, monkeypatch):
    (tmp_path / "F16.gguf").symlink_to(built / "F16.gguf")
    target, headers = read_header(built / "F16.gguf"), []

    def convert_once(*given: object) -> None:
        """Let the converter write the header for the first type; it is the same one for each."""
        if headers:
            shutil.copy(headers[0], given[3])
        else:
            convert_header_only(*given)
            headers.append(given[3])

    monkeypatch.setattr("quants.draft_plan.convert_header_only", convert_once)
    for kind in ("F16", "Q4_0", "Q8_0"):
        work, path = tmp_path / kind, built / DRAFT if kind == "Q8_0" else tmp_path / f"draft-{kind}.gguf"
        work.mkdir()
        if kind != "Q8_0":
            call(build_draft.main, *arguments(tmp_path, path), "--type", kind)
        planned = {"name": f"mtp-{kind}", "bytes": path.stat().st_size}
        assert plan_draft(ASSISTANT, target, "demo", kind, tools, work) == planned


def test_another_model_and_a_checkpoint_that_is_no_assistant_are_refused(
    built, tiny_text_model, tmp_path_factory, refusal
):
    output, other = built / "mtp-other-Q8_0.gguf", tiny_ggufs(tmp_path_factory, tiny_text_model)
    refusal(build_draft.main, arguments(built, output, model=DEMO / "model"), "config.json", "expected an assistant")
    refusal(build_draft.main, arguments(other, output), ASSISTANT, "it is of another model")
    assert not output.exists() and not Path(f"{output}.json").exists()


def changed(header: GgufHeader, ending: str, value: object, output: Path) -> GgufHeader:
    """Return a header whose key with this ending has another value."""
    pairs = [key_value(p.key, value) if p.key.endswith(ending) else p.raw for p in header.key_values]
    return write_header_only(header, pairs, [(t.name, t.dims, t.kind) for t in header.tensors], output)


@pytest.mark.parametrize(
    ("ending", "value", "words"),
    [
        ("gemma4.embedding_length", 512, "expected states of 512 values, as F16.gguf has, found 256"),
        ("head_count_kv", [4, 2, 1], "expected keys of full layers .* 1 heads of 64 values, found 2 heads of 64"),
        ("key_length_swa", 64, "expected keys of sliding layers .* 4 heads of 64 values, found 4 heads of 32"),
        ("sliding_window_pattern", [True, False, True], "expected a last layer with full attention"),
        ("sliding_window_pattern", [False, False, False], "expected a sliding layer before the last"),
        ("tokenizer.ggml.tokens", ["a", "b"], "expected the vocabulary of F16.gguf, found 3001 tokens for 2"),
    ],
)
def test_each_part_that_does_not_fit_is_named(built, tmp_path, ending, value, words):
    draft, target = read_header(built / DRAFT), read_header(built / "F16.gguf")
    check_fits(draft, target, "draft")
    with pytest.raises(InputError, match=words):
        check_fits(draft, changed(target, ending, value, tmp_path / "F16.gguf"), "draft")
    with pytest.raises(InputError, match="expected a model of the architecture gemma4-assistant, found gemma4"):
        check_fits(target, target, "draft")


def test_the_training_sees_what_transformers_drafts():
    target = transformers.Gemma4ForCausalLM.from_pretrained(DEMO / "model", dtype=torch.float32).eval()
    assistant = transformers.Gemma4AssistantForCausalLM.from_pretrained(ASSISTANT, dtype=torch.float32).eval()
    ids = torch.randint(20, 3000, (1, 12), generator=torch.Generator().manual_seed(1))
    place = 7  # of the last token that is known
    with torch.no_grad():
        mine = [assistant.lm_head(states)[0] for states, _ in drafts(assistant, target, ids)]
        seen = target.model(input_ids=ids[:, :place], use_cache=False, return_shared_kv_states=True)
        state = seen.last_hidden_state[:, -1:]
        for step in range(DRAFTED_TOKENS):
            embedded = target.model.embed_tokens(ids[:, place + step : place + step + 1])
            output = assistant(
                inputs_embeds=torch.cat([embedded, state], dim=-1),
                position_ids=torch.tensor([[place]]),
                shared_kv_states=dict(seen.shared_kv_states),
            )
            torch.testing.assert_close(mine[step][place - 1], output.logits[0, 0], rtol=1e-4, atol=1e-3)
            state = output.last_hidden_state


def test_answers_stay_and_most_drafts_are_accepted(built, tmp_path):
    output = tmp_path / "draft.md"
    common = ["--draft", built / DRAFT, "--questions", DEMO / "eval_questions.csv", "--limit", 3, "--rounds", 1]
    call(measure_draft.main, *common, "--gguf", f"demo={built / 'Q8_0.gguf'}", "--output", output)
    results = read_record(output.with_suffix(".json"), DraftResults)
    assert (results["context"], results["gpu_layers"]) == (4096, 0)
    answers = results["models"][0]
    assert answers["same"] == [True] * 3 and min(answers["tokens"]) > 5
    assert acceptance(answers)[0] > 0.4 and tokens_per_pass(answers) > 1.4
    assert f"| {' | '.join(draft_rows(results)[0])} |" in output.read_text()


@pytest.mark.parametrize("said", ["The model's text does not match the expected peg-gemma4 format", "out of memory"])
def test_an_answer_that_the_server_s_parser_does_not_read_is_timed_all_the_same(built, tools, tmp_path, said):
    """It is always the same text, so a measurement that ended there could never go on."""

    class Refusing(LlamaServer):
        def request(self, path: str, *more: object, **options: object) -> dict:
            if "chat" in path:
                raise urllib.error.HTTPError(path, 500, "", Message(), io.BytesIO(said.encode()))
            return super().request(path, *more, **options)

    gguf, question = built / "Q8_0.gguf", load_questions(DEMO / "eval_questions.csv", QUESTION_SEED)[0]
    command = server_command(tools.tool("llama-server"), gguf, "demo", 0, ["-c", "4096", "-np", "1"])
    with Refusing(command, gguf, tmp_path / "server.log") as server:
        if "format" not in said:
            with pytest.raises(InputError, match="expected an answer to .*, found HTTP 500: out of memory"):
                ask_greedily(server, question, 8)
            return
        first, again = (ask_greedily(server, question, 8) for _ in range(2))
    assert (first.tokens, first.text, first.whole) == (8, "", again.whole) and first.whole


def test_figures_of_made_up_answers_and_a_changed_answer_is_refused():
    answers = {"name": "a", "gguf": "a.gguf", "tokens": [12, 8], "drafted": [8, 8], "accepted": [6, 4]}
    answers |= {"same": [True, False], "speeds": [30.0, 20.0], "speeds_without": [20.0, 20.0]}
    assert acceptance(answers)[0] == 10 / 16 and tokens_per_pass(answers) == 20 / 10
    assert factor_and_error([30, 20], [20, 20]) == pytest.approx((1.25, 0.25)) and factor_and_error([3], [2]) == (
        1.5,
        None,
    )
    with pytest.raises(InputError, match="expected the same greedy answers of a.gguf .*found 1 others of 2"):
        check_same_answers({"file": "d.gguf", "questions": 2, "models": [answers]})


def test_a_damaged_draft_model_is_refused(built, tmp_path, refusal):
    copy = tmp_path / DRAFT
    copy.write_bytes((built / DRAFT).read_bytes()[:-1] + b"\1")
    shutil.copy(f"{built / DRAFT}.json", f"{copy}.json")
    asked = ["--draft", copy, "--questions", DEMO / "eval_questions.csv", "--output", tmp_path / "draft.md"]
    refusal(measure_draft.main, [*asked, "--gguf", f"demo={built / 'Q8_0.gguf'}"], DRAFT, "build it again")
    assert json.loads(Path(f"{copy}.json").read_text())["name"] == "demo"
