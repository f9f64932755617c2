"""Tokenizers: a small real one with byte fallback as Gemma's, the stand-in, streaming, end tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as FastTokenizer

from g4c.errors import G4cError
from g4c.runtime.tokenizer import (
    ByteTokenizer,
    CheckpointTokenizer,
    Tokenizer,
    end_token_ids,
    has_tokenizer,
    load_tokenizer,
    pieces,
)

BOS = 2
TEXTS = ["", "the cat", " the  cat\n", "naïve café", "日本語 und 🐈‍⬛ cats", "\x00\t\r\n", "\N{REPLACEMENT CHARACTER}x"]


def write_tokenizer(directory: Path) -> None:
    """A BPE with byte fallback, spaces as U+2581 and a <bos> template: the construction of Gemma's tokenizer."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": BOS, "<unk>": 3}
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("c", "a"), ("ca", "t"), ("\u2581", "cat")]
    letters = sorted({letter for pair in merges for letter in "".join(pair)})
    for token in [*letters, *("".join(pair) for pair in merges)]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = FastTokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", BOS)])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<pad>", "<eos>", "<bos>", "<unk>")])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module", params=["checkpoint", "stand-in"])
def tokenizer(request: pytest.FixtureRequest, directory: Path) -> Tokenizer:
    return CheckpointTokenizer(directory) if request.param == "checkpoint" else ByteTokenizer(300)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(directory: Path, text: str) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(directory)
    assert CheckpointTokenizer(directory).encode(text) == theirs(text)["input_ids"]


def test_merges_are_used(directory: Path) -> None:
    assert len(CheckpointTokenizer(directory).encode(" the cat")) == 3


@pytest.mark.parametrize("text", ["<bos>the cat", "<bos><bos>the cat"])
def test_bos_is_there_once_also_where_the_text_has_it(directory: Path, text: str) -> None:
    tokenizer = CheckpointTokenizer(directory)
    assert tokenizer.encode(text) == tokenizer.encode("the cat")


def test_bos_inside_a_text_stays(directory: Path) -> None:
    assert CheckpointTokenizer(directory).encode("the<bos>cat").count(BOS) == 2


def test_the_token_called_bos_is_read_from_the_configuration(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text((directory / "tokenizer.json").read_text())
    tokens = {"<pad>": 0, "<none>": ord("a") + 4}
    for name, first in tokens.items():
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": name}}))
        ids = CheckpointTokenizer(tmp_path).encode("a")
        assert len(ids) == (2 if name == "<pad>" else 1)
        assert (ids[0] == first) == (name == "<pad>")


def test_lone_surrogates_do_no_harm(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\udce9b")) == "a?b"


# -- streaming ---------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_streamed_pieces_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 270), max_size=40))
def test_any_ids_stream_as_they_decode(tokenizer: Tokenizer, ids: list[int]) -> None:
    streamed, text = "".join(pieces(tokenizer, ids)), tokenizer.decode(ids)
    # `tokenizers` takes back the valid bytes before an invalid one; what is on the screen cannot be taken back.
    if "\N{REPLACEMENT CHARACTER}" not in text or tokenizer.stand_in:
        assert streamed == text


def test_no_piece_holds_a_part_of_a_character(tokenizer: Tokenizer) -> None:
    text = "a🐈é日b"
    streamed = pieces(tokenizer, tokenizer.encode(text))
    assert [piece for piece in streamed if piece] == list(text)


def test_an_incomplete_character_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🐈")[:-1]
    assert pieces(tokenizer, ids)[:-1] == ["", "a", "", "", ""]
    assert set(pieces(tokenizer, ids)[-1]) == {"\N{REPLACEMENT CHARACTER}"}


def test_spaces_between_tokens_are_kept(directory: Path) -> None:
    tokenizer = CheckpointTokenizer(directory)
    assert pieces(tokenizer, tokenizer.encode(" the cat the")) == ["", " the", " cat", " the", ""]


# -- the stand-in ------------------------------------------------------------------------------------------------------


def test_the_stand_in_says_so() -> None:
    tokenizer = ByteTokenizer(262144)
    assert tokenizer.stand_in
    assert "NOT the model's" in tokenizer.description
    assert tokenizer.decode([2, 4 + ord("a"), 200000, 4 + ord("b"), 1]) == "a<200000>b"


def test_a_vocabulary_below_256_bytes_is_refused() -> None:
    ByteTokenizer(260)
    with pytest.raises(G4cError) as refused:
        ByteTokenizer(259)
    assert refused.value.code == "G4C-R063"


def test_what_is_there_decides(directory: Path, tmp_path: Path) -> None:
    assert has_tokenizer(directory)
    assert not load_tokenizer(directory, 300).stand_in
    assert not has_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, 300).stand_in


@pytest.mark.parametrize(("name", "content"), [("tokenizer.json", "{"), ("tokenizer.model", "nonsense")])
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(G4cError) as refused:
        load_tokenizer(tmp_path, 300)
    assert refused.value.code == "G4C-R062"


# -- end tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 1}, None, {1}),
        ({"eos_token_id": [1, 106]}, {"eos_token_id": [1, 50]}, {1, 50, 106}),
        ({"text_config": {"eos_token_id": 7}, "eos_token_id": None}, {"eos_token_id": 1}, {1, 7}),
        ({}, {}, set()),
        (None, None, set()),
    ],
    ids=str,
)
def test_end_tokens_are_the_union(
    tmp_path: Path, config: dict | None, generation: dict | None, expected: set[int]
) -> None:
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    assert end_token_ids(tmp_path) == expected


def test_a_damaged_generation_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(G4cError, match=r"generation_config\.json cannot be read"):
        end_token_ids(tmp_path)
