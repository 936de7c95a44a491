"""Compositing and binning of one Gaussian with explicit vectors: Numba intrinsics for `numba_vector_kernels`.

Addresses are integers: of a Gaussian's row, of a tile's state, of where a result goes. Each has a scalar reference in
`numba_kernels` or `numba_binning`.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import numba_binning as binning
from .numba_kernels import GRADIENT_ROW, MIN_TRANSMITTANCE
from .numba_vector import FLOAT, I16, I32, I64, INDICES, LANES, Value, VectorBuilder

_PLANE = 4 * binning.TILE * binning.TILE  # bytes of one plane of the tile state
_BLOCK_BYTES = 4 * LANES


class _Splat:
    """One Gaussian's row in all lanes, and its alpha in any block of a tile."""

    def __init__(self, v: VectorBuilder, row: Value, corner_x: Value, corner_y: Value, alpha_max: Value) -> None:
        mean_x, mean_y = v.row(row, binning.MEAN_X, binning.MEAN_Y)
        columns = v.row(row, binning.XX, binning.XY, binning.YY, binning.LOG_OPACITY)
        self.v = v
        self.xx, self.xy, self.yy, self.log_opacity = (v.splat(c) for c in columns)
        self.colors = [v.splat(c) for c in v.row(row, *range(binning.COLOR, binning.COLOR + binning.CHANNELS))]
        self.alpha_max = v.splat(alpha_max)
        lanes = range(LANES)
        self._x = v.add(v.splat(v.ir.fsub(corner_x, mean_x)), v.constant(*(i & 3 for i in lanes)))
        self._y = v.add(v.splat(v.ir.fsub(corner_y, mean_y)), v.constant(*(i >> 2 for i in lanes)))

    def alpha(self, block: Value) -> tuple[Value, Value, Value, Value]:
        """Offsets dx, dy of the block's pixels, alpha before the clamp, alpha after clamp and cut-off."""
        v = self.v
        dx = v.add(self._x, v.lookup([4 * (i & 3) for i in range(binning.BLOCKS)], block))
        dy = v.add(self._y, v.lookup([4 * (i >> 2) for i in range(binning.BLOCKS)], block))
        slope = v.multiply_add(self.xx, dx, v.mul(self.xy, dy))
        power = v.multiply_add(slope, dx, v.multiply_add(v.mul(self.yy, dy), dy, self.log_opacity))
        raw = v.exponential(power)
        visible = v.compare(power, ">=", v.constant(-binning.LOG_255))
        return dx, dy, raw, v.select(visible, v.minimum(raw, self.alpha_max), v.constant(0.0))


def _block_address(v: VectorBuilder, state: Value, block: Value) -> Value:
    return v.ir.add(state, v.ir.mul(v.ir.zext(block, I64), I64(_BLOCK_BYTES)))


def _forward_intrinsic(channels: int) -> Callable[..., None]:
    @intrinsic
    def composite_splat(typingctx, state, mask, row, corner_x, corner_y, alpha_max):
        """One Gaussian over the masked blocks of a tile (addresses of the tile state and of the Gaussian's row)."""

        def codegen(context, builder, signature, args):
            state, mask, row, *place = args
            v = VectorBuilder(builder)
            splat = _Splat(v, row, *place)

            def body(block):
                at = _block_address(v, state, block)
                *_, alpha = splat.alpha(block)
                light = v.load(at)
                weight = v.mul(light, alpha)
                left = v.sub(light, weight)
                goes_on = v.compare(left, ">", v.constant(MIN_TRANSMITTANCE))
                weight = v.select(goes_on, weight, v.constant(0.0))
                v.store(v.select(goes_on, left, v.negate(v.absolute(light))), at)
                for k in range(channels):
                    offset = _PLANE * (k + 1)
                    v.store(v.multiply_add(weight, splat.colors[k], v.load(at, offset)), at, offset)

            v.for_each_bit(mask, body)
            return context.get_dummy_value()

        real = types.float32
        return types.void(types.intp, types.uint32, types.intp, real, real, real), codegen

    return composite_splat


composite_splat3 = _forward_intrinsic(3)
composite_splat4 = _forward_intrinsic(4)


