"""What a prefill kernel does in an iteration with the steps that are under way: S, P, P^T, P V, the result.

In: the text of a kernel. Out: the lines of each stage.
Invariant: engines work in order, so a stage's lines stand where what they wait for is there: transposes and products of
earlier steps between scores and their exponentials, divisions where Vector waits for maxima anyway.
"""

from __future__ import annotations

from g4c.lowering.nki.attention.prefill_masks import maximum
from g4c.lowering.nki.attention.prefill_text import KernelText

_RESULT = 'products[(n - 1) % PRODUCTS] if step["opens"] else state[step["unit"] % UNITS]'


def score(text: KernelText) -> None:
    """S of step n - 1 and its maxima."""
    text.add('scored_banks = steps[n - 1]["banks"]')
    with text.block("if len(scored_banks) > 0:"):
        text.add("""
            # Step n - 1: scores and their maxima, bank by bank.
            step = steps[n - 1]
            unit = step["unit"] % UNITS
            kv = step["kv"]
            peak = peaks[unit]
            rows = step["rows"]
        """)
        if "slot" in text.masks:
            text.add("used = 1")
        with text.block("for j in range(len(scored_banks)):"):
            text.add("""
                segment, first, last, mask, column = scored_banks[j]
                width = last - first
                s = scores[(bank + j) % SCORES][:rows, :width]
                x = 0
            """)
            _products(text)
            maximum(text)


def _products(text: KernelText) -> None:
    """One matmul per d tile and run of neighbors in SBUF."""
    ragged = len(set(text.problem.widths)) > 1
    part = ":depth" if ragged else ":"
    with text.block('for slot, count, span in step["runs"][j]:'):
        with text.block("for c in range(D_TILES):"):
            if ragged:
                text.add("depth = min(P, D - c * P)")
            text.add(f"""
                nisa.nc_matmul(
                    dst=s[:, x : x + count * span],
                    stationary=queries[unit][{part}, c, :rows],
                    moving=keys[{part}, slot : slot + count, kv * D_TILES + c, :span],
                    accumulate=(c > 0),
                )
            """)
        text.add("x += count * span")


def weigh(text: KernelText) -> None:
    """P^T of step n - TURNED, then P of step n - 1, between the products with V of step n - MULTIPLIED."""
    text.add("""
        # Bank by bank: P^T of step n - TURNED, and P V of step n - MULTIPLIED, whose P^T is in SBUF by now.
        turned_banks = steps[n - TURNED]["banks"]
        multiplied_banks = steps[n - MULTIPLIED]["banks"]
    """)
    with text.block("for j in range(max(len(turned_banks), len(multiplied_banks), 1)):"):
        with text.block("if j < len(turned_banks):"):
            _turn(text)
        with text.block("if j == 0 and len(scored_banks) > 0:"):
            _exponentials(text)
        with text.block("if j < len(multiplied_banks):"):
            _multiply(text)


def _turn(text: KernelText) -> None:
    text.add("""
        rows = steps[n - TURNED]["rows"]
        p = weights[n % TURNED * BLOCK_BANKS + j]
        p_t = turned[n % 2 * BLOCK_BANKS + j]
        buffer = turns[turning % 2]
        t = 0
        for slot, count, span in steps[n - TURNED]["runs"][j]:
            for c in range(t, t + count):
                part = p[:rows, c * P : c * P + span]
                nisa.nc_transpose(dst=buffer[:span, c, :rows], data=part, engine=nisa.engine.tensor)
            dst, src = p_t[:span, t : t + count, :rows], buffer[:span, t : t + count, :rows]
            if j == 0:  # Scalar has the time before it can go on with exponentials
                nisa.activation(dst=dst, op=nl.copy, data=src)
            else:
                nisa.tensor_copy(dst=dst, src=src)
            t += count
        turning += 1
    """)


def _exponentials(text: KernelText) -> None:
    """The maximum of step n - 1, and P."""
    used = "used" if "slot" in text.masks else "1 + len(scored_banks)"
    text.add(f"""
        step = steps[n - 1]
        rows = step["rows"]
        peak = peaks[step["unit"] % UNITS]
        every = peak[:rows, : {used}]
        minus = shift[n % 3][:rows, :]
        nisa.tensor_reduce(dst=minus, op=nl.maximum, data=every, axis=1, negate=True)
    """)
    exponent = ["bias=minus"]
    if text.problem.scale != 1:
        scale = repr(text.problem.scale)
        text.add("scaled = bias[n % 3][:rows, :]")
        text.call("tensor_scalar", "dst=scaled", "data=minus", "op0=nl.multiply", f"operand0={scale}")
        exponent = ["bias=scaled", f"scale={scale}"]
    with text.block("for i in range(len(scored_banks)):"):
        text.add("""
            width = scored_banks[i][2] - scored_banks[i][1]
            p = weights[(n - 1) % TURNED * BLOCK_BANKS + i][:rows, :width]
            s = scores[(bank + i) % SCORES][:rows, :width]
        """)
        sums: tuple[str, ...] = ()
        if text.sums:
            text.add("part = sums[n % ADDED][:rows, i : i + 1]")
            sums = ("reduce_op=nl.add", "reduce_res=part", "reduce_cmd=nisa.reduce_cmd.reset_reduce")
        text.call("activation", "dst=p", "op=nl.exp", "data=s", *exponent, *sums)
    if text.plan.blocks:
        text.add("old = peak[:rows, 0:1]")
        with text.block('if not step["opens"]:'):
            text.call("activation", "dst=decay[n % ADDED][:rows, :]", "op=nl.exp", "data=old", *exponent)
        with text.block('if not step["closes"]:'):
            text.call("activation", "dst=old", "op=nl.copy", "data=minus", "scale=-1.0")
    text.add("bank += len(scored_banks)")


