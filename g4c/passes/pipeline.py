"""Pipeline strings: `canonicalize,specialize-layers,tile-contractions{partition=128}` and back.

In: text. Out: a `Pipeline`, which prints as it was parsed (spaces aside) and whose order and levels were checked.
Grammar: entries separated by commas; an entry is a pass name, optionally with options in braces; an option is
`name=value`, with hyphens for the underscores of the field; values are integers, floats, true/false, words, or tuples
of integers as `1x128`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from g4c.errors import G4cError
from g4c.ir.op import Level
from g4c.passes.contract import Pass

_HEADER = re.compile(r"\A\s*//\s*pipeline:(.*)")
_NAME = re.compile(r"[^\s,{}=]+")


@dataclass(frozen=True)
class Entry:
    """One pass of a pipeline, with the options that were given, in the spelling that they were given in."""

    step: Pass
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        given = ",".join(f"{key}={value}" for key, value in self.options)
        return f"{self.step.name}{{{given}}}" if given else self.step.name


@dataclass(frozen=True)
class Pipeline:
    """Passes in order."""

    entries: tuple[Entry, ...] = ()

    @staticmethod
    def of(*passes: Pass) -> Pipeline:
        """The pipeline of these passes; options that differ from their defaults print."""
        pipeline = Pipeline(tuple(Entry(step, tuple(_given(step))) for step in passes))
        check_order(pipeline)
        return pipeline

    def __str__(self) -> str:
        return ",".join(map(str, self.entries))

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.step.name for entry in self.entries)

    def index(self, place: str) -> int:
        """Position of a pass given by name, number or dump name (`cse`, `3`, `03_cse`); G4C-P007 if not exactly one."""
        number, _, name = place.partition("_") if re.match(r"\d", place) else ("", "", place)
        if number:
            if number.isdigit() and 1 <= int(number) <= len(self) and name in ("", self.names[int(number) - 1]):
                return int(number) - 1
            raise G4cError("G4C-P007", f"the pipeline has no pass {place!r}", help=self._places())
        found = [i for i, other in enumerate(self.names) if other == name]
        if len(found) == 1:
            return found[0]
        problem = f"runs {len(found)} times" if found else "is not in the pipeline"
        near = difflib.get_close_matches(name, self.names, n=1) if not found else []
        raise G4cError("G4C-P007", f"{name!r} {problem}", help=f"did you mean {near[0]}?" if near else self._places())

    def _places(self) -> str:
        return "there are " + ", ".join(dump_name(i + 1, name) for i, name in enumerate(self.names))


def dump_name(number: int, name: str) -> str:
    """`01_canonicalize`: how a pass of a pipeline is told from its namesakes. 00 is the input."""
    return f"{number:02d}_{name}"


def pipeline_header(pipeline: Pipeline | str) -> str:
    """The comment line with which an IR file says what is still to be run on it."""
    return f"// pipeline: {pipeline}".rstrip() + "\n"


def header_pipeline(text: str) -> str | None:
    """The pipeline string in the first line of an IR file, or None."""
    match = _HEADER.match(text)
    return match[1].strip() if match else None


def parse_pipeline(text: str, passes: Mapping[str, type[Pass]] | None = None, *, resumed: bool = False) -> Pipeline:
    """The pipeline that `text` describes. `resumed`: it is the rest of one whose first passes have run.

    G4cError with a caret under the place: G4C-P001 unknown pass, P002 unknown option, P003 value of the wrong type,
    P004 malformed; P005 two passes in the wrong order, P006 levels that do not fit. `passes` stands in for the
    registry in tests.
    """
    from g4c.passes.pipelines import PASSES  # here, because the registry imports every pass

    pipeline = _Parser(text, PASSES if passes is None else passes).pipeline()
    check_order(pipeline, resumed=resumed)
    return pipeline


def check_order(pipeline: Pipeline, *, resumed: bool = False) -> None:
    """Every pass comes after the first of each pass that it `runs_after` (G4C-P005), at its level (G4C-P006)."""
    names = pipeline.names
    level: Level | None = None
    for index, entry in enumerate(pipeline.entries):
        step = entry.step
        for earlier in () if resumed else step.runs_after:
            if earlier in names[index:] and earlier not in names[:index]:
                raise G4cError(
                    "G4C-P005",
                    f"{step.name} runs before {earlier}",
                    excerpt=_caret(
                        str(pipeline), len(str(Pipeline(pipeline.entries[:index]))) + bool(index), step.name
                    ),
                    help=f"{step.name} runs after {', '.join(step.runs_after)}",
                )
        if level is not None and step.level_before not in (None, level):
            raise G4cError(
                "G4C-P006",
                f"{step.name} takes {step.level_before.value if step.level_before else ''} level, "
                f"the passes before it leave {level.value} level",
                excerpt=_caret(str(pipeline), len(str(Pipeline(pipeline.entries[:index]))) + bool(index), step.name),
            )
        level = step.level_after or step.level_before or level


def _caret(text: str, column: int, token: str) -> str:
    return f"     | {text}\n     | {' ' * column}{'^' + '~' * (len(token) - 1) if token else '^'}"


def _given(step: Pass) -> Iterable[tuple[str, str]]:
    for entry in dataclasses.fields(step):
        value = getattr(step, entry.name)
        if value != entry.default:
            yield entry.name.replace("_", "-"), format_option(value)


def format_option(value: object) -> str:
    """An option's value as the pipeline string writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value)


