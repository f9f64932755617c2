"""Kernels of the matmul family: projections, what follows attention in a layer, the head.

In: a problem: shapes, types, epsilons. Out: schedules that fit the generation, and the kernel of one of them.
Weights are [k, n], as packed offline: k lies on the partitions, rows of n are contiguous. Rows are batch times
sequence, from one (decode) to a prefill bucket. Two cores of a logical core share columns, or many rows.

    projection        (norm +) linear, columns to one or several results: q, k, v in front of attention
    one_row           the same for a row alone, where a kernel's start and end count
    residual          what a layer adds to its stream: O projection, MLP, per-layer gate; one of them, or all in turn
    lm_head           (norm +) projection to the vocabulary, soft cap: logits, or the best of every tile
    *_problem         what the first and the third compute, and how their kernels are called
    device            the functions that the generated files are made of
    kernel_file       putting a file together
"""