def _multiply(text: KernelText) -> None:
    text.add("""
        rows = steps[n - MULTIPLIED]["rows"]
        p_t = turned[(n - 1) % 2 * BLOCK_BANKS + j]
        first = steps[n - MULTIPLIED]["kv"] * COLUMNS
        t = 0
        for slot, count, span in steps[n - MULTIPLIED]["runs"][j]:
            for c in range(count):
                nisa.nc_matmul(
                    dst=products[n % PRODUCTS][:rows, :],
                    stationary=p_t[:span, t, :rows],
                    moving=values[:span, slot + c, first : first + COLUMNS],
                    accumulate=(j + t > 0),
                )
                t += 1
    """)


def add(text: KernelText) -> None:
    """Step n - ADDED joins its unit's state, where units have several blocks."""
    text.add('added_banks = steps[n - ADDED]["banks"]')
    if not text.plan.blocks:
        return
    with text.block("if len(added_banks) > 0:"):
        text.add("""
            # Step n - ADDED: its products join those of the unit's blocks before.
            step = steps[n - ADDED]
            rows = step["rows"]
            product = products[(n - 1) % PRODUCTS][:rows, :]
            so_far = state[step["unit"] % UNITS][:rows, :]
            alpha = decay[(n + 1) % ADDED][:rows, :]
        """)
        rescale = ("op0=nl.multiply", "operand0=alpha", "op1=nl.add")
        with text.block('if not step["opens"]:'):
            text.call("scalar_tensor_tensor", "dst=so_far", "data=so_far", *rescale, "operand1=product")
        with text.block('elif not step["closes"]:'):
            text.call("activation", "dst=so_far", "op=nl.copy", "data=product")
        if text.sums:
            text.add("part = sums[(n + 1) % ADDED][:rows, : len(added_banks)]")
            text.add('all_sums = total[step["unit"] % UNITS][:rows, :]')
            with text.block('if step["opens"]:'):
                text.call("tensor_reduce", "dst=all_sums", "op=nl.add", "data=part", "axis=1")
            with text.block("else:"):
                text.add("new = added[n % 3][:rows, :]")
                text.call("tensor_reduce", "dst=new", "op=nl.add", "data=part", "axis=1")
                text.call("scalar_tensor_tensor", "dst=all_sums", "data=all_sums", *rescale, "operand1=new")


def divide(text: KernelText) -> None:
    """1 / sum of a unit whose last step is n - ADDED, 0 for padding."""
    with text.block('if len(added_banks) > 0 and steps[n - ADDED]["closes"]:'):
        text.add("""
            # Step n - ADDED was its unit's last: 1 / sum, and 0 for padding.
            step = steps[n - ADDED]
            rows = step["rows"]
            share = inverse[n % 3][:rows, :]
        """)
        if not text.sums:
            result = f"({_RESULT})" if text.plan.blocks else "products[(n - 1) % PRODUCTS]"
            text.add(f"row_sum = {result}[:rows, D : D + 1]")
        elif text.plan.blocks:
            text.add('row_sum = total[step["unit"] % UNITS][:rows, :]')
        else:
            text.add("row_sum = sums[(n + 1) % ADDED][:rows, 0:1]")
            with text.block("if len(added_banks) > 1:"):
                text.add("""
                    part = sums[(n + 1) % ADDED][:rows, : len(added_banks)]
                    nisa.tensor_reduce(dst=share, op=nl.add, data=part, axis=1)
                    row_sum = share
                """)
        if not text.problem.sees_itself:
            text.add("""
                # Where nothing is seen, the result is 0, and the sum must not be.
                nisa.tensor_scalar(dst=share, data=row_sum, op0=nl.maximum, operand0=1.0e-30)
                row_sum = share
            """)
        text.add(f"""
            nisa.reciprocal(dst=share, data=row_sum)
            real = valid[step["unit"] // HEADS % {text.count("valid")}][:rows, :]
            nisa.tensor_tensor(dst=share, data1=share, data2=real, op=nl.multiply, engine=nisa.engine.gpsimd)
        """)


def store(text: KernelText) -> None:
    """y of that unit, and its store with the last head of the query tile."""
    with text.block('if len(added_banks) > 0 and steps[n - ADDED]["closes"]:'):
        text.add("# y = result / sum.")
        text.add("step = steps[n - ADDED]")
        text.tile('step["unit"] // HEADS')
        text.add(f"result = {_RESULT if text.plan.blocks else 'products[(n - 1) % PRODUCTS]'}")
        text.add("""
            first = step["unit"] % HEADS * D
            out = results[closed // HEADS % 2]
            share = inverse[n % 3][:rows, :]
            nisa.activation(dst=out[:rows, first : first + D], op=nl.copy, data=result[:rows, :D], scale=share)
            closed += 1
            if closed % HEADS == 0:
                nisa.dma_copy(dst=y[b, start:limit, head : head + HEADS, :], src=out[:rows, :])
        """)
