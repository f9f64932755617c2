"""What an estimate says, as data. `dataclasses.asdict` of an `Estimate` is the JSON of `g4c estimate --json`.

In: nothing. Out: the records. Invariant: fields whose names begin with `modelled_` depend on the model of the machine;
all others are counted from the programs. Times are seconds, sizes bytes, FLOP a multiply-add as 2.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.estimate.kv import KvChoice, KvPerToken


@dataclass(frozen=True)
class WorkFigures:
    """One execution of a program, or of its layers of one kind.

    `flops_by`: by component. `weight_bytes`: read, each weight once, of which `looked_up_bytes` are rows of tables.
    `kv_read_bytes`: caches once per layer that reads them. `activation_bytes`: what the ops move beside weights and
    caches, were none of them fused.
    """

    name: str
    layers: int
    flops: int
    flops_by: dict[str, int]
    weight_bytes: int
    looked_up_bytes: int
    matmul_weights: int
    kv_read_bytes: int
    kv_written_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class ProgramFigures:
    """One program; `peak_activation_bytes` on one core. Modelled figures are of one execution on all cores.

    What a program does (`total`, `layer_kinds`) does not depend on how many cores share it.
    """

    name: str
    tokens: int
    total: WorkFigures
    layer_kinds: tuple[WorkFigures, ...]
    peak_activation_bytes: int
    modelled_compute_seconds: float
    modelled_bandwidth_seconds: float
    modelled_collective_seconds: float
    modelled_limit: str


@dataclass(frozen=True)
class AttentionCount:
    """FLOPs of attention for one purpose: as computed (every query with every slot), and where a query sees a key."""

    what: str
    computed_flops: int
    seen_flops: int
    total_flops: int
    total_seen_flops: int


@dataclass(frozen=True)
class ChunkFigures:
    """One execution of a prompt: `tokens` new after `cached`. `skipping`: with attention only where a query sees."""

    program: str
    tokens: int
    cached: int
    modelled_seconds: float
    modelled_limit: str
    modelled_seconds_skipping: float


@dataclass(frozen=True)
class TimingFigures:
    """Time to the first token of a prompt, and per further token. `skipping`: with a kernel that skips tiles."""

    prompt_tokens: int
    chunks: tuple[ChunkFigures, ...]
    modelled_ttft_seconds: float
    modelled_ttft_seconds_skipping: float
    modelled_tpot_seconds: float
    modelled_tpot_seconds_skipping: float
    modelled_tpot_limit: str
    modelled_tokens_per_second: float


@dataclass(frozen=True)
class Parameters:
    """Elements of the checkpoint's tensors that the programs use. `experts` are of `decoder`; buffers are extra."""

    decoder: int
    experts: int
    ple_table: int
    embedding: int
    buffers: int

    @property
    def total(self) -> int:
        return self.decoder + self.ple_table + self.embedding


@dataclass(frozen=True)
class MemoryFigures:
    """Bytes on one core. `weight_bytes` is without the per-layer-embedding table, which `total_bytes` includes.

    `reserve_bytes`: for activations, scratchpad, DMA rings and program code, at least `peak_activation_bytes`.
    """

    weight_bytes: int
    ple_table_bytes: int
    cache_bytes: int
    peak_activation_bytes: int
    reserve_bytes: int
    microcode_bytes: int
    total_bytes: int
    total_bytes_without_ple_table: int
    device_bytes: int
    fits: bool
    fits_without_ple_table: bool


@dataclass(frozen=True)
class MachineFigures:
    """The cores; figures per logical core."""

    instance: str
    chip: str
    target: str
    logical_cores: int
    cores_used: int
    memory_bytes: int
    bandwidth: float
    flops: float


@dataclass(frozen=True)
class State:
    """What a module costs at one point of the pipeline, per program as in `WorkFigures`.

    `matmul_flops`: without attention.
    """

    stored_weight_bytes: int
    cache_bytes: int
    flops: dict[str, int]
    matmul_flops: dict[str, int]
    weight_bytes: dict[str, int]
    kv_read_bytes: dict[str, int]
    kv_written_bytes: dict[str, int]
    activation_bytes: dict[str, int]
    peak_activation_bytes: dict[str, int]


@dataclass(frozen=True)
class PassEffect:
    """One pass: what the module cost before and after it."""

    name: str
    modified: bool
    before: State
    after: State


@dataclass(frozen=True)
class KvFigures:
    """K and V: bytes per token of the config's layers, whether they fit, and what the pipeline makes of them.

    `windowed`: rings on sliding layers; `rebuilt`: V alone where K can be rebuilt.
    """

    per_token: KvPerToken
    windowed: bool
    rebuilt: bool
    choice: KvChoice
    recommendation: str | None


@dataclass(frozen=True)
class Estimate:
    """Everything that is said about a model on a machine."""

    schema: int
    model: str
    dtype: str
    batch: int
    context: int
    buckets: tuple[int, ...]
    tp: int
    pipeline: str
    machine: MachineFigures
    parameters: Parameters
    programs: tuple[ProgramFigures, ...]
    attention: tuple[AttentionCount, ...]
    memory: MemoryFigures
    kv: KvFigures
    passes: tuple[PassEffect, ...]
    timing: TimingFigures
    assumptions: tuple[str, ...]
