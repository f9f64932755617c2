"""How MLIR text spells strings, symbols, names and floats; each rule with its inverse where one is needed.

In: Python values. Out: text, and back. Invariant: `unquote(quote(s)) == s` and `parse_float(format_float(x))` has the
bits of `x`, for every string and every float.
"""

from __future__ import annotations

import re
import struct

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]*")
_NAME = re.compile(r"[A-Za-z_$.-][A-Za-z0-9_$.-]*")
_ESCAPED = re.compile(rb'\\(["\\nt]|[0-9A-Fa-f]{2})')
_LETTER_ESCAPES = {b'"': b'"', b"\\": b"\\", b"n": b"\n", b"t": b"\t"}


def is_bare(name: str) -> bool:
    """Whether `name` can stand in the text as an attribute key or after `@` without quotes."""
    return _BARE.fullmatch(name) is not None


def is_valid_name(name: str) -> bool:
    """Whether `name` can name a parameter (`%name`) in the text."""
    return _NAME.fullmatch(name) is not None


def quote(text: str) -> str:
    """`text` as a string literal. Control characters become two hexadecimal digits, as MLIR has it; others stay."""
    return '"' + "".join(_escape(char) for char in text) + '"'


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return f"\\{ord(char):02X}" if ord(char) < 0x20 or ord(char) == 0x7F else char


def unquote(literal: str) -> str:
    """The text of a string literal. ValueError where an escape is malformed."""
    body = literal[1:-1].encode()
    if b"\\" in _ESCAPED.sub(b"", body):
        raise ValueError(f'malformed escape in {literal}; there are \\" \\\\ \\n \\t and two hexadecimal digits')
    return _ESCAPED.sub(lambda match: _LETTER_ESCAPES.get(match[1]) or bytes.fromhex(match[1].decode()), body).decode()


def format_symbol(name: str) -> str:
    """`@name`, quoted where it must be."""
    return f"@{name}" if is_bare(name) else f"@{quote(name)}"


def format_float(value: float) -> str:
    """The shortest decimal that reads back equal, with the point that MLIR wants; inf and nan as the bits of an f64."""
    text = repr(float(value))
    if text.lstrip("-") in ("inf", "nan"):
        return "0x" + struct.pack(">d", value).hex().upper()
    if "e" in text and "." not in text:
        mantissa, _, exponent = text.partition("e")
        return f"{mantissa}.0e{exponent}"
    return text


def parse_float(text: str) -> float:
    """The inverse of `format_float`. ValueError where `text` is no such number."""
    if not text.startswith("0x"):
        return float(text)
    if len(text) != 18:
        raise ValueError(f"an f64 in hexadecimal has 16 digits: {text}")
    value: float = struct.unpack(">d", bytes.fromhex(text[2:]))[0]
    return value
