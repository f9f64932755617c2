"""The source of a prefill attention kernel, part by part.

In: a problem, a schedule, their plan. Out: Python text: the kernel function and the functions that it calls.
Invariant: what a problem does not need (masks, sums, blocks of keys) is not in its text.
"""

from __future__ import annotations

from g4c.lowering.nki.attention.prefill_plan import Plan
from g4c.lowering.nki.attention.prefill_problem import P, PrefillProblem
from g4c.lowering.nki.attention.prefill_schedule import STAGED, Buffer, PrefillSchedule
from g4c.lowering.nki.source_text import SourceText

# Scores of keys that are not seen, and where a running maximum starts: in between, exp(score - maximum) is 0 for what is
# not seen, also where nothing is seen at all.
UNSEEN, FLOOR = -1.0e30, -1.0e20


class Source:
    """Writes the text of one kernel."""

    def __init__(
        self, problem: PrefillProblem, schedule: PrefillSchedule, plan: Plan, held: tuple[Buffer, ...]
    ) -> None:
        self.problem, self.schedule, self.plan, self.held = problem, schedule, plan, held
        self.names = {buffer.name for buffer in held}
        self.text = SourceText()

    # Functions beside the kernel

    def functions(self) -> SourceText:
        """rotation, fetch, turn."""
        self.text.add('''
            def rotation(count, shape, dtype, buffer):
                """`count` tiles that are used in turn."""
                tiles = []
                for _ in range(count):
                    tiles.append(nl.ndarray(shape, dtype=dtype, buffer=buffer))
                return tiles


            def fetch(loads, start, limit, stored_keys, stored_values, raw_keys, values):
                """Issue loads start <= m < limit of key tiles; gives how many have been issued."""
                for m in range(start, limit):
                    b, g, segment, k, width = loads[m]
                    nisa.dma_copy(dst=raw_keys[m % AHEAD][:width, :], src=stored_keys[segment][b, k : k + width, g : g + TOGETHER, :])
                    part = stored_values[segment][b, k : k + width, g : g + TOGETHER, :]
                    nisa.dma_copy(dst=values[:width, m % SLOTS, : TOGETHER * D], src=part)
                return max(start, limit)


        ''')
        self._turn()
        return self.text

    def _turn(self) -> None:
        ragged = len(set(self.problem.widths)) > 1
        with self.text.block("def turn(data, buffer, target, rows):"):
            self.text.add('"""target[d, tile, row] = data[row, tile * P + d], through PSUM."""')
            with self.text.block("for c in range(D_TILES):"):
                self.text.add("width = min(P, D - c * P)")
                self.text.add("part = data[:, c * P : c * P + width]")
                self.text.add("nisa.nc_transpose(dst=buffer[:width, c, :rows], data=part, engine=nisa.engine.tensor)")
                if ragged:
                    self.text.add("nisa.tensor_copy(dst=target[:width, c, :rows], src=buffer[:width, c, :rows])")
            if not ragged:
                partitions = max(self.problem.widths)
                self.text.add(f"nisa.tensor_copy(dst=target[:, :, :rows], src=buffer[:{partitions}, :D_TILES, :rows])")

    # The kernel

    def kernel(self) -> SourceText:
        """The decorated function."""
        problem, text = self.problem, self.text
        parameters = ", ".join(name for name, _ in problem.parameters)
        text.add("@nki.jit")
        with text.block(f"def {problem.name}({parameters}):"):
            dtype = "bfloat16" if problem.itemsize == 2 else "float32"
            shape = (problem.batch, problem.rows, problem.heads, problem.head_dim)
            text.add(f"y = nl.ndarray({shape}, dtype=nl.{dtype}, buffer=nl.shared_hbm)")
            for names in ("keys", "values"):
                listed = "".join(f"{segment.kind}_{names}, " for segment in problem.segments)
                text.add(f"stored_{names} = ({listed.rstrip() if len(problem.segments) == 1 else listed[:-2]})")
            self._allocate()
            self._constants()
            text.add("""
                steps, loads, tiles = plan()
                fetched = 0  # loads of key tiles that were issued
                transposed = 0  # key tiles of which K^T is there
                asked = 0  # loads of query tiles that were issued
                opened = 0  # units of which q^T is there
                closed = 0  # units of which y is there
                bank = 0  # the next bank of `scores`, in rotation
                turning = 0  # the next one of `turns`
            """)
            with text.block("for n in range(len(steps)):"):
                self._loads()
                self._prepare()
                self._add()
                self._score()
                self._finish()
                self._weigh()
                self._store()
            text.add("return y")
        return text

    def _allocate(self) -> None:
        for buffer in self.held:
            where = f"nl.{buffer.memory}"
            if buffer.count:
                made = f"rotation({buffer.count}, {buffer.shape}, nl.{buffer.dtype}, {where})"
            else:
                made = f"nl.ndarray({buffer.shape}, dtype=nl.{buffer.dtype}, buffer={where})"
            self.text.add(f"{buffer.name} = {made}  # {buffer.comment}")

    def _constants(self) -> None:
        problem, text = self.problem, self.text
        if self.schedule.sums_in_values(problem):
            text.add("nisa.memset(dst=values[:, :, D : D + 1], value=1.0, engine=nisa.engine.gpsimd)")
        if "band" not in self.names:
            return
        width = problem.band + P
        pattern = f"pattern=[[-1, {width}]], channel_multiplier=1, offset=BAND"
        text.add(f"""
            # Row r sees the key that is x rows after BAND before the first query: 0 <= r - (x - BAND){self._below()}.
            nisa.memset(dst=band, value=1, engine=nisa.engine.gpsimd)
            nisa.affine_select(
                dst=band, {pattern},
                on_true_tile=band, on_false_value=0.0, cmp_op=nl.greater_equal,
            )
        """)
        if problem.window:
            text.add(f"""
                nisa.affine_select(
                    dst=band, pattern=[[1, {width}]], channel_multiplier=-1, offset=WINDOW - 1 - BAND,
                    on_true_tile=band, on_false_value=0.0, cmp_op=nl.greater_equal,
                )
            """)

    def _below(self) -> str:
        return " < WINDOW" if self.problem.window else ""

    def _loads(self) -> None:
        """What DMA does in an iteration."""
        text = self.text
        text.add(
            "# Loads run ahead as far as their tiles are free: of queries, and of keys that no step needs any more."
        )
        with text.block("for v in range(asked, min(len(tiles), -(-opened // HEADS) + 1)):"):
            text.add("""
                b, start, limit, head = tiles[v]
                rows = limit - start
                nisa.dma_copy(dst=raw_queries[v % 2][:rows, :], src=q[b, start:limit, head : head + HEADS, :])
                nisa.dma_copy(dst=at[v % 2][:rows, :], src=positions[b, start:limit])
            """)
            if self.problem.block_span:
                text.add("nisa.dma_copy(dst=own_blocks[v % 2][:rows, :], src=blocks[b, start:limit])")
            text.add("asked = v + 1")
        text.add("""
            room = steps[max(0, n - MULTIPLIED)]["oldest"] + SLOTS
            limit = min(len(loads), transposed + AHEAD, room)
            fetched = fetch(loads, fetched, limit, stored_keys, stored_values, raw_keys, values)
        """)

    def _prepare(self) -> None:
        """K^T, q^T and masks of step n."""
        text = self.text
        text.add("""
            # Step n: K^T of key tiles that are new, and q^T of a unit that is.
            step = steps[n]
        """)
        with text.block('for m in range(transposed, step["needs"]):'):
            text.add("""
                limit = min(len(loads), m + AHEAD, room)
                fetched = fetch(loads, fetched, limit, stored_keys, stored_values, raw_keys, values)
                width = loads[m][4]
                for kv in range(TOGETHER):
                    part = raw_keys[m % AHEAD][:width, kv * D : (kv + 1) * D]
                    target = keys[:, m % SLOTS, kv * D_TILES : (kv + 1) * D_TILES]
                    turn(part, turns[turning % 2], target, width)
                    turning += 1
                transposed = m + 1
            """)
        with text.block('if step["opens"]:'):
            text.add("""
                unit = step["unit"]
                v = unit // HEADS
                b, start, limit, head = tiles[v]
                rows = limit - start
            """)
            self._masks()
            text.add(f"""
                first = unit % HEADS * D
                part = raw_queries[v % 2][:rows, first : first + D]
                turn(part, turns[turning % 2], queries[unit % UNITS], rows)
                turning += 1
                nisa.memset(dst=peaks[unit % UNITS][:, 0:1], value={FLOOR}, engine=nisa.engine.gpsimd)
                opened += 1
            """)

    # Masks

    def _masks(self) -> None:
        """What a new batch and a new query tile need."""
        text = self.text
        if "held" in self.names or self.problem.block_span:
            new = ["unit == 0" if self.problem.batch == 1 else "unit == 0 or tiles[v - 1][0] != b"]
            if self.problem.batch > 1:
                new.append("unit % HEADS == 0")
                new[0] = f"({new[0]})"
            with text.block(f"if {' and '.join(reversed(new))}:"):
                self._of_batch()
        with text.block("if unit % HEADS == 0:"):
            count = next(buffer.count for buffer in self.held if buffer.name == "valid")
            self._compare(f"valid[v % {count}][:rows, :]", "at[v % 2][:rows, :]", "greater_equal", "0.0")
            self._of_query()

    def _compare(self, dst: str, data: str, op: str, operand: str, more: str = "") -> None:
        self.text.add(f"nisa.tensor_scalar(dst={dst}, data={data}, op0=nl.{op}, operand0={operand}{more})")

    def _of_batch(self) -> None:
        """Keys that a sequence sees, positions of keys, image blocks of keys; the same on all partitions."""
        problem, text = self.problem, self.text
        for index, segment in enumerate(problem.segments):
            if not (problem.by_query(segment) or problem.by_batch(segment)):
                continue
            column = problem.mask_columns(index)
            source = "positions" if segment.kind == "chunk" else f"{segment.kind}_held"
            text.add(f"# {segment.kind} keys: {source}, on all partitions.")
            staged = next(buffer.shape[1] for buffer in self.held if buffer.name == "held")
            with text.block(f"for k in range(0, {segment.keys}, {staged}):"):
                text.add(f"""
                    width = min({staged}, {segment.keys} - k)
                    row = {source}.ap([[0, P], [1, width]], offset=b * {segment.keys} + k)
                    nisa.dma_copy(dst=held[:, :width], src=row)
                """)
                at = f"{column} + k" if column else "k"
                if problem.by_batch(segment):
                    dst = f"seen_by_batch[b % 2][:, {at} : {at} + width]"
                    self._compare(dst, "held[:, :width]", "greater_equal", "0.0")
                else:
                    far = "1.0e9" if segment.kind == "mixed" else "-1.0e9"
                    text.add(f"row = key_positions[:, {at} : {at} + width]")
                    more = f", op1=nl.multiply, operand1={far}"
                    self._compare("row", "held[:, :width]", "less", "0.0", more)
                    text.add("nisa.tensor_tensor(dst=row, data1=row, data2=held[:, :width], op=nl.add)")
        if problem.block_span:
            text.add("""
                # Image blocks of the rows, on all partitions; text becomes -2, which is nobody's block.
                nisa.dma_copy(dst=raw_blocks, src=blocks.ap([[0, P], [1, ROWS]], offset=b * ROWS))
            """)
            self._compare("row_blocks", "raw_blocks", "less", "0.0", ", op1=nl.multiply, operand1=-1.0")
            text.add("nisa.tensor_tensor(dst=row_blocks, data1=row_blocks, data2=raw_blocks, op=nl.add)")

    def _of_query(self) -> None:
        """What each row of the tile sees of keys that data mask."""
        problem, text = self.problem, self.text
        if "seen_by_query" in self.names:
            count = next(buffer.count for buffer in self.held if buffer.name == "seen_by_query")
            text.add(f"seen = seen_by_query[v % {count}]")
            self._compare("position[0][:rows, :]", "at[v % 2][:rows, :]", "add", "0.0")
            if problem.window:
                self._compare("position[1][:rows, :]", "at[v % 2][:rows, :]", "subtract", "float(WINDOW)")
        for index, segment in enumerate(problem.segments):
            if not problem.by_query(segment):
                continue
            low = problem.mask_columns(index)
            part = f"[:rows, {low}:{low + segment.keys}]"
            if segment.kind == "past":
                with text.block("if start + 1 < WINDOW:"):
                    self._compare(f"seen{part}", f"key_positions{part}", "greater", "position[1][:rows, :]")
                continue
            self._compare(f"seen{part}", f"key_positions{part}", "less_equal", "position[0][:rows, :]")
            if problem.window:
                text.add(f"""
                    nisa.scalar_tensor_tensor(
                        dst=seen{part}, data=key_positions{part}, op0=nl.greater, operand0=position[1][:rows, :],
                        op1=nl.multiply, operand1=seen{part},
                    )
                """)
        if problem.block_span:
            count = next(buffer.count for buffer in self.held if buffer.name == "seen_in_block")
            self._compare("position[0][:rows, :]", "own_blocks[v % 2][:rows, :]", "add", "0.0")
            text.add(f"width = min(ROWS - start, {problem.reach})")
            text.add(f"seen = seen_in_block[v % {count}]")
            self._compare(
                "seen[:rows, :width]", "row_blocks[:rows, start : start + width]", "equal", "position[0][:rows, :]"
            )
            text.add("""
                own = seen[:rows, :rows]
                nisa.tensor_tensor(dst=own, data1=own, data2=band[:rows, BAND : BAND + rows], op=nl.maximum)
            """)

    # Scores and weights

    def _score(self) -> None:
        """S, its maxima, and P of step n - 1."""
        problem, text = self.problem, self.text
        text.add('scored_banks = steps[n - 1]["banks"]')
        with text.block("if len(scored_banks) > 0:"):
            text.add("""
                # Step n - 1: scores and their maxima, bank by bank.
                step = steps[n - 1]
                unit = step["unit"] % UNITS
                kv = step["kv"]
                b, start, limit, head = tiles[step["unit"] // HEADS]
                rows = limit - start
                peak = peaks[unit]
            """)
            with text.block("for j in range(len(scored_banks)):"):
                text.add("""
                    segment, first, last, mask, column = scored_banks[j]
                    width = last - first
                    s = scores[(bank + j) % 4][:rows, :width]
                    x = 0
                """)
                self._products()
                self._maximum()

    def _softmax(self) -> None:
        """The maximum of step n - 1, and P."""
        problem, text = self.problem, self.text
        with text.block("if j == 0 and len(scored_banks) > 0:"):
            text.add("""
                step = steps[n - 1]
                b, start, limit, head = tiles[step["unit"] // HEADS]
                rows = limit - start
                peak = peaks[step["unit"] % UNITS]
            """)
            shift = "shift[n % 3][:rows, :]"
            exponent = f"bias={shift}"
            text.add(f"""
                old = peak[:rows, 0:1]
                every = peak[:rows, : 1 + len(scored_banks)]
                nisa.tensor_reduce(dst={shift}, op=nl.maximum, data=every, axis=1, negate=True)
            """)
            if problem.scale != 1:
                text.add(f"""
                    nisa.tensor_scalar(
                        dst=bias[n % 3][:rows, :], data={shift}, op0=nl.multiply, operand0={problem.scale!r}
                    )
                """)
                exponent = f"bias=bias[n % 3][:rows, :], scale={problem.scale!r}"
            self._exponentials(exponent)
            if self.plan.blocks:
                with text.block('if not step["opens"]:'):
                    text.add(f"nisa.activation(dst=decay[n % ADDED][:rows, :], op=nl.exp, data=old, {exponent})")
                with text.block('if not step["closes"]:'):
                    text.add(f"nisa.activation(dst=old, op=nl.copy, data={shift}, scale=-1.0)")
            text.add("bank += len(scored_banks)")

    def _products(self) -> None:
        """One matmul per d tile and run of neighbors in SBUF."""
        ragged = len(set(self.problem.widths)) > 1
        with self.text.block('for slot, count, span in step["runs"][j]:'):
            with self.text.block("for c in range(D_TILES):"):
                if ragged:
                    self.text.add("depth = min(P, D - c * P)")
                part = ":depth" if ragged else ":"
                self.text.add(f"""
                    nisa.nc_matmul(
                        dst=s[:, x : x + count * span],
                        stationary=queries[unit][{part}, c, :rows],
                        moving=keys[{part}, slot : slot + count, kv * D_TILES + c, :span],
                        accumulate=(c > 0),
                    )
                """)
            self.text.add("x += count * span")

    def _maximum(self) -> None:
        """Of one bank, under its mask."""
        text = self.text
        masks = {mask for step in self.plan.steps for _, _, _, mask, _ in step["banks"]}
        named = {
            "band": "band[:rows, column : column + width]",
            "batch": "seen_by_batch[b % 2][:rows, column : column + width]",
            "query": 'seen_by_query[step["unit"] // HEADS % {}][:rows, column : column + width]',
            "block": 'seen_in_block[step["unit"] // HEADS % {}][:rows, column : column + width]',
        }
        sources = {"query": "seen_by_query", "block": "seen_in_block"}
        result = "peak[:rows, 1 + j : 2 + j]"
        branches = [mask for mask in named if mask in masks]
        for position, mask in enumerate(branches):
            count = next((buffer.count for buffer in self.held if buffer.name == sources.get(mask)), 0)
            if len(branches) + ("none" in masks) == 1:
                text.add(f"seen = {named[mask].format(count)}")
            else:
                with text.block(f'{"el" if position else ""}if mask == "{mask}":'):
                    text.add(f"seen = {named[mask].format(count)}")
        select = f"""
            nisa.select_reduce(
                dst=s, predicate=seen, on_true=s, on_false={UNSEEN},
                reduce_res={result}, reduce_cmd=nisa.reduce_cmd.reset_reduce,
            )
        """
        plain = f"nisa.tensor_reduce(dst={result}, op=nl.maximum, data=s, axis=1)"
        if not branches:
            text.add(plain)
        elif "none" not in masks:
            text.add(select)
        else:
            with text.block('if mask == "none":'):
                text.add(plain)
            with text.block("else:"):
                text.add(select)

    def _exponentials(self, exponent: str) -> None:
        text = self.text
        with text.block("for i in range(len(scored_banks)):"):
            text.add("width = scored_banks[i][2] - scored_banks[i][1]")
            text.add("p = weights[(n - 1) % TURNED * BLOCK_BANKS + i][:rows, :width]")
            sums = (
                ""
                if self.schedule.sums_in_values(self.problem)
                else (
                    "\n    reduce_op=nl.add, reduce_res=sums[n % ADDED][:rows, i : i + 1],"
                    "\n    reduce_cmd=nisa.reduce_cmd.reset_reduce,"
                )
            )
            text.add(
                "nisa.activation(\n    dst=p, op=nl.exp, data=scores[(bank + i) % 4][:rows, :width],"
                f"\n    {exponent},{sums}\n)"
            )

    def _weigh(self) -> None:
        """P^T of step n - TURNED, between the products with V of step n - MULTIPLIED, so that PE has no wait for either."""
        text = self.text
        text.add("""
            # Bank by bank: P^T of step n - TURNED, and P V of step n - MULTIPLIED, whose P^T is in SBUF by now.
            turned_banks = steps[n - TURNED]["banks"]
            multiplied_banks = steps[n - MULTIPLIED]["banks"]
        """)
        with text.block("for j in range(max(len(turned_banks), len(multiplied_banks), 1)):"):
            with text.block("if j < len(turned_banks):"):
                text.add("""
                    b, start, limit, head = tiles[steps[n - TURNED]["unit"] // HEADS]
                    rows = limit - start
                    p = weights[n % TURNED * BLOCK_BANKS + j]
                    p_t = turned[n % 2 * BLOCK_BANKS + j]
                    buffer = turns[turning % 2]
                    t = 0
                """)
                with text.block('for slot, count, span in steps[n - TURNED]["runs"][j]:'):
                    text.add("""
                        for c in range(t, t + count):
                            part = p[:rows, c * P : c * P + span]
                            nisa.nc_transpose(dst=buffer[:span, c, :rows], data=part, engine=nisa.engine.tensor)
                    """)
                    text.add("""
                        dst, src = p_t[:span, t : t + count, :rows], buffer[:span, t : t + count, :rows]
                        if j == 0:  # Scalar has the time before it can go on with exponentials
                            nisa.activation(dst=dst, op=nl.copy, data=src)
                        else:
                            nisa.tensor_copy(dst=dst, src=src)
                        t += count
                    """)
                text.add("turning += 1")
            self._softmax()
            with text.block("if j < len(multiplied_banks):"):
                text.add("""
                    b, start, limit, head = tiles[steps[n - MULTIPLIED]["unit"] // HEADS]
                    rows = limit - start
                    p_t = turned[(n - 1) % 2 * BLOCK_BANKS + j]
                    product = products[n % 2][:rows, :]
                    first = steps[n - MULTIPLIED]["kv"] * COLUMNS
                    t = 0
                """)
                text.add("""
                    for slot, count, span in steps[n - MULTIPLIED]["runs"][j]:
                        for c in range(count):
                            nisa.nc_matmul(
                                dst=product,
                                stationary=p_t[:span, t, :rows],
                                moving=values[:span, slot + c, first : first + COLUMNS],
                                accumulate=(j + t > 0),
                            )
                            t += 1
                """)

    def _add(self) -> None:
        """Add step n - ADDED to the unit's state, where there are blocks."""
        self.text.add('added_banks = steps[n - ADDED]["banks"]')
        if not self.plan.blocks:
            return
        text = self.text
        with text.block("if len(added_banks) > 0:"):
            text.add("""
                # Step n - ADDED: its products join those of the unit's blocks before.
                step = steps[n - ADDED]
                b, start, limit, head = tiles[step["unit"] // HEADS]
                rows = limit - start
                product = products[(n - 1) % 2][:rows, :]
                sum_so_far = state[step["unit"] % UNITS][:rows, :]
                alpha = decay[(n + 1) % ADDED][:rows, :]
            """)
            with text.block('if not step["opens"]:'):
                text.add("""
                    nisa.scalar_tensor_tensor(
                        dst=sum_so_far, data=sum_so_far, op0=nl.multiply, operand0=alpha, op1=nl.add, operand1=product
                    )
                """)
            with text.block('elif not step["closes"]:'):
                text.add("nisa.activation(dst=sum_so_far, op=nl.copy, data=product)")
            if not self.schedule.sums_in_values(self.problem):
                self._add_sums()

    def _add_sums(self) -> None:
        """The same for row sums that Scalar has counted."""
        text = self.text
        text.add("""
            part = sums[(n + 1) % ADDED][:rows, : len(added_banks)]
            total_so_far = total[step["unit"] % UNITS][:rows, :]
        """)
        with text.block('if step["opens"]:'):
            text.add("nisa.tensor_reduce(dst=total_so_far, op=nl.add, data=part, axis=1)")
        with text.block("else:"):
            text.add("""
                new = added[n % 3][:rows, :]
                nisa.tensor_reduce(dst=new, op=nl.add, data=part, axis=1)
                nisa.scalar_tensor_tensor(
                    dst=total_so_far, data=total_so_far, op0=nl.multiply, operand0=alpha, op1=nl.add, operand1=new
                )
            """)

    def _finish(self) -> None:
        """1 / sum, 0 for padding."""
        text, count = self.text, next(buffer.count for buffer in self.held if buffer.name == "valid")
        with text.block('if len(added_banks) > 0 and steps[n - ADDED]["closes"]:'):
            text.add("""
                # Step n - ADDED was its unit's last: 1 / sum, and 0 for padding.
                step = steps[n - ADDED]
                b, start, limit, head = tiles[step["unit"] // HEADS]
                rows = limit - start
                share = inverse[n % 3][:rows, :]
            """)
            text.add(f"total_sum = {self._total()}")
            if not self.schedule.sums_in_values(self.problem) and not self.plan.blocks:
                text.add("""
                    if len(added_banks) > 1:
                        part = sums[(n + 1) % ADDED][:rows, : len(added_banks)]
                        nisa.tensor_reduce(dst=share, op=nl.add, data=part, axis=1)
                        total_sum = share
                """)
            if not self.problem.sees_itself:
                text.add("""
                    # Where nothing is seen, the result is 0, and the sum must not be.
                    nisa.tensor_scalar(dst=share, data=total_sum, op0=nl.maximum, operand0=1.0e-30)
                    total_sum = share
                """)
            text.add(f"""
                nisa.reciprocal(dst=share, data=total_sum)
                real = valid[step["unit"] // HEADS % {count}][:rows, :]
                nisa.tensor_tensor(dst=share, data1=share, data2=real, op=nl.multiply, engine=nisa.engine.gpsimd)
            """)

    def _result(self) -> str:
        """The tile with a unit's result."""
        if not self.plan.blocks:
            return "products[(n - 1) % 2]"
        return 'products[(n - 1) % 2] if step["opens"] else state[step["unit"] % UNITS]'

    def _total(self) -> str:
        """The tile with its row sums."""
        if self.schedule.sums_in_values(self.problem):
            return f"({self._result()})[:rows, D : D + 1]"
        return 'total[step["unit"] % UNITS][:rows, :]' if self.plan.blocks else "sums[(n + 1) % ADDED][:rows, 0:1]"

    def _store(self) -> None:
        """y of a unit that is complete, and its store with the last head."""
        with self.text.block('if len(added_banks) > 0 and steps[n - ADDED]["closes"]:'):
            self.text.add(f"""
                # y = result / sum.
                step = steps[n - ADDED]
                b, start, limit, head = tiles[step["unit"] // HEADS]
                rows = limit - start
                result = {self._result()}
                first = step["unit"] % HEADS * D
                out = results[closed // HEADS % 2]
                nisa.activation(
                    dst=out[:rows, first : first + D], op=nl.copy, data=result[:rows, :D],
                    scale=inverse[n % 3][:rows, :],
                )
                closed += 1
                if closed % HEADS == 0:
                    nisa.dma_copy(dst=y[b, start:limit, head : head + HEADS, :], src=out[:rows, :])
            """)
