"""How long `g4c --help` takes from start to exit.

The peer is a Python interpreter that does nothing: what remains is g4c's own. The two alternate, so that both see the
same machine; printed are the fastest and the median run of each, in milliseconds.

python benchmarks/cli_startup.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from measurement import AT_START, REPOSITORY, machine, print_machine


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10, help="runs of each (default 10)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of lines")
    options = parser.parse_args(argv)
    print_machine(AT_START)
    commands = {"python -c pass": ("-c", "pass"), "g4c --help": ("-m", "g4c", "--help")}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.runs):
        for name, arguments in commands.items():
            times[name].append(_milliseconds(*arguments))
    if options.json:
        figures = {
            name: {"fastest_ms": min(taken), "median_ms": statistics.median(taken)} for name, taken in times.items()
        }
        print(json.dumps({"runs": options.runs, "machine": machine(), **figures}))
        return 0
    for name, taken in times.items():
        print(f"{name:<16} fastest {min(taken):6.1f} ms   median {statistics.median(taken):6.1f} ms")
    return 0


def _milliseconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
