"""How long `g4c --help` takes, beside a Python interpreter that does nothing.

In: nothing. Out: the fastest and the median of 20 runs each, in milliseconds, and whether the 150 ms of the design hold.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 20
LIMIT_MS = 150


def measure(*arguments: str) -> list[float]:
    """Milliseconds of `RUNS` runs of `python arguments`."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(1000 * (time.perf_counter() - start))
    return times


def main() -> int:
    empty, help = measure("-c", "pass"), measure("-m", "g4c", "--help")
    for name, times in (("python -c pass", empty), ("g4c --help", help)):
        print(f"{name:<16} fastest {min(times):6.1f} ms   median {statistics.median(times):6.1f} ms")
    print(f"limit {LIMIT_MS} ms: {'kept' if statistics.median(help) < LIMIT_MS else 'exceeded'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
