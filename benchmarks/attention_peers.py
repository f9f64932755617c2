"""Attention of one head as others do it, for benchmarks/nki_attention.py to cost beside g4c's kernels.

`reloaded`: a flash kernel that loads and transposes its keys again for every query tile, as one head on its own has to
when heads and query tiles share nothing. `decomposed`: scores and probabilities go through HBM, as a graph compiler
runs matmul, softmax and matmul. Both are written with the tiles, the engines and the software pipeline of g4c's
kernels: 128 queries, 128 keys per transpose, banks of 512 scores, 2048 keys per maximum in `reloaded`, PE working on
the next scores while the softmax of the last ones runs. q, k, v, y [s, d] bf16, causal; scale 1; s a multiple of 512.
"""

from __future__ import annotations

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit
from g4c.lowering.nki.simulator import language as nl

P, BANK, BLOCK = 128, 512, 2048
LOWEST = -3.0e38


@jit
def reloaded(q, k, v, window):
    """Flash attention; `window` 0: every earlier key. Whole banks that no query of a tile sees are skipped."""
    length, width = q.shape
    y = nl.ndarray(q.shape, dtype=q.dtype, buffer=nl.shared_hbm)
    identity = nl.shared_identity_matrix(P, dtype=q.dtype)
    waiting = None
    for q0 in range(0, length, P):
        queries = nl.ndarray((P, width // P, P), dtype=q.dtype, buffer=nl.sbuf)
        raw = nl.ndarray((P, width), dtype=q.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=raw, src=q[q0 : q0 + P, :])
        turn(queries, raw, identity)
        state = new_state(width)
        first = 0 if window == 0 else max(0, q0 - window + 1) // BANK * BANK
        for k0 in range(first, q0 + P, BLOCK):
            banks = min(BLOCK, q0 + P - k0 + BANK - 1) // BANK
            block = scores_of(queries, k, v, q0, k0, banks, window, identity, waiting)
            softmax(block, state)
            waiting = (block, state, y[q0 : q0 + P, :], k0 + BLOCK >= q0 + P)
    for bank in range(len(waiting[0][0])):
        values_of(waiting, bank, identity)
    return y


def new_state(width):
    """Maximum, row sums and weighted values so far."""
    peak = nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf)
    total = nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf)
    result = nl.ndarray((P, width), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=peak, value=LOWEST)
    nisa.memset(dst=total, value=0.0)
    nisa.memset(dst=result, value=0.0, engine=nisa.engine.gpsimd)
    return peak, total, result


def turn(dst, raw, identity):
    """dst [128, c, rows] = raw [rows, c * 128] transposed, all of it in one PSUM bank."""
    chunks = dst.shape[1]
    psum = nl.ndarray((P, chunks, P), dtype=raw.dtype, buffer=nl.psum)
    for c in range(chunks):
        nisa.nc_transpose(dst=psum[:, c, :], data=raw[:, c * P : (c + 1) * P])
    nisa.tensor_copy(dst=dst, src=psum, engine=nisa.engine.vector)


def scores_of(queries, k, v, q0, k0, banks, window, identity, waiting):
    """Scores of up to 2048 keys, masked, with their values. In between PE turns the keys of the next bank, so that the
    copies out of PSUM are not waited for, and finishes the banks of `waiting`."""
    chunks = queries.shape[1]
    scores, values = [], []
    following = keys_of(k, v, k0, chunks, identity)
    for bank in range(banks):
        turned, held = following
        if bank + 1 < banks:
            following = keys_of(k, v, k0 + (bank + 1) * BANK, chunks, identity)
        psum = nl.ndarray((P, BANK), dtype=nl.float32, buffer=nl.psum)
        for c in range(chunks):
            nisa.nc_matmul(dst=psum, stationary=queries[:, c, :], moving=turned[:, c, :], accumulate=(c > 0))
        scores.append(masked(psum, q0, k0 + bank * BANK, window))
        values.append(held)
        if waiting is not None and bank < len(waiting[0][0]):
            values_of(waiting, bank, identity)
    if waiting is not None:
        for bank in range(banks, len(waiting[0][0])):
            values_of(waiting, bank, identity)
    weights = nl.ndarray((P, banks, BANK), dtype=k.dtype, buffer=nl.sbuf)
    return scores, values, weights, nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf)