def _backward_intrinsic(absolute: bool) -> Callable[..., None]:
    @intrinsic
    def splat_gradient(typingctx, state, mask, row, corner_x, corner_y, alpha_max, out):
        """Gradient sums of one Gaussian over the masked blocks of a tile, stored as a row of 16 floats at `out`."""

        def codegen(context, builder, signature, args):
            state, mask, row, corner_x, corner_y, alpha_max, out = args
            v = VectorBuilder(builder)
            splat = _Splat(v, row, corner_x, corner_y, alpha_max)
            zero = v.constant(0.0)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(12 if absolute else 10)]
            for slot in sums:
                builder.store(zero, slot)

            def accumulate(index, a, b=None):
                old = builder.load(sums[index])
                builder.store(v.add(old, a) if b is None else v.multiply_add(a, b, old), sums[index])

            def body(block):
                at = _block_address(v, state, block)
                dx, dy, raw, alpha = splat.alpha(block)
                light = v.load(at)
                left = v.sub(light, v.mul(light, alpha))
                goes_on = v.compare(left, ">", v.constant(MIN_TRANSMITTANCE))
                alpha = v.select(goes_on, alpha, zero)
                weight = v.mul(light, alpha)
                v.store(v.select(goes_on, left, zero), at)
                v_colors = [v.load(at, _PLANE * (k + 2)) for k in range(binning.CHANNELS)]
                along = v.mul(splat.colors[0], v_colors[0])
                for k in range(1, binning.CHANNELS):
                    along = v.multiply_add(splat.colors[k], v_colors[k], along)
                behind = v.multiply_add(v.negate(weight), along, v.load(at, _PLANE))
                v.store(behind, at, _PLANE)
                hidden = v.div(behind, v.sub(v.constant(1.0), alpha))
                v_power = v.mul(v.sub(v.mul(light, along), hidden), alpha)
                v_power = v.select(v.compare(raw, "<", splat.alpha_max), v_power, zero)
                gx, gy = v.mul(v_power, dx), v.mul(v_power, dy)
                for k in range(binning.CHANNELS):
                    accumulate(k, weight, v_colors[k])
                for index, pair in enumerate(((v_power,), (gx,), (gy,), (gx, dx), (gx, dy), (gy, dy)), start=4):
                    accumulate(index, *pair)
                if absolute:
                    two = v.constant(2.0)
                    accumulate(10, v.absolute(v.multiply_add(v.mul(two, splat.xx), gx, v.mul(splat.xy, gy))))
                    accumulate(11, v.absolute(v.multiply_add(v.mul(two, splat.yy), gy, v.mul(splat.xy, gx))))

            v.for_each_bit(mask, body)
            v.store(v.sum_lanes([builder.load(slot) for slot in sums]), out)
            return context.get_dummy_value()

        real = types.float32
        return types.void(types.intp, types.uint32, types.intp, real, real, real, types.intp), codegen

    return splat_gradient


splat_gradient = _backward_intrinsic(absolute=False)
splat_gradient_absolute = _backward_intrinsic(absolute=True)


@intrinsic
def live_blocks(typingctx, state):
    """Bit per block of the tile state at this address in which some pixel still lets light through."""

    def codegen(context, builder, signature, args):
        v = VectorBuilder(builder)
        mask = I32(0)
        for block in range(binning.BLOCKS):
            lit = v.compare(v.load(args[0], _BLOCK_BYTES * block), ">", v.constant(MIN_TRANSMITTANCE))
            any_lit = builder.icmp_unsigned("!=", builder.bitcast(lit, I16), I16(0))
            mask = builder.or_(mask, builder.shl(builder.zext(any_lit, I32), I32(block)))
        return mask

    return types.uint32(types.intp), codegen