_WANTED = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a word",
    tuple[int, ...]: "integers as 1x128",
}


def _parse_option(raw: str, hint: object) -> object:
    """`raw` as a value of the option's type; ValueError where it is none."""
    if hint is bool:
        return {"true": True, "false": False}[raw]
    if hint is int:
        return int(raw)
    if hint is float:
        return float(raw)
    if hint == tuple[int, ...]:
        return tuple(int(item) for item in raw.split("x"))
    assert hint is str, f"options cannot be of type {hint}"
    return raw


class _Parser:
    def __init__(self, text: str, passes: Mapping[str, type[Pass]]) -> None:
        self.text = text.strip()
        self.passes = passes
        self.at = 0

    def fail(self, code: str, message: str, at: int, token: str, near: Iterable[str] = ()) -> NoReturn:
        options = list(near)
        close = difflib.get_close_matches(token.replace("_", "-"), options, n=1, cutoff=0.5)
        help = f"did you mean {close[0]}?" if close else f"there are {', '.join(options)}" if options else None
        raise G4cError(code, message, excerpt=_caret(self.text, at, token), help=help)

    def peek(self) -> str:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def expect(self, mark: str) -> None:
        found = self.peek()
        if found != mark:
            self.fail("G4C-P004", f"expected {mark!r}, found {found or 'the end'!r}", self.at, found)
        self.at += 1

    def word(self, what: str) -> tuple[int, str]:
        found = self.peek()
        match = _NAME.match(self.text, self.at)
        if match is None:
            self.fail("G4C-P004", f"expected {what}, found {found or 'the end'!r}", self.at, found)
        self.at = match.end()
        return match.start(), match[0]

    def pipeline(self) -> Pipeline:
        entries: list[Entry] = []
        while self.peek() or entries:
            entries.append(self.entry())
            if not self.peek():
                break
            self.expect(",")
        return Pipeline(tuple(entries))

    def entry(self) -> Entry:
        at, name = self.word("a pass")
        cls = self.passes.get(name)
        if cls is None:
            self.fail("G4C-P001", f"unknown pass {name!r}", at, name, sorted(self.passes))
        given: list[tuple[str, str]] = []
        values: dict[str, object] = {}
        if self.peek() == "{":
            self.at += 1
            while not (self.peek() == "}" and not given):
                self.option(cls, given, values)
                if self.peek() == "}":
                    break
                self.expect(",")
            self.expect("}")
        build: Callable[..., Pass] = cls
        return Entry(build(**values), tuple(given))

    def option(self, cls: type[Pass], given: list[tuple[str, str]], values: dict[str, object]) -> None:
        at, key = self.word("an option")
        hints = typing.get_type_hints(cls)
        fields = {entry.name.replace("_", "-"): entry.name for entry in dataclasses.fields(cls)}
        if key not in fields:
            nothing = "" if fields else "; it has none"
            self.fail("G4C-P002", f"{cls.name} has no option {key!r}{nothing}", at, key, sorted(fields))
        if fields[key] in values:
            self.fail("G4C-P004", f"option {key!r} is given twice", at, key)
        self.expect("=")
        at, raw = self.word("a value")
        hint = hints[fields[key]]
        try:
            values[fields[key]] = _parse_option(raw, hint)
        except (ValueError, KeyError):
            self.fail("G4C-P003", f"option {key} of {cls.name} is {_WANTED[hint]}, got {raw!r}", at, raw)
        given.append((key, raw))
