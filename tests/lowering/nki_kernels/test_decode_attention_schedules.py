"""Schedules and sources of decode attention kernels: what fits, what is refused, budgets, modelled time."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from decode_case import TARGETS, make

from g4c.errors import G4cError
from g4c.ir.types import DType
from g4c.lowering.nki.attention.decode import DecodeProblem, Segment, emit, schedules
from g4c.lowering.nki.attention.decode_schedule import blocks, psum_banks, sbuf_bytes
from g4c.lowering.nki.cost import profile
from g4c.lowering.nki.simulator.generation import V2, V3, V4
from g4c.lowering.nki.simulator.source import load

ROOM = {2: V2.sbuf_usable, 3: V3.sbuf_usable, 4: V4.sbuf_usable}
E2B = DecodeProblem(1, 1, 8, 1, 512, (Segment("past", 8192), Segment("chunk", 1)), update=True)
RING = DecodeProblem(4, 5, 8, 2, 256, (Segment("past", 700), Segment("chunk", 5)), 512, update=True)
PRUNED = DecodeProblem(2, 1, 8, 2, 256, (Segment("past", 384), Segment("mixed", 257)), 200, dtype=DType.F32)


def sized(heads: str, head_dim: int, past: int, rows: int = 1, batch: int = 1, **changes: object) -> DecodeProblem:
    many, few = (int(n) for n in heads.split(":"))
    return DecodeProblem(
        batch, rows, many, few, head_dim, (Segment("past", past), Segment("chunk", rows)), **{"update": True} | changes
    )


ODD = sized("8:2", 256, 513, 3, window=512)  # one sequence: two cores share its heads
SHAPES = [
    E2B,
    RING,
    PRUNED,
    sized("32:4", 512, 32768, 8, 2),
    sized("32:16", 256, 1024, 8, 4, window=1024),
    sized("16:1", 512, 262_144),
    sized("8:1", 512, 131_072, 8),
    sized("8:2", 512, 8192, 8, 4, dtype=DType.F32),
    sized("32:16", 256, 1024, 2, 4, window=1024, dtype=DType.F32),
]


@pytest.mark.parametrize("problem", SHAPES, ids=lambda problem: problem.name.removeprefix("decode_attention_"))
@pytest.mark.parametrize("generation", [2, 3, 4])
def test_candidates_fit(problem: DecodeProblem, generation: int) -> None:
    found = schedules(problem, generation)
    assert len(set(found)) == len(found) > 0
    for schedule in found:
        assert sbuf_bytes(problem, schedule) <= ROOM[generation]
        assert psum_banks(problem, schedule) <= 8
        assert problem.batch % schedule.sequences == 0


@pytest.mark.parametrize("problem", [E2B, RING, PRUNED], ids=["full", "ring", "pruned"])
@pytest.mark.parametrize("generation", [2, 3, 4])
def test_tiles_take_what_the_formula_says(problem: DecodeProblem, generation: int) -> None:
    """All tiles of a kernel that goes over sequences and keys once; the formula has a little more."""
    schedule = schedules(problem, generation)[0]
    assert (schedule.sequences, schedule.parts) == (problem.batch, 1)
    tiles = profile(emit(problem, schedule, generation), target=TARGETS[generation]).recorders[0].tiles
    taken = sum(tile.storage is None and tile.memory == "sbuf" and tile.amount for tile in tiles)
    assert taken <= sbuf_bytes(problem, schedule) <= taken * 1.2 + 4096


@pytest.mark.parametrize("problem", [RING, PRUNED], ids=["ring", "pruned"])
def test_the_docstring_has_the_budget_of_the_run(problem: DecodeProblem) -> None:
    schedule = schedules(problem, 3)[0]
    artifact = emit(problem, schedule, 3)
    idle = [(100, problem.rows)] * problem.batch
    arrays = [make(problem, idle).operands[name] for name, _ in artifact.inputs]
    run = load(artifact.source, artifact.name).specialize("trn2").run(*arrays)
    sbuf, psum = run.peaks[0]
    text = " ".join(artifact.source.split('"""')[1].split())
    found = re.search(r"(\d+) instructions; .* takes (\d+) bytes .* (\d+) PSUM banks; .* takes (\d+) and (\d+)\.", text)
    assert found is not None, text
    wanted = (
        run.instructions[0],
        sbuf_bytes(problem, schedule),
        psum_banks(problem, schedule),
        sbuf.amount,
        psum.amount,
    )
    assert tuple(int(number) for number in found.groups()) == tuple(round(number) for number in wanted)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 8, 16])
def test_every_key_is_loaded_once(columns: int) -> None:
    """By one block, in one column of scores and on one partition."""
    for slots in (1, 2, 127, 128, 129, 255, 257, 511, 512, 513, 640, 1023, 1025, 2047, 2049, 4095, 4096):
        loads = blocks(sized("1:1", 64, slots), columns)
        keys = [
            partition * load.pitch + load.first + column
            for load in loads
            for partition in range(load.partitions)
            for column in range(load.columns)
        ]
        assert sorted(keys) == list(range(slots))
        assert max(load.columns for load in loads) <= columns
        assert [load.column for load in loads[1:]] == [load.column + load.columns for load in loads[:-1]]