@intrinsic
def band_words(typingctx, row, first_tile_row, window, out):
    """Which blocks an ellipse touches in 4 tile rows from `first_tile_row`, 4 tiles from block column `window` on.

    Stores four uint64 at `out`, one per tile row: 16 bits for each of its four bands of four pixel rows, one bit per
    block. The vector version of `numba_binning._band_word`: lane i is band i.
    """

    def codegen(context, builder, signature, args):
        row, first_tile_row, window, out = args
        v, b = VectorBuilder(builder), builder
        half, four = ir.Constant(FLOAT, 0.5), ir.Constant(FLOAT, 4.0)
        minus_half, minus_two, two = (ir.Constant(FLOAT, x) for x in (-0.5, -2.0, 2.0))
        mean_x, mean_y, xx, xy, yy = v.row(row, binning.MEAN_X, binning.MEAN_Y, binning.XX, binning.XY, binning.YY)
        reach, rx, ry = v.row(row, binning.REACH, binning.RADIUS_X, binning.RADIUS_Y)
        inv_a = b.fdiv(minus_half, xx)
        slope = b.fmul(xy, inv_a)
        rest = b.fsub(b.fmul(minus_two, yy), b.fmul(xy, slope))
        y_at_rx = b.fmul(b.fmul(b.fdiv(minus_half, yy), xy), rx)
        top = b.fsub(b.fadd(b.fmul(first_tile_row, ir.Constant(FLOAT, float(binning.TILE))), half), mean_y)
        y = v.add(v.splat(top), v.constant(*(4 * i for i in range(LANES))))
        low, high = v.maximum(y, v.splat(b.fneg(ry))), v.minimum(v.add(y, v.constant(3.0)), v.splat(ry))
        empty = v.compare(high, "<", low)
        inv, reach2, minus_rest = v.splat(inv_a), v.splat(b.fmul(two, reach)), v.splat(b.fneg(rest))
        tilt, extreme, opposite = v.splat(slope), v.splat(y_at_rx), v.splat(b.fneg(y_at_rx))

        def half_width(at):
            square = v.mul(v.multiply_add(v.mul(at, at), minus_rest, reach2), inv)
            return v.sqrt(v.maximum(square, v.constant(0.0)))

        def holds(at):
            return b.and_(v.compare(low, "<=", at), v.compare(at, "<=", high))

        wide_low, wide_high = half_width(low), half_width(high)
        right = v.maximum(v.multiply_add(tilt, low, wide_low), v.multiply_add(tilt, high, wide_high))
        left = v.minimum(v.sub(v.mul(tilt, low), wide_low), v.sub(v.mul(tilt, high), wide_high))
        right = v.select(holds(extreme), v.splat(rx), right)
        left = v.select(holds(opposite), v.splat(b.fneg(rx)), left)
        origin = v.splat(b.fsub(b.fsub(mean_x, half), b.fmul(window, four)))
        slack, zero = v.constant(binning.SLACK), v.constant(0.0)
        first = v.negate(v.floor(v.negate(v.sub(v.add(origin, left), slack))))
        first = v.minimum(v.maximum(first, zero), v.constant(64.0))
        last = v.floor(v.add(v.add(origin, right), slack))
        last = v.minimum(v.maximum(last, v.constant(-1.0)), v.constant(63.0))
        empty = b.or_(empty, v.compare(last, "<", first))
        twos = ir.Constant(INDICES, [I32(2)] * LANES)
        one = ir.Constant(INDICES, [I32(1)] * LANES)
        last_block, first_block = (b.ashr(b.fptosi(x, INDICES), twos) for x in (last, first))
        word = b.sub(b.shl(twos, last_block), b.shl(one, first_block))
        word = b.select(empty, ir.Constant(INDICES, [I32(0)] * LANES), word)
        v.store(b.trunc(word, ir.VectorType(I16, LANES)), out)
        return context.get_dummy_value()

    return types.void(types.intp, types.float32, types.float32, types.intp), codegen


@intrinsic
def sum_rows(typingctx, places, count, rows, out):
    """Adds up the gradient rows at `count` places (addresses of uint32 places, of the rows and of the result)."""

    def codegen(context, builder, signature, args):
        places, count, rows, out = args
        v = VectorBuilder(builder)
        total = cgutils.alloca_once_value(builder, v.constant(0.0))
        builder.store(v.constant(0.0), total)
        with cgutils.for_range(builder, count) as loop:
            place = v.load(builder.add(places, builder.mul(loop.index, I64(4))), 0, I32)
            address = builder.add(rows, builder.mul(builder.zext(place, I64), I64(4 * GRADIENT_ROW)))
            builder.store(v.add(builder.load(total), v.load(address)), total)
        v.store(builder.load(total), out)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), codegen
