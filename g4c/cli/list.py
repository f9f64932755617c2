"""List what there is: variants, targets, passes, ops, or the contents of a bundle.

In: a topic or a bundle directory. Out: a table on stdout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from g4c.errors.suggest import unknown_value


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "topic", nargs="?", metavar="TOPIC", help=f"{', '.join(_TOPICS)}, or a bundle directory; none: all"
    )


def execute(options: argparse.Namespace) -> int:
    topic = options.topic
    if topic is None:
        for name, show in _TOPICS.items():
            print(f"{name}:")
            show()
    elif topic in _TOPICS:
        _TOPICS[topic]()
    elif Path(topic).exists():
        _bundle(Path(topic))
    else:
        raise unknown_value("topic or bundle", topic, _TOPICS)
    return 0


def _table(rows: Iterable[Sequence[object]], indent: str = "  ") -> None:
    """Print rows with aligned columns."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip())


def _variants() -> None:
    from g4c.frontend.variants import VARIANTS

    _table((variant.name, variant.description) for variant in VARIANTS.values())


def _targets() -> None:
    from g4c.lowering.neuron.neuronx_cc import TARGETS

    _table((target.name, target.description) for target in TARGETS.values())


def _passes() -> None:
    from g4c.passes.pipelines import PASSES

    _table((name, cls.summary()) for name, cls in PASSES.items())


def _rules() -> None:
    from g4c.frontend.raising import RULES

    _table((rule.name, (type(rule).__doc__ or "").strip().partition("\n")[0]) for rule in RULES)


def _ops() -> None:
    from g4c.ir.op import REGISTRY, layout

    _table(
        (name, cls.level.value, ", ".join(layout(cls).operands), (cls.__doc__ or "").partition("\n")[0])
        for name, cls in sorted(REGISTRY.items())
    )


def _bundle(path: Path) -> None:
    from g4c.runtime.bundle import open_bundle

    bundle = open_bundle(path)
    manifest = bundle.manifest
    print(f"{manifest['name']}: {manifest['dtype']}, batch {bundle.batch}, context {bundle.max_context}")
    print("programs:")
    header = ("name", "GFLOP", "MB moved", "inputs", "outputs", "file")
    rows = [
        (
            program.name,
            f"{program.flops / 1e9:.2f}",
            f"{program.bytes / 1e6:.1f}",
            " ".join(f"{tensor.name} {tensor.type}" for tensor in program.inputs),
            " ".join(f"{tensor.name} {tensor.type}" for tensor in program.outputs),
            program.file.relative_to(path),
        )
        for program in bundle.programs.values()
    ]
    _table([header, *rows])
    weights = sum(weight.type.nbytes for weight in bundle.weights.values())
    caches = sum(cache.type.nbytes for cache in bundle.caches.values())
    print(f"weights: {len(bundle.weights)} tensors, {weights / 1e6:.1f} MB")
    print(f"caches: {len(bundle.caches)} tensors, {caches / 1e6:.1f} MB")
    print("made with: " + ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()))


_TOPICS: dict[str, Callable[[], None]] = {
    "variants": _variants,
    "targets": _targets,
    "passes": _passes,
    "rules": _rules,
    "ops": _ops,
}