def keys_of(k, v, start, chunks, identity):
    """512 keys transposed, and their values."""
    turned = nl.ndarray((P, chunks, BANK), dtype=k.dtype, buffer=nl.sbuf)
    held = nl.ndarray((P, BANK // P, chunks * P), dtype=v.dtype, buffer=nl.sbuf)
    for part in range(BANK // P):
        raw = nl.ndarray((P, chunks * P), dtype=k.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=raw, src=k[start + part * P : start + part * P + P, :])
        nisa.dma_copy(dst=held[:, part, :], src=v[start + part * P : start + part * P + P, :])
        turn(turned[:, :, part * P : part * P + P], raw, identity)
    return turned, held


def masked(psum, q0, start, window):
    """The scores where every query sees every key; else a copy, with the least number where it does not."""
    if start + BANK <= q0 + 1 and (window == 0 or start > q0 + P - 1 - window):
        return psum
    scores = nl.ndarray((P, BANK), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=scores, op=nl.copy, data=psum)
    if start + BANK > q0 + 1:
        hide(scores, q0 - start, -1)
    if window and start <= q0 + P - 1 - window:
        hide(scores, start - q0 + window - 1, 1)
    return scores


def hide(scores, offset, sign):
    """Keep scores where offset + sign * (key - query) >= 0, both counted within the tile."""
    nisa.affine_select(
        dst=scores,
        pattern=[[sign, BANK]],
        channel_multiplier=-sign,
        on_true_tile=scores,
        on_false_value=LOWEST,
        cmp_op=nl.greater_equal,
        offset=offset,
    )


def softmax(block, state):
    """Weights of a block: exp(scores - maximum), their sums, and the decay of what was summed before."""
    scores, _, weights, decay = block
    peak, total, _ = state
    banks = len(scores)
    peaks = nl.ndarray((P, banks + 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=peaks[:, banks : banks + 1], src=peak, engine=nisa.engine.vector)
    for bank in range(banks):
        nisa.tensor_reduce(dst=peaks[:, bank : bank + 1], op=nl.maximum, data=scores[bank], axis=1)
    shift = nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=shift, op=nl.maximum, data=peaks, axis=1, negate=True)
    sums = nl.ndarray((P, banks), dtype=nl.float32, buffer=nl.sbuf)
    for bank in range(banks):
        nisa.activation(
            dst=weights[:, bank, :],
            op=nl.exp,
            data=scores[bank],
            bias=shift,
            reduce_op=nl.add,
            reduce_res=sums[:, bank : bank + 1],
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
    nisa.activation(dst=decay, op=nl.exp, data=peak, bias=shift)
    nisa.tensor_scalar(dst=peak, data=shift, op0=nl.multiply, operand0=-1.0)
    added = nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=added, op=nl.add, data=sums, axis=1)
    nisa.scalar_tensor_tensor(dst=total, data=total, op0=nl.multiply, operand0=decay, op1=nl.add, operand1=added)


def values_of(waiting, bank, identity):
    """Weights of one bank times values, added to the result, which the last bank of the last block stores."""
    (scores, values, weights, decay), (_, total, result), y, last = waiting
    turned = nl.ndarray((P, BANK // P, P), dtype=weights.dtype, buffer=nl.sbuf)
    turn(turned, weights[:, bank, :], identity)
    product = nl.ndarray(result.shape, dtype=nl.float32, buffer=nl.psum)
    for part in range(BANK // P):
        nisa.nc_matmul(
            dst=product, stationary=turned[:, part, :], moving=values[bank][:, part, :], accumulate=(part > 0)
        )
    if bank == 0:
        nisa.scalar_tensor_tensor(
            dst=result, data=result, op0=nl.multiply, operand0=decay, op1=nl.add, operand1=product
        )
    else:
        nisa.tensor_tensor(dst=result, data1=result, data2=product, op=nl.add)
    if last and bank == len(scores) - 1:
        inverse = nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.reciprocal(dst=inverse, data=total)
        final = nl.ndarray(result.shape, dtype=y.dtype, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=final, data=result, op0=nl.multiply, operand0=inverse)
        nisa.dma_copy(dst=y, src=final)


@jit
def decomposed(q, k, v, window):
    """Three passes: all scores to HBM in bf16; softmax of rows, masked; probabilities, from HBM, times values."""
    length, width = q.shape
    chunks = width // P
    y = nl.ndarray(q.shape, dtype=q.dtype, buffer=nl.shared_hbm)
    scores = nl.ndarray((length, length), dtype=q.dtype, buffer=nl.private_hbm)
    weights = nl.ndarray((length, length), dtype=q.dtype, buffer=nl.private_hbm)
    identity = nl.shared_identity_matrix(P, dtype=q.dtype)
    keys = nl.ndarray((P, chunks, length), dtype=k.dtype, buffer=nl.sbuf)
    for k0 in range(0, length, P):
        raw = nl.ndarray((P, width), dtype=k.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=raw, src=k[k0 : k0 + P, :])
        turn(keys[:, :, k0 : k0 + P], raw, identity)
    for q0 in range(0, length, P):
        queries = nl.ndarray((P, chunks, P), dtype=q.dtype, buffer=nl.sbuf)
        raw = nl.ndarray((P, width), dtype=q.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=raw, src=q[q0 : q0 + P, :])
        turn(queries, raw, identity)
        for k0 in range(0, length, BLOCK):
            size = min(BLOCK, length - k0)
            tile = nl.ndarray((P, size), dtype=q.dtype, buffer=nl.sbuf)
            for part in range(0, size, BANK):
                psum = nl.ndarray((P, BANK), dtype=nl.float32, buffer=nl.psum)
                for c in range(chunks):
                    moving = keys[:, c, k0 + part : k0 + part + BANK]
                    nisa.nc_matmul(dst=psum, stationary=queries[:, c, :], moving=moving, accumulate=(c > 0))
                if part // BANK % 2:
                    nisa.activation(dst=tile[:, part : part + BANK], op=nl.copy, data=psum)
                else:
                    nisa.tensor_copy(dst=tile[:, part : part + BANK], src=psum, engine=nisa.engine.vector)
            nisa.dma_copy(dst=scores[q0 : q0 + P, k0 : k0 + size], src=tile)
    for q0 in range(0, length, P):
        softmax_of_rows(weights[q0 : q0 + P, :], scores[q0 : q0 + P, :], q0, window)
    held = nl.ndarray((P, length // P, width), dtype=v.dtype, buffer=nl.sbuf)
    for k0 in range(0, length, P):
        nisa.dma_copy(dst=held[:, k0 // P, :], src=v[k0 : k0 + P, :])
    for q0 in range(0, length, P):
        product = nl.ndarray((P, width), dtype=nl.float32, buffer=nl.psum)
        for k0 in range(0, length, BLOCK):
            size = min(BLOCK, length - k0)
            tile = nl.ndarray((P, size), dtype=q.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile, src=weights[q0 : q0 + P, k0 : k0 + size])
            for part in range(0, size, BANK):
                turned = nl.ndarray((P, BANK // P, P), dtype=q.dtype, buffer=nl.sbuf)
                turn(turned, tile[:, part : part + BANK], identity)
                for n in range(BANK // P):
                    at = (k0 + part) // P + n
                    nisa.nc_matmul(dst=product, stationary=turned[:, n, :], moving=held[:, at, :], accumulate=(at > 0))
        final = nl.ndarray((P, width), dtype=y.dtype, buffer=nl.sbuf)
        nisa.activation(dst=final, op=nl.copy, data=product)
        nisa.dma_copy(dst=y[q0 : q0 + P, :], src=final)
    return y


def softmax_of_rows(weights, scores, q0, window):
    """128 rows of probabilities from 128 rows of scores, both in HBM."""
    length = scores.shape[1]
    tile = nl.ndarray((P, length), dtype=scores.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=scores)
    nisa.affine_select(
        dst=tile,
        pattern=[[-1, length]],
        channel_multiplier=1,
        on_true_tile=tile,
        on_false_value=LOWEST,
        cmp_op=nl.greater_equal,
        offset=q0,
    )
    if window:
        nisa.affine_select(
            dst=tile,
            pattern=[[1, length]],
            channel_multiplier=-1,
            on_true_tile=tile,
            on_false_value=LOWEST,
            cmp_op=nl.greater_equal,
            offset=window - 1 - q0,
        )
    shift = nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=shift, op=nl.maximum, data=tile, axis=1, negate=True)
    powers = nl.ndarray((P, length), dtype=scores.dtype, buffer=nl.sbuf)
    total = nl.ndarray((P, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(
        dst=powers,
        op=nl.exp,
        data=tile,
        bias=shift,
        reduce_op=nl.add,
        reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    nisa.reciprocal(dst=total, data=total)
    nisa.tensor_scalar(dst=powers, data=powers, op0=nl.multiply, operand0=total)
    nisa.dma_copy(dst=weights, src=powers)
