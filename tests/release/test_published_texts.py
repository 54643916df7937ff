"""What must not be published is found, in files and in headers: tokens, paths, hosts, question texts."""

import json
import socket
import struct
import zlib
from pathlib import Path

from files.input_errors import InputError
from gates.forbidden_texts import is_private, machine_names, question_runs, quoted_questions, secrets, words
from release.published_texts import Published, texts_of

import numpy as np
import pytest
from gguf import GGUFWriter

HEAD = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"
LONG = (
    "A vessel of two litres holds helium at room temperature and is then cooled until half of its pressure remains "
    "inside"
)


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "questions.csv"
    second = "Why is the night sky so dark?,because the universe is young and finite,4,5,6"
    path.write_text(f"{HEAD}q1,{LONG},12,13,14,15\nq2,{second}\n")
    return path


@pytest.mark.parametrize(
    "text, found",
    [
        ("a hf_" + "a1B2" * 9 + " b", "found hf_..."),
        ("see /home/ann/models/x", "/home/ann"),
        ('"/tmp/build.1/f"', "/tmp/build.1"),
        (r"C:\Users\ann", "C:\\Users\\ann"),
        ("http://10.1.2.3/x", "private host"),
        ("https://builder:8080/", "private host"),
        ("https://u:p@example.com", "private host"),
        ("ssh://box.internal/x", "private host"),
        ("https://pypi.corp/simple", "private host"),
        ("pulled from mirror.corp:8080", "mirror.corp:8080"),
        ("on 192.168.0.4.", "192.168.0.4"),
        ("by 10.0.0.9", "10.0.0.9"),
        ("gh" + "p_" + "a1B2" * 9, "found ghp_..."),
        ("gh" + "r_" + "a1B2" * 9, "found ghr_..."),
        ("github" + "_pat_" + "11A_b2" * 9, "found github_..."),
        ("-----BEGIN PRIVATE" + " KEY-----", "no token"),
        ("build on box-7", "the host's name"),
        ("in /very/own/place/build", "the home directory"),
    ],
)
def test_secrets_are_found(text, found):
    lines = secrets(
        [Published("README.md", text)], {"box-7": "the host's name", "/very/own/place/": "the home directory"}
    )
    assert len(lines) == 1 and lines[0].startswith("README.md: expected no") and found in lines[0]
    assert "a1B2" not in lines[0]


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/google/gemma-4-26B-A4B-it",
        "https://ai.google.dev/gemma/terms",
        "hf_hub and hf_short",
        "http://127.0.0.1:8080/health",
        "https://example.org/home/ann/x",
        "version 10.4.1, 1.10.0.0.9",
        "172.15.0.1",
        "x.corporate",
        "risk-" + "a" * 40,
        "and/or, 1/2, ~/.cache",
        "the matchbox-70",
        "scripts/tmp/x",
    ],
)
def test_what_is_public_is_not_found(text):
    assert secrets([Published("README.md", text)], {"box-7": "the host's name"}) == []


def test_what_is_the_bases_own_may_hold_anything_but_tokens_and_this_machine():
    text = "/home/ann\nhttp://www\nhttp://a:80"
    assert secrets([Published("t", text, True)], {}) == [] and len(secrets([Published("t", text)], {})) == 3
    assert len(secrets([Published("t", f"x\nhf_{'a' * 30}\nbox-7", True)], {"box-7": "the host's name"})) == 2


def test_hosts_that_answer_everyone_are_public():
    assert not is_private("https://hf.co/x") and not is_private("http://8.8.8.8/") and is_private("http://192.168.1.2/")


def test_names_of_this_machine_are_searched_for_or_named(tmp_path):
    names, unsearched = machine_names(tmp_path / "release")
    assert f"{tmp_path}/" in names and f"{Path.cwd()}/" in names
    host = socket.gethostname()
    assert host in names or any(host in line for line in unsearched) or host == "localhost"


