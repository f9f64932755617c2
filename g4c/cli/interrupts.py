"""Interrupts: Ctrl-C and SIGTERM end a verb cleanly, whatever library was running.

In: signals. Out: `KeyboardInterrupt` where Python code runs, `received` where a library swallowed or translated it.
Invariant: the handlers of before are back when the block ends.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """with Interrupts() as interrupts: ...; `interrupts.received` is the signal's number, or None."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        self._previous_hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.unraisablehook = self._previous_hook
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came and was swallowed on its way."""
        if self.received is not None:
            raise KeyboardInterrupt

    def _unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """An interrupt that came in a finalizer is remembered in `received`; Python's words about it are not needed."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            self._previous_hook(unraisable)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        raise KeyboardInterrupt
