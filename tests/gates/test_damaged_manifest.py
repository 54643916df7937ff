"""What a manifest says that no file or record of its build says fails the gates `records` and `build`."""

from files.input_errors import InputError
from makers.pruned_models import NAME
from release.manifest import read_manifest
from release.sources import sources_path

import pytest


@pytest.mark.parametrize(
    "change, words",
    [
        ({"note": "99% on GPQA"}, "the note of its type"),
        ({"arguments": ["--pure"]}, "the arguments of its type"),
        ({"type": "AUTO-0.01", "note": "99% on GPQA"}, "the note of its type"),
        ({"type": "CD-Q6_K", "arguments": ["--tensor-type", "attn_q=q8_0"]}, "tensors of other types than its"),
        ({"type": "Q8_0", "base": "Q8_0", "note": "near-lossless, large"}, "the type of llama-quantize MOSTLY_Q8_0"),
    ],
)
def test_what_a_record_says_is_what_the_file_says(build, change, words):
    records = read_manifest(build.release)["records"]
    name = f"{NAME}-Q6_K.gguf"
    build.change(build.release / "manifest.json", lambda m: m.update(records={**records, name: records[name] | change}))
    assert any(words in line for line in build.failing("records"))


def test_bits_per_weight_are_those_of_size_and_weights(build):
    def change(content: dict) -> None:
        content["records"][f"{NAME}-Q6_K.gguf"]["bits_per_weight"] = 2.0

    build.change(build.release / "manifest.json", change)
    with pytest.raises(InputError, match="with bits_per_weight = 8 x bytes / parameters"):
        read_manifest(build.release)


def test_a_field_that_no_record_has_is_refused(build):
    manifest = build.release / "manifest.json"
    build.change(manifest, lambda content: content.update(gpqa="99%"))
    assert build.failing("build") == [f"{manifest}: expected no field 'gpqa' of manifest.json, found one"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"settings": {"GPQA": "99%"}}, "expected settings of make, found 'GPQA'"),
        ({"settings": {"QUESTIONS": "99.csv"}}, "expected QUESTIONS among"),
        ({"settings": {"QUESTIONS": "scored.csv"}}, "expected QUESTIONS among calibration_questions.csv, found"),
        ({"settings": {"EVAL_QUESTIONS": "eval_questions.csv"}}, "expected EVAL_QUESTIONS among scored.csv, found"),
        (
            {"settings": {"QUESTIONS": "GPQA-99/calibration_questions.csv"}},
            "expected QUESTIONS without a folder, found",
        ),
        ({"settings": {"FOLD": "1/5"}}, "expected no FOLD, of which the release has no record, found '1/5'"),
        ({"settings": {"DOMAINS": "Physics:9"}}, "expected no DOMAINS, of which the release has no"),
        ({"settings": {"DROP_MAP": "best.json"}}, "expected no DROP_MAP, of which the release has no"),
        ({"settings": {"RUN": "99% on GPQA"}}, "expected RUN to be a plain name, found '99% on GPQA'"),
        ({"settings": {"SENSITIVITY_CHATS": "99%"}}, "expected no SENSITIVITY_CHATS, of which the release has no"),
        ({"settings": {"LOOP_TOKENS": "4321"}}, "expected no LOOP_TOKENS, of which the release has no record, found"),
        ({"settings": {"SENSITIVITY_CHATS": "64"}}, "expected no SENSITIVITY_CHATS, of which the release has no"),
        ({"settings": {"MIN_EXPERT_TOKENS": "9999"}}, "expected no MIN_EXPERT_TOKENS, of which the release has no"),
        ({"settings": {"QUALITY_CHATS": "5000"}}, "expected QUALITY_CHATS 4, as the records say, found '5000'"),
        ({"settings": {"GPU_LAYERS": "98"}}, "expected no GPU_LAYERS, of which the release has no record"),
        ({"settings": {"CALIBRATION": "v5"}}, "expected CALIBRATION text.txt, as the records say, found 'v5'"),
        ({"settings": {"EVAL_QUANT": "Q8_0"}}, "expected EVAL_QUANT Q6_K, as the records say"),
        ({"settings": {"QUALITY_SCORE": "all"}}, "expected QUALITY_SCORE reply, as the records say"),
        ({"settings": {"NO_IMATRIX": "Q4_K_M"}}, "expected no NO_IMATRIX, of which the release has no record"),
        ({"settings": {"CD_CUTS": "1/99,1/2"}}, "expected no CD_CUTS, of which the release has no record"),
        ({"settings": {"CRITERION": "reap"}}, "expected CRITERION coverage, as the records say"),
        ({"settings": {"EVAL_NAME": "GPQA-99.5"}}, "expected no EVAL_NAME, of which the release has no record"),
        ({"settings": {"SCORED": "no"}}, "expected SCORED yes, as the records say"),
        ({"settings": {"OLLAMA_PARAMS": "current"}}, "expected OLLAMA_PARAMS card, as the records say"),
        ({"settings": {"DRAFT": "google/gemma-4"}}, "expected no DRAFT, of which the release has no record"),
        ({"settings": {"QUANTS": "Q9_K"}}, "expected QUANTS to be a plain name"),
        ({"project_version": "9.9 (99%)"}, "found '9.9 (99%)'"),
    ],
)
def test_settings_and_version_are_this_project_s(build, change, words):
    assert not build.failing("build")
    build.change(build.release / "manifest.json", lambda content: content.update(change))
    assert words in build.failing("build")[0]


def test_a_copy_that_no_release_has_is_refused(build):
    (build.release / "RESULTS.md").write_text("99% on GPQA")
    listed = {"RESULTS.md": str(build.release / "RESULTS.md")}
    build.change(sources_path(build.release), lambda sources: sources["copies"].update(listed))
    assert any("RESULTS.md: expected a file that build_release.py" in line for line in build.failing("build"))


def test_a_setting_that_records_hold_is_not_left_out(build):
    """By the command without it something else would be done."""

    def leave_out(content: dict) -> None:
        del content["settings"]["SAMPLES"], content["settings"]["EVAL_QUESTIONS"]

    build.change(build.release / "manifest.json", leave_out)
    found = build.failing("build")
    assert "expected EVAL_QUESTIONS scored.csv, as the records say, found 'none'" in found[0]
    assert "expected SAMPLES 1, as the records say, found 'none'" in found[1]
