"""One BLAS thread while a kernel runs.

Tiles are small: handing a 128x128x512 product to several threads costs more than it saves, and on a busy machine tens
of milliseconds instead of a fraction of one.
In: nothing. Out: a context in which numpy's own OpenBLAS, where it has one, uses a single thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

_PREFIXES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")


@cache
def _functions() -> tuple[Any, Any] | None:
    """OpenBLAS's get and set functions, or None where numpy uses something else."""
    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)
    except (AttributeError, OSError):
        return None
    for prefix in _PREFIXES:
        try:
            return library[prefix.format("get_num_threads")], library[prefix.format("set_num_threads")]
        except AttributeError:
            continue
    return None


@contextmanager
def one_thread() -> Iterator[None]:
    """A single BLAS thread inside, what was set before outside."""
    functions = _functions()
    if functions is None:
        yield
        return
    get, put = functions
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)
