"""Catalogue of errors of the NKI simulator: what a kernel may not do, each with the rule it breaks."""

from __future__ import annotations

from g4c.errors import Entry

CATALOGUE: dict[str, Entry] = {
    "G4C-K001": Entry(
        "a kernel uses Python that the NKI compiler does not have",
        "A kernel's source is parsed, not executed. The compiler knows None, bool, int, float, str, tuples, lists, "
        "dictionaries with string keys, classes derived from nl.NKIObject, enums, for, while, if and assert. It has no "
        "try, generators, sets, keyword-only parameters, 64-bit integers, and no identity tests other than with None; "
        "tensors have no operators of Python, and numpy cannot read them.",
    ),
    "G4C-K002": Entry(
        "an argument is not what the NKI function takes",
        "The type or the value of an argument is outside of what the function's documentation lists.",
    ),
    "G4C-K003": Entry(
        "SBUF is full",
        "The tiles that live at the same time, from a tile's first write to its last use, need more bytes per "
        "partition than the generation's SBUF offers (v2 180224, v3 212984, v4 245752), or a tile is placed past the "
        "end. Tiles placed with address= may take turns in the same bytes. Reuse tiles, make them smaller, or shorten "
        "their lives.",
    ),
    "G4C-K004": Entry(
        "all PSUM banks are in use",
        "PSUM has 8 banks of 2 KiB per partition and a tile occupies whole banks from its first write to its last use. "
        "Copy results to SBUF before the next ones are computed.",
    ),
    "G4C-K005": Entry(
        "a PSUM tile does not respect the banks",
        "A PSUM tile starts at a multiple of 2048 bytes, and on v2 and v3 the destination of one matmul lies in one "
        "bank.",
    ),
    "G4C-K006": Entry(
        "an operand starts at an illegal partition",
        "An instruction that uses 65 to 128 partitions starts at partition 0; 33 to 64 partitions at 0 or 64; up to 32 "
        "partitions at 0, 32, 64 or 96. The partitions of an operand follow each other. DMA has no such rules.",
    ),
    "G4C-K007": Entry(
        "an operand is too large for the instruction",
        "A tile has at most 128 partitions; a matmul contracts over at most 128 partitions, has at most 128 stationary "
        "columns and (v2, v3) 512 moving columns; transposes take 128x128 on the Tensor Engine, 32x32 on the Vector "
        "Engine; other limits are in the message.",
    ),
    "G4C-K008": Entry(
        "an engine cannot reach the memory of an operand",
        "The Tensor Engine reads SBUF and writes PSUM; Vector and Scalar reach SBUF and PSUM; GpSimd reaches SBUF "
        "only; DMA moves between HBM and SBUF and never touches PSUM; HBM is reached by DMA only.",
    ),
    "G4C-K009": Entry(
        "both inputs are in PSUM",
        "An instruction with two tensor inputs can read only one of them from PSUM. Copy one to SBUF first.",
    ),
    "G4C-K010": Entry(
        "a data type is not allowed",
        "The instruction does not take this element type, or the types of its operands do not fit together.",
    ),
    "G4C-K011": Entry(
        "elements are read that nothing has written",
        "On the device the tile holds whatever was there before. The message gives the first such element and where "
        "the tile was allocated. Tails that a load did not cover are the usual cause.",
    ),
    "G4C-K012": Entry(
        "an accumulation group in PSUM is broken",
        "accumulate=True needs an earlier matmul with accumulate=False at the same place. On v2 and v3 it may not "
        "add to what another engine wrote (memset, tensor_copy): that is undefined on the device.",
    ),
    "G4C-K013": Entry(
        "an input of an activation function is outside of its valid range",
        "The Scalar Engine evaluates piecewise polynomials: log takes [2^-64, 2^64], sin [-pi, pi], arctan "
        "[-pi/2, pi/2], sqrt [2^-116, 2^118], rsqrt [2^-87, 2^97], reciprocal +-[2^-42, 2^42]. Outside the result is "
        "wrong.",
    ),
    "G4C-K014": Entry(
        "an output is not complete or not in shared HBM",
        "What a kernel returns, a tensor or a tuple of tensors, is allocated with buffer=nl.shared_hbm, or is one of "
        "its arguments, and every element has been written.",
    ),
    "G4C-K015": Entry(
        "an access is out of bounds",
        "A slice, an access pattern, or an offset known only at run time, leaves the tensor. With "
        "oob_mode.skip a DMA leaves such rows alone.",
    ),
    "G4C-K016": Entry(
        "the kernel has too many instructions",
        "neuronx-cc refuses programs beyond about 5,000,000 instructions. Loops are unrolled: use larger tiles or "
        "fewer iterations.",
    ),
    "G4C-K017": Entry(
        "operands do not fit together",
        "The operands of an instruction differ in the number of partitions or of elements per partition.",
    ),
    "G4C-K018": Entry(
        "an engine does not execute the instruction",
        "The engine= argument names an engine that does not have this instruction, on this generation or with this "
        "operator.",
    ),
    "G4C-K019": Entry(
        "the generation lacks a feature",
        "The instruction, operator or mode exists only on a later NeuronCore generation than the one simulated.",
    ),
    "G4C-K020": Entry(
        "the simulator does not implement the function",
        "MX formats, random numbers and collectives are not simulated; neither is the dialect before NKI 0.3.",
    ),
    "G4C-K021": Entry(
        "an operator is not allowed here",
        "The instruction takes a subset of the ALU operators or activation functions; the message lists them.",
    ),
    "G4C-K022": Entry(
        "a tile was overwritten through another tile at the same address",
        "Two tiles placed with address= share bytes, one was written, and then the other was read. Give them disjoint "
        "addresses, or allocate the later one only after the last use of the earlier one.",
    ),
    "G4C-K023": Entry(
        "a view is not possible",
        "A view may not move or split the partition dimension of an on-chip tensor, merge dimensions that are not "
        "contiguous, or change the number of elements.",
    ),
    "G4C-K024": Entry(
        "the two programs of a pair disagree",
        "With LNC 2 both programs execute the same source; allocations in shared HBM, sendrecv and core_barrier must "
        "match one to one, in the same order.",
    ),
    "G4C-K025": Entry(
        "a register or a run-time loop is misused",
        "A register holds a value of the running program: it cannot be used in Python expressions, loop registers "
        "cannot be written, and a sequencer has 64 of them. A tensor that the body of a run-time loop allocates is not "
        "there after its turn; what goes on is in tensors from before the loop.",
    ),
    "G4C-K026": Entry(
        "a 32-bit integer is not exact in fp32",
        "Vector and Scalar Engine compute in fp32, which holds integers exactly up to 2^24; this goes for what an "
        "instruction reads and for the result of its arithmetic on 32-bit integers. Use the GpSimd Engine's "
        "integer arithmetic, bitwise operators, or smaller values.",
    ),
    "G4C-K027": Entry(
        "an engine's accumulator registers were used by another instruction",
        "The Vector Engine's accumulators are shared by exponential, range_select, select_reduce, tensor_scalar_reduce "
        "and tensor_scalar_cumulative, the Scalar Engine's by the activations. A chain with reduce_cmd.reduce must not "
        "be interrupted by another user, and goes on with the partitions that it started with.",
    ),
    "G4C-K028": Entry(
        "the simulator cannot be installed",
        "A real nki package is importable, and the simulator does not hide it. Use nki.simulate of that package, or "
        "an environment without it.",
    ),
    "G4C-K029": Entry(
        "the programs of a pair touch the same memory without a barrier",
        "With LNC 2 both programs see shared HBM, but only nisa.core_barrier orders their accesses. What the other "
        "program alone has written since the last barrier is undefined: it may be masked, but it may not reach an "
        "output, an index or a register. Different values in one place depend on which program is slower.",
    ),
    "G4C-K030": Entry(
        "a kernel cannot be launched",
        "The grid is 1 or 2, the target is known, tensor arguments are numpy arrays or torch tensors with NKI data "
        "types, and the other arguments are compile-time values.",
    ),
    "G4C-K040": Entry(
        "no schedule of a kernel fits",
        "Every schedule that the generator of this family knows needs more SBUF or PSUM than the generation has. Fewer "
        "sequences, rows or heads per core need less.",
    ),
    "G4C-K041": Entry(
        "no kernel of the family computes this",
        "The shapes, types or masks are outside of what the generator makes kernels for; the message says what. The "
        "ops are lowered as plain HLO instead.",
    ),
    "G4C-K047": Entry(
        "no family of kernels is called so",
        "The name of a kernel function begins with that of the family that makes its kernel, such as "
        "decode_attention. This one was written by hand, or by a pass of another version.",
    ),
    "G4C-K048": Entry(
        "a kernel is not for this NeuronCore generation",
        "The kernel uses what trn1 and inf2 (NeuronCore-v2) lack. g4c compile lowers it as plain HLO there.",
    ),
    "G4C-K049": Entry(
        "a kernel is not what its function says",
        "The generated kernel takes or gives tensors of other types, in another order, or writes an operand that the "
        "kernel function does not update. This is a bug in the generator of that family.",
        exit_code=70,
    ),
    "G4C-K050": Entry(
        "the cost model lacks the arguments of a kernel",
        "What a kernel costs depends on the shapes of its inputs: give arrays, types, or (shape, dtype) pairs. Only a "
        "generated kernel knows its own.",
    ),
    "G4C-K051": Entry(
        "a file is not one kernel",
        "g4c nki takes a Python file with a function that is decorated with @nki.jit. Where it has several, --function "
        "says which.",
    ),
    "G4C-K052": Entry(
        "an argument of a kernel is not one",
        "--arg takes NAME=VALUE, where NAME is a parameter of the kernel and VALUE a shape with its type "
        "(1x2048x8x512xbf16) or a number. Each parameter is given once. Kernels of a model have their own arguments.",
        2,
    ),
    "G4C-K053": Entry(
        "no such kernel",
        "The programs of this model, with these buckets and this context, call no kernel of that name, or there is "
        "none for the target. `g4c nki list` with the same options shows those that there are.",
    ),
    "G4C-K054": Entry(
        "a kernel's Python fails",
        "The code of a kernel raised an exception of Python. The line is the kernel's own.",
    ),
    "G4C-K055": Entry(
        "there is nothing to draw",
        "The time window is past the kernel's end, or a roofline has no kernel with matmuls, or kernels of several "
        "generations.",
    ),
    "G4C-K056": Entry(
        "a kernel on half of its cores",
        "The kernel was generated for targets whose logical cores have two cores. Each of them computes a part of the "
        "result: one alone would leave the rest unwritten.",
    ),
}
