"""The cost model: what a kernel would take on a NeuronCore, modelled from documented figures.

assumptions              every figure, with its source
instructions, regions    what one instruction costs, which bytes it touches
recorder, timeline       what a program executes, and when each instruction would run
profile, critical_path   the summary
report, trace, pictures  its text, its Perfetto trace, its drawings
"""

from __future__ import annotations

from g4c.lowering.nki.cost.profile import Profile, profile

__all__ = ["Profile", "profile"]