def test_question_texts_are_found_by_runs_of_words(questions):
    known, compared, short = question_runs([questions])
    assert (compared, short) == (3, 0) and sorted(known) == [7, 8]
    quoted = f"see: {LONG.upper().replace(' ', '  ')}!"
    assert quoted_questions([Published("README.md", quoted)], known) == [
        "README.md: expected no text of a question, found that of q1"
    ]

    def quoted_by(text: str) -> bool:
        return bool(quoted_questions([Published("x", text)], known))

    assert quoted_by("holds helium at room temperature and is then")  # eight words of it
    assert not quoted_by("holds helium at room temperature and is")  # seven
    assert quoted_by("why is the night sky, so dark") and not quoted_by("the night sky is so dark")
    line = quoted_questions([Published("x", f"{LONG} {LONG} Because the universe is young and finite.")], known)[0]
    assert line.endswith("found that of q1 and 1 others") and "helium" not in line


def test_numbers_alone_are_no_question(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text(f"{HEAD}q1,1 2 3 4 5 6 7 8 9 10,1,2,3,4\n")
    assert words("1, 2: x 3") == []
    with pytest.raises(InputError, match="expected question texts of 6 words or more, found none"):
        question_runs([path])


def test_headers_are_read_and_not_the_weights(tmp_path):
    writer = GGUFWriter(tmp_path / "a.gguf", "gemma4")
    writer.add_string("general.source.url", "/home/ann/model")
    writer.add_array("general.tags", ["one", "hf_" + "b" * 30])
    writer.add_token_list(["/home/bob", LONG])
    writer.add_tensor("x", np.frombuffer(b"/home/eve/weights" + bytes(47), np.int8))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    texts = list(texts_of(tmp_path / "a.gguf", "a.gguf"))
    found = secrets(texts, {})
    assert sorted(line.split(":")[0] for line in found) == ["a.gguf, general.source.url", "a.gguf, general.tags"]
    assert any(entry.of_base and LONG in entry.text for entry in texts)
    header = json.dumps({"__metadata__": {"from": "/root/x"}, "w": {}}).encode()
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"/root/y")
    (tmp_path / "c.safetensors").write_bytes(b"\xff" * 9)
    with pytest.raises(InputError, match="a whole safetensors file"):
        list(texts_of(tmp_path / "c.safetensors", "c"))
    assert secrets(texts_of(tmp_path / "b.safetensors", "b"), {}) == [
        "b, its header: expected no path of a machine, found /root/x"
    ]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    "kind, body",
    [
        (b"tEXt", b"Comment\0" + LONG.encode()),
        (b"zTXt", b"Comment\0\0" + zlib.compress(LONG.encode())),
        (b"iTXt", b"Comment\0\1\0en\0\0" + zlib.compress(LONG.encode(), 9)),
        (b"iTXt", b"Comment\0\0\0en\0\0" + LONG.encode()),
    ],
)
def test_texts_of_a_picture_are_read_compressed_or_not(questions, tmp_path, kind, body):
    picture, known = tmp_path / "a.png", question_runs([questions])[0]
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(kind, body) + chunk(b"IEND", b""))
    assert quoted_questions(texts_of(picture, "a.png"), known) == [
        "a.png: expected no text of a question, found that of q1"
    ]
    picture.write_bytes(picture.read_bytes()[:-40])  # cut short
    assert list(texts_of(picture, "a.png"))


def test_json_is_read_without_its_escapes(questions, tmp_path):
    known, path = question_runs([questions])[0], tmp_path / "a.json"
    path.write_text(json.dumps({"deep": [{"\n".join(LONG.split()): 1}]}))
    assert quoted_questions(texts_of(path, "a.json"), known) == [
        "a.json: expected no text of a question, found that of q1"
    ]
    path.write_text("{ \\ no JSON")
    assert quoted_questions(texts_of(path, "a.json"), known) == []
