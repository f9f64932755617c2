"""A session: the programs of one bundle on one set of weights, sharing one set of caches.

In: an opened bundle, weights by symbol; then token ids and positions. Out: predictions: logits as arrays, or candidates
where the bundle was compiled to choose them (`--sample on-device`).
Invariants: a program is compiled when it is first needed and its weights are bound once, however many programs share
them; prefill and decode programs update the same caches in place; after a failed execution the caches start over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from g4c.errors import G4cError
from g4c.runtime.bundle import Bundle, Program
from g4c.runtime.candidates import Candidates, Prediction
from g4c.runtime.cpu import Buffer, CpuExecutable, array_of, cpu_client
from g4c.runtime.cpu_kernels import raise_failure

if TYPE_CHECKING:
    import numpy.typing as npt

    from g4c.ir.types import Array

DECODE = "decode"


def cpu_form(program: Program) -> bytes:
    """The HLO that the CPU runs: what kernels compute is there op by op."""
    return program.cpu_file.read_bytes()


class Session:
    """Runs `bundle` with `weights` (symbol -> array, asked once per symbol) on `threads` threads (None: all cores).

    `form`: which HLO of a program is run; by default the CPU's own.
    """

    def __init__(
        self,
        bundle: Bundle,
        weights: Mapping[str, Array],
        *,
        threads: int | None = None,
        form: Callable[[Program], bytes] = cpu_form,
    ) -> None:
        self.bundle = bundle
        self.batch = bundle.batch
        self.max_context = bundle.max_context
        self.buckets = bundle.prefill_buckets
        self.vocabulary = bundle.vocabulary
        self.candidates = bundle.candidates
        prefill = [bundle.program(f"prefill_{bucket}") for bucket in self.buckets]
        # How many rows a prefill can be asked for: --logit-rows when it was compiled.
        self.logit_rows = min((program.outputs[0].type.shape[1] for program in prefill), default=1)
        self._weights = weights
        self._form = form
        self._client = cpu_client(threads)
        self._executables: dict[str, CpuExecutable] = {}
        self._bound: dict[str, Buffer] = {}
        self._caches: dict[str, Buffer] = {}

    def prepare(self, name: str) -> CpuExecutable:
        """Compile the program `name` and bind its weights, if that has not been done. G4C-R051, R053, R107."""
        executable = self._executables.get(name)
        if executable is None:
            program = self.bundle.program(name)
            executable = self._client.compile(self._form(program), name)
            self._bind(program)
            self._executables[name] = executable
        return executable

    def prefill(self, token_ids: npt.ArrayLike, positions: npt.ArrayLike, rows: npt.ArrayLike) -> Prediction:
        """Process one chunk of prompts; logits [batch, rows, vocabulary] of the rows that are asked for, or their
        candidates [batch, rows, k].

        `token_ids`, `positions` [batch, n] go through the smallest bucket that has room for n. In each sequence the
        positions are consecutive, from wherever its last chunk ended, and -1 after them where it has fewer than n. What
        came before is in the caches. `rows` [batch, r] names rows below n, r at most `logit_rows`. G4C-R054 where a
        shape does not fit.
        """
        ids, places = np.asarray(token_ids, np.int32), np.asarray(positions, np.int32)
        bucket = next((bucket for bucket in self.buckets if ids.ndim == 2 and ids.shape[1] <= bucket), None)
        if bucket is None:
            raise G4cError("G4C-R054", f"token ids {list(ids.shape)} fit no prefill bucket of {list(self.buckets)}")
        if places.shape != ids.shape:
            raise G4cError("G4C-R054", f"positions {list(places.shape)} are not those of token ids {list(ids.shape)}")
        wanted = np.asarray(rows, np.int32)
        if wanted.ndim != 2 or not 0 < wanted.shape[1] <= self.logit_rows:
            raise G4cError("G4C-R054", f"rows {list(wanted.shape)} are not [batch, 1 to {self.logit_rows}]")
        padding = ((0, 0), (0, bucket - ids.shape[1]))
        filled = np.pad(wanted, ((0, 0), (0, self.logit_rows - wanted.shape[1])), mode="edge")
        inputs = (np.pad(ids, padding), np.pad(places, padding, constant_values=-1), filled)
        return self._run(f"prefill_{bucket}", inputs)[:, : wanted.shape[1]]

    def decode(self, token_ids: npt.ArrayLike, positions: npt.ArrayLike) -> Prediction:
        """One step: logits [batch, 1, vocabulary], or candidates [batch, 1, k], after `token_ids` [batch, 1] at
        `positions` [batch, 1]. G4C-R054.

        A sequence at position -1 sits this step out: its caches stay, its result means nothing.
        """
        return self._run(DECODE, (np.asarray(token_ids, np.int32), np.asarray(positions, np.int32)))

    def reset(self) -> None:
        """Forget all sequences: the caches start over as zeros."""
        self._caches = {}

    def save(self) -> dict[str, Array]:
        """A copy of all caches, for `restore`."""
        return {name: self.cache(name) for name in self.bundle.caches}

    def restore(self, saved: Mapping[str, Array]) -> None:
        """Go back to the caches that `save` gave."""
        self._caches = {name: self._client.copy(array) for name, array in saved.items()}

    def cache(self, name: str) -> Array:
        """A copy of what the cache `name` holds."""
        if not self._caches:
            self._allocate()
        return array_of(self._caches[name]).copy()

    @property
    def cache_bytes(self) -> int:
        """Memory of all caches."""
        return sum(cache.type.nbytes for cache in self.bundle.caches.values())

    @property
    def compiled(self) -> tuple[str, ...]:
        """Programs that are ready to run."""
        return tuple(self._executables)

    def _run(self, name: str, inputs: Sequence[npt.NDArray[Any]]) -> Prediction:
        program = self.bundle.program(name)
        _check(program, inputs)
        executable = self.prepare(name)
        if not self._caches:
            self._allocate()
        buffers = [
            *(self._client.copy(array) for array in inputs),
            *(self._caches[cache] for cache in program.caches),
            *(self._bound[weight] for weight in program.weights),
        ]
        try:
            results = executable.execute(buffers)
            raise_failure()
        except BaseException:
            self.reset()  # the execution may have consumed them
            raise
        outputs = len(program.outputs)
        self._caches.update(zip(program.caches, results[outputs:], strict=True))
        if self.candidates:
            tokens, logprobs = map(array_of, results[:outputs])
            return Candidates(tokens, logprobs)
        return array_of(results[0])

    def _bind(self, program: Program) -> None:
        for name in program.weights:
            if name in self._bound:
                continue
            try:
                array = self._weights[name]
            except KeyError as error:
                raise G4cError("G4C-R053", f"there is no weight {name}", where=program.name) from error
            wanted = self.bundle.weights[name].type
            if (array.shape, array.dtype) != (wanted.shape, wanted.dtype.numpy):
                raise G4cError(
                    "G4C-R001",
                    f"weight {name} is {array.dtype.name}{list(array.shape)}, the program wants {wanted}",
                    where=program.name,
                )
            self._bound[name] = self._client.bind(array)

    def _allocate(self) -> None:
        self._caches = {name: self._client.zeros(cache.type) for name, cache in self.bundle.caches.items()}


def _check(program: Program, inputs: Sequence[npt.NDArray[Any]]) -> None:
    for tensor, array in zip(program.inputs, inputs, strict=True):
        if array.shape != tensor.type.shape:
            raise G4cError(
                "G4C-R054",
                f"{tensor.name} has shape {list(array.shape)}, the program takes {tensor.type}",
                where=program.name,
            )
