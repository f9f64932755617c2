"""What an attention kernel computes, in words: for the docstrings of both families.

In: heads, dims, segments of keys, masks. Out: a title and a paragraph.
Invariant: what is said depends on the problem alone, not on its schedule.
"""

from __future__ import annotations

from collections.abc import Iterable

_KNOWN = {
    "past": "held[b, m] is the position of each, all before the first query, -1 for an empty slot",
    "mixed": "held[b, m] is the position of each, in any order, -1 for an empty slot",
    "chunk": "the queries' own rows",
}


def title(rows: int, heads: int, kv_heads: int, head_dim: int, dtype: str) -> str:
    """As in: 4 queries, 8 query heads on 1 KV head, head dim 512, bf16."""
    queries = "1 query" if rows == 1 else f"{rows} queries"
    shared = "1 KV head" if kv_heads == 1 else f"{kv_heads} KV heads"
    return f"{queries}, {heads} query heads on {shared}, head dim {head_dim}, {dtype}."


def formula(
    batch: int,
    scale: float,
    segments: Iterable[tuple[str, int]],
    window: int,
    causal: bool = True,
    block_span: int = 0,
) -> str:
    """The formula, which keys there are (kind and number of each segment), and who sees whom."""
    keys = "; ".join(f"{count} {kind} keys ({_KNOWN[kind]})" for kind, count in segments)
    rule = "every query sees every key that is no padding"
    if causal:
        near = f" and less than {window} positions back" if window else ""
        rule = f"a query sees keys at its own position and before{near}"
    if block_span:
        rule += f", and its whole image block (up to {block_span} rows)"
    factor = f"{scale:g} * " if scale != 1 else ""
    sequences = f"of {batch} sequences" if batch > 1 else "of one sequence"
    return (
        f"y[b, s, h] = softmax({factor}q[b, s, h] k[b]^T) v[b], {sequences}. Keys: {keys}. Masking: {rule}. "
        "Rows at position -1 are padding and give 0."
    )