def test_sources_are_deterministic_and_tell_shapes_apart() -> None:
    first, again = (emit(RING, schedules(RING, 3)[0], 3) for _ in range(2))
    assert first == again
    assert first.name == "decode_attention_b4_s5_h8_kv2_d256_past700_chunk5_w512_bf16_update"
    names = {problem.name for problem in (*SHAPES, replace(RING, scale=0.5), replace(RING, update=False))}
    assert len(names) == len(SHAPES) + 2
    assert all(name.isidentifier() for name in names)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("problem", [E2B, RING, PRUNED, ODD], ids=["full", "ring", "pruned", "odd"])
def test_sources_are_as_people_write_them(problem: DecodeProblem, cores: int) -> None:
    """Lines of 120 characters, nothing imported but nki, no function that nobody calls."""
    artifact = emit(problem, schedules(problem, 3, cores)[0], 3)
    lines = artifact.source.splitlines()
    assert max(len(line) for line in lines) <= 120
    assert [line for line in lines if "import" in line.split()] == [
        "import nki",
        "import nki.isa as nisa",
        "import nki.language as nl",
    ]
    for name in re.findall(r"^def (\w+)\(", artifact.source, re.M):
        assert name == artifact.name or len(re.findall(rf"\b{name}\(", artifact.source)) > 1, name


def test_operands_and_aliases() -> None:
    artifact = emit(E2B, schedules(E2B, 3)[0], 3)
    names = [name for name, _ in artifact.inputs]
    chunk = ["chunk_keys", "chunk_values", "positions"]
    assert names == ["q", "past_keys", "past_values", "past_held", *chunk]
    assert [name for name, _ in artifact.outputs] == ["y", "past_keys", "past_values"]
    assert artifact.aliases == ((1, 1), (2, 2))
    pruned = emit(PRUNED, schedules(PRUNED, 3)[0], 3)
    mixed = ["mixed_keys", "mixed_values", "mixed_held", "positions"]
    assert [name for name, _ in pruned.inputs] == ["q", "past_keys", "past_values", "past_held", *mixed]
    assert pruned.aliases == ()


REFUSED = {
    "divide": {"heads": 9},
    "head_dim 200": {"head_dim": 200},
    "one past and one chunk": {"segments": (Segment("past", 8), Segment("past", 8), Segment("chunk", 5))},
    "more than 512": {"head_dim": 640},
    "no keys in HBM": {"segments": (Segment("chunk", 5),), "update": False},
    "a chunk of 4 keys": {"segments": (Segment("past", 8), Segment("chunk", 4))},
    "into the past": {"segments": (Segment("past", 8), Segment("mixed", 64))},
    "two meet": {"segments": (Segment("past", 4), Segment("chunk", 5))},
    "17500000 slots": {"batch": 25, "segments": (Segment("past", 700_000), Segment("chunk", 5))},
    "scale -1": {"scale": -1.0},
    "bf16 or f32": {"dtype": DType.F16},
    "1280 queries": {"heads": 256},
    "150 rows in the batch": {"batch": 30},
}


@pytest.mark.parametrize("what", REFUSED)
def test_no_kernel_for(what: str) -> None:
    with pytest.raises(G4cError, match=f"K041.*{what}"):
        replace(RING, **REFUSED[what])


def test_no_schedule_fits() -> None:
    huge = sized("64:64", 512, 256, dtype=DType.F32)
    with pytest.raises(G4cError, match=r"K040.*bytes per partition of SBUF, there are 180224"):
        schedules(huge, 2)


# Modelled; of the time in which one core streams keys and values once.
AIMS = [
    (E2B, 0.80),
    (sized("16:1", 512, 8192), 0.80),
    (sized("8:1", 512, 8192, 8, 4), 0.80),
    (sized("32:4", 512, 8192), 0.9),
]


@pytest.mark.parametrize(("problem", "aim"), AIMS, ids=lambda value: getattr(value, "name", str(value)))
def test_long_caches_stream_at_the_speed_of_memory(problem: DecodeProblem, aim: float) -> None:
    made = profile(emit(problem, schedules(problem, 3)[0], 3), target="trn2")
    stored = sum(2 * segment.keys * problem.slot * problem.itemsize for segment in problem.stored) * problem.batch
    assert stored / (made.machine.hbm_bandwidth * 1000) / made.us >= aim


@pytest.mark.parametrize(
    ("problem", "most"),
    [
        (sized("8:1", 512, 8192, 1, 2), 0.55),
        (sized("32:4", 512, 8192), 0.6),
        (sized("16:8", 256, 1024, window=1024), 0.7),
        (sized("8:2", 512, 8192), 0.9),  # of each key 1 KiB, which DMA is slow at
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_two_cores_take_less_than_one(problem: DecodeProblem, most: float) -> None:
    """Half of the sequences or heads each; modelled."""
    one, two = (schedules(problem, 3, cores)[0] for cores in (1, 2))
    assert sbuf_bytes(two.own(problem), two) <= ROOM[3]
    made = emit(problem, two, 3)
    assert made.cores == 2
    assert profile(made).us <= most * profile(emit(problem, one, 3)).us


def test_two_cores_stream_more_than_one() -> None:
    """Half of the keys each; modelled."""
    problem = sized("8:1", 512, 32768)
    one = schedules(problem, 3)[0]
    two = replace(one, parts=2, cores=2)
    assert sbuf_bytes(problem, two) <= ROOM[3]
    alone = profile(emit(problem, one, 3), target="trn2").us
    assert profile(emit(problem, two, 3), target="trn2", grid=2).us <= 0.6 * alone
    with pytest.raises(ValueError, match="3 parts on 2 cores that share keys"):
        replace(one, parts=3, cores=2)
