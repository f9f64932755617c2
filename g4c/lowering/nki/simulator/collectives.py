"""`nki.collectives`: refused by name."""

from __future__ import annotations

from typing import Any

from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.objects import NKIObject

_NAMES = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "all_gather_v",
    "all_to_all_v",
    "collective_permute",
    "collective_permute_implicit",
    "collective_permute_implicit_reduce",
    "collective_permute_implicit_current_processing_rank_id",
    "rank_id",
)


class ReplicaGroup(NKIObject):
    """Groups of ranks; only a value here."""

    def __init__(self, groups: Any) -> None:
        self.groups = groups


def _refuse(name: str) -> Any:
    def collective(*arguments: Any, **keywords: Any) -> Any:
        raise error("G4C-K020", f"nki.collectives.{name} is not simulated", "a kernel runs on one logical core")

    collective.__name__ = name
    return collective


for _name in _NAMES:
    globals()[_name] = _refuse(_name)

__all__ = ["ReplicaGroup", *_NAMES]
