"""Sixteen-wide vector arithmetic as LLVM IR, on which `numba_intrinsics` is built.

One vector is one 4x4 block of pixels. LLVM splits the vectors for the CPU (AVX-512, AVX2, SSE, NEON), and multiply-adds
are `llvm.fmuladd`, which needs no FMA unit: the code is correct everywhere, and faster with wide vectors. Loads assume
the alignment of a float only, so that misaligned buffers are slow but valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from .numba_kernels import EXP_POLYNOMIAL

LANES = 16
FLOAT, I16, I32, I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
VECTOR, INDICES = ir.VectorType(FLOAT, LANES), ir.VectorType(I32, LANES)
_FLAGS = ("contract", "nsz", "reassoc", "arcp")

Value = ir.Value


class VectorBuilder:
    """Arithmetic on 16-lane float vectors over an LLVM IR builder."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.ir = builder

    def constant(self, *values: float) -> Value:
        """One value for all lanes, or one per lane."""
        lanes = values * LANES if len(values) == 1 else values
        return ir.Constant(VECTOR, [ir.Constant(FLOAT, float(np.float32(v))) for v in lanes])

    def splat(self, scalar: Value) -> Value:
        """A float in all lanes."""
        empty = ir.Constant(VECTOR, ir.Undefined)
        first = self.ir.insert_element(empty, scalar, I32(0))
        return self.ir.shuffle_vector(first, empty, ir.Constant(INDICES, [0] * LANES))

    def add(self, a: Value, b: Value) -> Value:
        return self.ir.fadd(a, b, flags=_FLAGS)

    def sub(self, a: Value, b: Value) -> Value:
        return self.ir.fsub(a, b, flags=_FLAGS)

    def mul(self, a: Value, b: Value) -> Value:
        return self.ir.fmul(a, b, flags=_FLAGS)

    def div(self, a: Value, b: Value) -> Value:
        return self.ir.fdiv(a, b, flags=(*_FLAGS, "afn"))

    def multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c."""
        return self._call("llvm.fmuladd", a, b, c)

    def absolute(self, a: Value) -> Value:
        return self._call("llvm.fabs", a)

    def sqrt(self, a: Value) -> Value:
        return self._call("llvm.sqrt", a)

    def floor(self, a: Value) -> Value:
        return self._call("llvm.floor", a)

    def negate(self, a: Value) -> Value:
        return self.ir.fneg(a)

    def compare(self, a: Value, operator: str, b: Value) -> Value:
        return self.ir.fcmp_ordered(operator, a, b)

    def select(self, mask: Value, a: Value, b: Value) -> Value:
        return self.ir.select(mask, a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        return self.select(self.compare(a, "<", b), a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        return self.select(self.compare(a, ">", b), a, b)

    def exponential(self, power: Value) -> Value:
        """exp on the range where alpha is not cut off, to 1e-6 relative."""
        *rest, top = (self.constant(c) for c in EXP_POLYNOMIAL)
        value = top
        for coefficient in reversed(rest):
            value = self.multiply_add(value, power, coefficient)
        for _ in range(3):
            value = self.mul(value, value)
        return value

    def load(self, address: Value, offset: int = 0, type_: ir.Type = VECTOR) -> Value:
        instruction = self.ir.load(self._pointer(address, offset, type_), typ=type_)
        instruction.align = 4
        return instruction

    def store(self, value: Value, address: Value, offset: int = 0) -> None:
        self.ir.store(value, self._pointer(address, offset, value.type)).align = 4

    def lookup(self, table: Sequence[float], index: Value) -> Value:
        """The float at `index` of a constant table, in all lanes: one broadcasting load."""
        values = ir.Constant(ir.ArrayType(FLOAT, len(table)), [ir.Constant(FLOAT, float(x)) for x in table])
        place = self.ir.gep(cgutils.global_constant(self.ir, "table", values), [I32(0), index], inbounds=True)
        return self.splat(self.ir.load(place, typ=FLOAT))

    def row(self, address: Value, *columns: int) -> list[Value]:
        """Scalars of a Gaussian's row."""
        return [self.load(address, 4 * c, FLOAT) for c in columns]

    def sum_lanes(self, vectors: Sequence[Value]) -> Value:
        """One vector whose lane i is the sum over the lanes of vectors[i] (up to 16; the others are zero).

        A tree of shuffles: each level adds halves of two vectors into one, 15 additions where 16 sums take 64.
        """
        level: list[Value] = [*vectors, *[self.constant(0.0)] * (LANES - len(vectors))]
        width = LANES
        while len(level) > 1:
            half = width // 2
            # each vector holds 16/width groups of `width` lanes still to be summed; a pair interleaves its groups
            low, high = [], []
            for group in range(LANES // width):
                for source in (0, LANES):
                    base = source + group * width
                    low += range(base, base + half)
                    high += range(base + half, base + width)
            low_mask, high_mask = (ir.Constant(INDICES, [ir.Constant(I32, i) for i in m]) for m in (low, high))
            level = [
                self.add(
                    self.ir.shuffle_vector(level[i], level[i + len(level) // 2], low_mask),
                    self.ir.shuffle_vector(level[i], level[i + len(level) // 2], high_mask),
                )
                for i in range(len(level) // 2)
            ]
            width = half
        return level[0]

    def for_each_bit(self, mask: Value, body: Callable[[Value], None]) -> None:
        """Runs `body(index)` for each set bit of a 32-bit mask, lowest first."""
        left = cgutils.alloca_once_value(self.ir, mask)
        head, inside, end = (self.ir.append_basic_block(name) for name in ("bits", "bit", "bits.end"))
        self.ir.branch(head)
        self.ir.position_at_end(head)
        bits = self.ir.load(left)
        self.ir.cbranch(self.ir.icmp_unsigned("!=", bits, I32(0)), inside, end)
        self.ir.position_at_end(inside)
        self.ir.store(self.ir.and_(bits, self.ir.sub(bits, I32(1))), left)
        body(self.ir.cttz(bits, cgutils.true_bit))
        self.ir.branch(head)
        self.ir.position_at_end(end)

    def _pointer(self, address: Value, offset: int, type_: ir.Type) -> Value:
        shifted = self.ir.add(address, I64(offset)) if offset else address
        return self.ir.inttoptr(shifted, type_.as_pointer())

    def _call(self, name: str, *args: Value) -> Value:
        type_ = ir.FunctionType(VECTOR, [VECTOR] * len(args))
        return self.ir.call(cgutils.get_or_insert_function(self.ir.module, type_, f"{name}.v16f32"), args)
