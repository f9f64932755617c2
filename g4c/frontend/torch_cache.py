"""Torch's tracer makes a cache directory in the system's temporary directory; here is how it does not.

In: a block that imports transformers or traces. Out: nothing. Invariant: the environment is as before afterwards, so a
later use of torch's compiler in the same process has its cache where the user wants it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


@contextmanager
def without_cache_directory() -> Iterator[None]:
    """What needs the directory (torch's own compiler) is not used in this block."""
    if _VARIABLE in os.environ:
        yield
        return
    os.environ[_VARIABLE] = tempfile.gettempdir()  # exists, so it is not made
    try:
        yield
    finally:
        os.environ.pop(_VARIABLE, None)
