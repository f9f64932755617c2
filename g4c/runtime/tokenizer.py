"""Text to token ids and back: a checkpoint's tokenizer, or a byte-level stand-in that says so.

In: a bundle or checkpoint directory; then text or ids. Out: ids that begin with <bos> exactly once; text, whole or
piece by piece as ids come.
Invariant: what a `Detokenizer` has emitted never changes when more ids come, and holds no part of a character.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from g4c.errors import G4cError

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(Protocol):
    """What generation needs of a tokenizer."""

    description: str
    stand_in: bool

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, <bos> first and once, also where the text itself begins with it."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out; bytes that make no character become U+FFFD."""
        ...


def load_tokenizer(directory: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer in `directory`, else a stand-in for a model with `vocabulary` token ids. G4C-R062, R063."""
    if has_tokenizer(directory):
        return CheckpointTokenizer(directory)
    return ByteTokenizer(vocabulary)


def has_tokenizer(directory: Path) -> bool:
    """Whether `directory` holds a tokenizer that can be loaded."""
    return (directory / "tokenizer.json").is_file() or (directory / "tokenizer.model").is_file()


def end_token_ids(directory: Path) -> frozenset[int]:
    """Every id that ends a sequence, by config.json (text config included) and generation_config.json together."""
    ids: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        config = _json(directory / name)
        for section in (config, config.get("text_config")):
            value = section.get("eos_token_id") if isinstance(section, dict) else None
            ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


class CheckpointTokenizer:
    """The tokenizer of a checkpoint: tokenizer.json, else whatever transformers makes of the directory."""

    stand_in = False

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        try:
            self._tokenizer = _from_json(path) if path.is_file() else _from_transformers(directory)
        except Exception as error:  # both libraries raise bare Exceptions for a damaged file
            raise G4cError(
                "G4C-R062",
                f"the tokenizer cannot be loaded: {error}",
                where=str(directory),
                help="give the prompt as --token-ids",
            ) from error
        self.description = f"tokenizer of {directory}, {self._tokenizer.get_vocab_size()} tokens"
        self._bos = self._tokenizer.token_to_id(_bos_token(directory))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(_well_formed(text), add_special_tokens=False).ids
        if self._bos is None:
            return ids
        while ids and ids[0] == self._bos:
            ids.pop(0)
        return [self._bos, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


class ByteTokenizer:
    """A stand-in where there is no tokenizer: one token per UTF-8 byte. It makes a random model usable, no more.

    Ids: 0 padding, 1 end, 2 <bos>, 3 unknown, as Gemma's; byte b is id 4 + b; other ids are shown as <id>.
    """

    stand_in = True
    description = "byte-level stand-in, NOT the model's tokenizer"
    _BOS = 2
    _FIRST = 4

    def __init__(self, vocabulary: int) -> None:
        if vocabulary < self._FIRST + 256:
            raise G4cError(
                "G4C-R063",
                f"the model has {vocabulary} token ids, the stand-in tokenizer needs {self._FIRST + 256}",
                help="give the prompt as --token-ids",
            )

    def encode(self, text: str) -> list[int]:
        return [self._BOS, *(self._FIRST + byte for byte in _well_formed(text).encode("utf-8"))]

    def decode(self, ids: Sequence[int]) -> str:
        pieces = bytearray()
        for token in ids:
            if token >= self._FIRST + 256:
                pieces += b"<%d>" % token
            elif token >= self._FIRST:
                pieces.append(token - self._FIRST)
        return pieces.decode("utf-8", "replace")


class Detokenizer:
    """Text of a growing list of ids, piece by piece. All pieces together are the text of all ids, where it is text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # ids[_start:_end] have been emitted, and are decoded again with what follows: a token's text may depend on the
        # one before it (leading spaces, bytes of one character).
        self._start = 0
        self._end = 0

    def add(self, token: int) -> str:
        """What `token` adds to the text; empty while a character is incomplete."""
        self._ids.append(token)
        emitted, text = self._texts()
        if len(text) <= len(emitted) or text.endswith(_REPLACEMENT):
            return ""
        self._start, self._end = self._end, len(self._ids)
        return text[len(emitted) :]

    def finish(self) -> str:
        """What is left at the end: bytes that never became a character, as U+FFFD."""
        emitted, text = self._texts()
        self._start = self._end = len(self._ids)
        return text[len(emitted) :]

    def _texts(self) -> tuple[str, str]:
        ids = self._ids[self._start :]
        return self._tokenizer.decode(ids[: self._end - self._start]), self._tokenizer.decode(ids)


def pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """The pieces of text in which `ids` are streamed."""
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.add(token) for token in ids), detokenizer.finish()]


def _from_json(path: Path) -> Any:
    from tokenizers import Tokenizer as FastTokenizer

    return FastTokenizer.from_file(str(path))


def _from_transformers(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(directory), local_files_only=True).backend_tokenizer


def _bos_token(directory: Path) -> str:
    token = _json(directory / "tokenizer_config.json").get("bos_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else "<bos>"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise G4cError("G4C-R062", f"{path.name} cannot be read: {error}", where=str(path)) from error
    return value if isinstance(value, dict) else {}


def _well_formed(text: str) -> str:
    """`text` without lone surrogates, which is what a shell's invalid bytes become."""
    return text.encode("utf-8", "replace").decode("utf-8")
