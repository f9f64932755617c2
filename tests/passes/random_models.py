"""Random models, pipelines and histories for hypothesis, all of which print as the Python that makes them again.

A pipeline has any passes of the registry in any order that their `runs_after`, their levels, and passes over whole
programs allow; so a new pass takes part from the day that it is registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from gemma_like import GemmaLike
from histories import Call
from hypothesis import strategies as st

from g4c.errors import G4cError
from g4c.ir.op import Level
from g4c.passes.contract import PassContext
from g4c.passes.pipelines import PASSES

CONTEXT = 64  # two prompts of 20, 20 steps and 4
FIRST = ("canonicalize", "precompute-rope", "eliminate-shared-kv")  # without which others find little to do
REPEATED = ("canonicalize", "cse", "dce")

# What options may be, where another value than the default matters at these sizes.
OPTIONS: dict[str, st.SearchStrategy[str]] = {
    "window-kv-cache": st.integers(1, 12).map("pad={}".format),
    "split-logits": st.integers(1, 3).map("k={}".format),
    "tile-contractions": st.sampled_from([4, 6, 8]).map("partition={0},moving=16,q-tile=4,kv-tile={0}".format),
}


@st.composite
def models(draw: st.DrawFn) -> GemmaLike:
    """Any pattern in which a layer reads its own cache or that of an earlier layer of its kind, through any window."""
    pattern = draw(st.text("SF", min_size=1, max_size=6))
    donors: list[int] = []
    for layer, kind in enumerate(pattern):
        owners = [other for other in range(layer) if donors[other] == other and pattern[other] == kind]
        donors.append(draw(st.sampled_from([layer, *reversed(owners)])))
    window = draw(st.integers(1, 9))
    usual = [window if kind == "S" else 0 for kind in pattern]
    other = st.sampled_from([draw(st.integers(1, 9)), 0])
    windows = [draw(other) if draw(st.integers(0, 4)) == 4 else own for own in usual]
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 2))
    buckets = draw(st.sets(st.integers(2, 9), min_size=1, max_size=2))
    return GemmaLike(
        pattern=pattern,
        donors=tuple(donors),
        shared=0,
        hidden=16,
        heads=heads,
        kv_heads=kv_heads,
        full_kv_heads=draw(st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])),
        head_dims=draw(st.sampled_from([(8, 16), (16, 16), (16, 8)])),
        mlp=12,
        ple=draw(st.sampled_from([0, 4])),
        batch=draw(st.integers(1, 3)),
        context=CONTEXT,
        windows=tuple(windows),
        buckets=tuple(sorted(buckets)),
        logit_rows=draw(st.integers(0, min(buckets))),
        shared_write=draw(st.booleans()),
        mlp_norms=True,
        k_eq_v=draw(st.sampled_from(["", "F", "SF"])),
    )


@dataclass(frozen=True)
class Turn:
    """Prompts, one per sequence, through the program of `bucket` rows in chunks of `chunk`; then `steps` of decode.

    A sequence whose prompt is empty sits the turn out. All others start over (`fresh`), or go on where they were.
    """

    prompts: tuple[int, ...]
    bucket: int
    chunk: int
    steps: int
    fresh: bool = True

    def calls(self, before: Sequence[int]) -> tuple[list[Call], list[int]]:
        """The executions, and where each sequence is after them. `before`: where it was."""
        start = [0 if self.fresh else at for at in before]
        end = [at + prompt for at, prompt in zip(start, self.prompts, strict=True)]
        calls = []
        for done in range(0, max(self.prompts), self.chunk):
            counts = tuple(max(0, min(self.chunk, prompt - done)) for prompt in self.prompts)
            starts = tuple(min(at + done, last) for at, last in zip(start, end, strict=True))
            calls.append(Call(self.bucket, starts, counts))
        active = tuple(int(prompt > 0) for prompt in self.prompts)
        calls += [Call(1, tuple(at + step for at in end), active) for step in range(self.steps)]
        now = [last + self.steps if here else at for last, here, at in zip(end, active, before, strict=True)]
        return calls, now


@st.composite
def turns(draw: st.DrawFn, model: GemmaLike) -> tuple[Turn, ...]:
    """Two turns on one set of caches: the first ends far past window and ring, the second goes on or starts over."""
    found = []
    for steps, fresh in ((draw(st.integers(12, 20)), True), (draw(st.integers(1, 4)), draw(st.booleans()))):
        bucket = draw(st.sampled_from(model.buckets))
        prompts = draw(st.lists(st.integers(0, 20), min_size=model.batch, max_size=model.batch))
        found.append(Turn(tuple(prompts), bucket, draw(st.integers(1, bucket)), steps, fresh))
    return tuple(found)


def history_of(turns: Sequence[Turn]) -> list[Call]:
    history: list[Call] = []
    at = [0] * len(turns[0].prompts)
    for turn in turns:
        calls, at = turn.calls(at)
        history += calls
    return history


@cache
def needs_whole_programs(name: str) -> bool:
    """Whether the pass refuses programs that call layer functions."""
    if PASSES[name].level_before not in (None, Level.GRAPH):
        return False
    module = GemmaLike(pattern="S", shared=0, hidden=8, head_dims=(8, 16)).module()
    PASSES["specialize-layers"]().run(module, PassContext())
    try:
        PASSES[name]().run(module, PassContext())
    except G4cError as error:
        return error.code == "G4C-P042"
    return False


@st.composite
def pipelines(draw: st.DrawFn) -> str:
    """Most of the passes, in some order that is allowed; what fits nowhere anymore is left out."""
    entries = draw(st.sampled_from([[], list(FIRST)]))
    left = [name for name in PASSES if name not in (*REPEATED, *entries) and draw(st.integers(0, 3))]
    left += draw(st.lists(st.sampled_from(REPEATED), max_size=5))
    patient = draw(st.booleans())  # cuts layers out, and leaves the level, once nothing else is left to do
    level, cut = Level.GRAPH, False
    while True:
        done = {entry.partition("{")[0] for entry in entries}
        ready = [
            name
            for name in dict.fromkeys(left)
            if not set(PASSES[name].runs_after) & set(left) - done
            and PASSES[name].level_before in (None, level)
            and not (cut and needs_whole_programs(name))
        ]
        soon = [name for name in ready if name != "specialize-layers" and PASSES[name].level_after is None]
        if not ready:
            return ",".join(entries)
        name = draw(st.sampled_from(soon if patient and soon else ready))
        left.remove(name)
        option = draw(OPTIONS[name]) if name in OPTIONS else ""
        entries.append(f"{name}{{{option}}}" if option else name)
        level = PASSES[name].level_after or level
        cut = {"specialize-layers": True, "inline-layers": False}.get(name, cut)
