"""Kernels: 2D Gaussians in, for each 16x16 tile the list of Gaussians that touch it, front to back, out.

One *row* of 16 floats (a cache line) holds all that compositing needs of one Gaussian; the columns are named below.
A tile has 16 blocks of 4x4 pixels; each list entry carries a 16-bit mask of the blocks that the ellipse alpha >= 1/255
really touches, so both passes skip the rest. Gaussians are sorted by depth once, then counted into tiles in that
order: the lists come out sorted. Ties in depth keep the order of the input.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .numba_runtime import device, kernel

_f = np.float32

TILE = 16  # pixels
BLOCKS = 16  # per tile
ROW = 16  # floats
# Columns of a row. The power of a pixel at offset (dx, dy) is XX dx^2 + XY dx dy + YY dy^2 + LOG_OPACITY = ln(alpha).
MEAN_X, MEAN_Y, XX, XY, YY, LOG_OPACITY = 0, 1, 2, 3, 4, 5
COLOR = 6  # four channels
REACH = 10  # ln(255 opacity): how far the power may fall below its peak; negative where there is nothing to draw
RADIUS_X, RADIUS_Y, OPACITY, DEPTH = 11, 12, 13, 14
CHANNELS = 4

LOG_255 = _f(math.log(255.0))
SLACK = _f(0.002)  # pixels added to each extent against rounding: a block too many costs time, one too few a hole


@intrinsic
def float_bits(typingctx, value):
    """The bits of a float32 as uint32; for positive floats they sort like the floats."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def prefetch(typingctx, address):
    """Asks for the cache line at an address; no effect but speed."""

    def codegen(context, builder, signature, args):
        i32 = ir.IntType(32)
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], function_type)
        builder.call(function, [pointer, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def fetch_add(typingctx, address):
    """Atomically adds one to the int64 at an address and returns what was there: threads share out tiles with it."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.IntType(64)(1), "monotonic")

    return types.int64(types.intp), codegen


@intrinsic
def lowest_bit(typingctx, mask):
    """Index of the lowest set bit of a non-zero mask."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], cgutils.true_bit)

    return types.uint32(types.uint32), codegen


@kernel(
    "void(int64, int64, float32[:,::1], float32[:,::1], float32[:,::1], int64, boolean, float32[::1], float32[::1],"
    " int32[:,::1], int64, int64, float32[:,::1], int16[:,::1])"
)
def pack_rows(
    start, stop, means2d, conics, colors, channel, with_depth, opacities, depths, radii, tiles_x, tiles_y, rows, rects
):
    """Fills rows and tile rectangles (x first, x end, y first, y end) of Gaussians [start, stop).

    Takes four channels from `channel` on: those of `colors`, then the depth if `with_depth`, then zeros.
    """
    count = min(CHANNELS, max(0, colors.shape[1] - channel))
    depth_at = colors.shape[1] - channel if with_depth else -1
    per_tile = _f(1.0 / TILE)
    zero = _f(0.0)
    for g in range(start, stop):
        opacity = opacities[g]
        rows[g, REACH] = _f(-1.0)
        if (radii[g, 0] > 0 or radii[g, 1] > 0) and opacity > _f(1.0 / 255.0):
            a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
            mx, my = means2d[g, 0], means2d[g, 1]
            log_opacity = _f(math.log(opacity))
            reach = log_opacity + LOG_255
            spread = _f(2.0) * reach / (a * c - b * b)
            rx, ry = math.sqrt(spread * c), math.sqrt(spread * a)
            x_low, x_high = (mx - rx) * per_tile, (mx + rx) * per_tile
            y_low, y_high = (my - ry) * per_tile, (my + ry) * per_tile
            # written so that NaN fails; after the test truncation is floor
            if x_high >= zero and y_high >= zero and x_low < _f(tiles_x) and y_low < _f(tiles_y) and spread >= zero:
                rects[g, 0] = np.int16(max(x_low, zero))
                rects[g, 1] = np.int16(min(x_high, _f(tiles_x - 1))) + np.int16(1)
                rects[g, 2] = np.int16(max(y_low, zero))
                rects[g, 3] = np.int16(min(y_high, _f(tiles_y - 1))) + np.int16(1)
                rows[g, MEAN_X], rows[g, MEAN_Y] = mx, my
                rows[g, XX], rows[g, XY], rows[g, YY] = _f(-0.5) * a, -b, _f(-0.5) * c
                rows[g, LOG_OPACITY], rows[g, REACH] = log_opacity, reach
                rows[g, RADIUS_X], rows[g, RADIUS_Y] = rx, ry
                rows[g, OPACITY], rows[g, DEPTH] = opacity, depths[g]
                for k in range(count):
                    rows[g, COLOR + k] = colors[g, channel + k]
                for k in range(count, CHANNELS):
                    rows[g, COLOR + k] = depths[g] if k == depth_at else zero


@kernel("int64(float32[:,::1], uint32[::1], uint32[::1], uint32[::1], uint32[::1], uint32[::1])")
def depth_order(rows, order, keys, keys2, order2, histogram):
    """Stable radix sort of the drawable Gaussians by depth into `order`; returns how many there are.

    Depths are positive, so their bits sort as integers; only the bits in which they differ are sorted, 12 at a time.
    """
    count = np.int64(0)
    low, high = np.uint32(0xFFFFFFFF), np.uint32(0)
    for g in range(rows.shape[0]):
        if rows[g, REACH] > _f(0.0):
            key = float_bits(rows[g, DEPTH])
            keys[count], order[count] = key, np.uint32(g)
            low, high = min(low, key), max(high, key)
            count += 1
    shift = np.uint32(0)
    span = high - low if count > 0 else np.uint32(0)
    while shift < np.uint32(32) and (span >> shift) > np.uint32(0):
        for i in range(4096):
            histogram[i] = np.uint32(0)
        for i in range(count):
            histogram[((keys[i] - low) >> shift) & np.uint32(4095)] += np.uint32(1)
        total = np.uint32(0)
        for i in range(4096):
            here = histogram[i]
            histogram[i] = total
            total += here
        for i in range(count):
            key = keys[i]
            digit = ((key - low) >> shift) & np.uint32(4095)
            place = histogram[digit]
            histogram[digit] = place + np.uint32(1)
            keys2[place], order2[place] = key, order[i]
        for i in range(count):
            keys[i], order[i] = keys2[i], order2[i]
        shift += np.uint32(12)
    return count


@device
def _band_word(row, y_low, slope, inv_a, rest, y_at_rx, window):
    """16 bits: which 4-pixel columns from `window` on the ellipse touches in the pixel rows y_low..y_low+3.

    `y_low` is relative to the centre. `slope`, `inv_a`, `rest` and `y_at_rx` describe the ellipse, see `list_entries`.
    """
    rx, ry = row[RADIUS_X], row[RADIUS_Y]
    low, high = max(y_low, -ry), min(y_low + _f(3.0), ry)
    if high < low:
        return np.uint64(0)
    reach2 = _f(2.0) * row[REACH]
    half_low = math.sqrt(max(_f(0.0), (reach2 - low * low * rest) * inv_a))
    half_high = math.sqrt(max(_f(0.0), (reach2 - high * high * rest) * inv_a))
    right = max(slope * low + half_low, slope * high + half_high)
    left = min(slope * low - half_low, slope * high - half_high)
    if low <= y_at_rx and y_at_rx <= high:
        right = rx
    if low <= -y_at_rx and -y_at_rx <= high:
        left = -rx
    origin = row[MEAN_X] - _f(0.5) - _f(4 * window)  # pixel centres lie at whole numbers from here
    first = np.int64(np.ceil(min(max(origin + left - SLACK, _f(0.0)), _f(64.0))))
    last = np.int64(np.floor(min(max(origin + right + SLACK, _f(-1.0)), _f(63.0))))
    if last < first:
        return np.uint64(0)
    return (np.uint64(2) << np.uint64(last >> 2)) - (np.uint64(1) << np.uint64(first >> 2))


@device
def tile_mask(word, column):
    """Block mask of one tile from the four 16-bit band words of its row; `column` counts tiles inside the window."""
    nibbles = (word >> np.uint64(4 * column)) & np.uint64(0x000F000F000F000F)
    return (nibbles * np.uint64(0x0000001001001001) >> np.uint64(36)) & np.uint64(0xFFFF)  # packs the four nibbles


LIST_SIGNATURE = (
    "int64(int64, int64, float32[:,::1], uint32[::1], int16[:,::1], int64, int64, uint64[::1], int32[::1], int32[::1],"
    " uint32[::1], uint16[::1])"
)


@kernel(LIST_SIGNATURE)
def list_entries(start, stop, rows, order, rects, tiles_x, first, words, offsets, per_tile, tile_of, mask_of):
    """Lists which tiles the sorted Gaussians [start, stop) touch, and where; counts the entries of each tile.

    Gaussian `first + start` gets the entries from `offsets[start]` to `offsets[start + 1]`. Returns the first
    Gaussian that did not fit into `tile_of`, or `stop`. `words` is scratch.
    """
    capacity = tile_of.shape[0]
    for r in range(start, stop):
        g = np.int64(order[first + r])
        x0, x1 = np.int64(rects[g, 0]), np.int64(rects[g, 1])
        y0, y1 = np.int64(rects[g, 2]), np.int64(rects[g, 3])
        k = np.int64(offsets[r])
        if k + (x1 - x0) * (y1 - y0) > capacity:
            return r
        row = rows[g]
        # x range at height y: slope y -+ sqrt((2 reach - rest y^2) / a); x is extreme (+-rx) at y = +-y_at_rx
        inv_a = _f(-0.5) / row[XX]
        slope = row[XY] * inv_a
        rest = _f(-2.0) * row[YY] - row[XY] * slope
        y_at_rx = _f(-0.5) * row[XY] / row[YY] * row[RADIUS_X]
        for window in range(x0, x1, 4):
            for ty in range(y0, y1):
                word = np.uint64(0)
                for band in range(4):
                    y = _f(ty * TILE + band * 4) + _f(0.5) - row[MEAN_Y]
                    word |= _band_word(row, y, slope, inv_a, rest, y_at_rx, window * 4) << np.uint64(16 * band)
                for tx in range(window, min(x1, window + 4)):
                    mask = tile_mask(word, tx - window)
                    tile = ty * tiles_x + tx
                    tile_of[k], mask_of[k] = np.uint32(tile), np.uint16(mask)
                    touched = np.int32(mask != 0)
                    per_tile[tile] += touched
                    k += touched
        offsets[r + 1] = np.int32(k)
    return stop


@kernel("int64(int32[:,::1], int32[::1], int32[::1])")
def scan_counts(per_part_tile, tile_start, tile_order):
    """Turns counts per part and tile into start positions, orders the tiles longest list first; returns the total."""
    parts, tiles = per_part_tile.shape
    buckets = np.zeros(256, np.int32)
    position = np.int32(0)
    for t in range(tiles):
        tile_start[t] = position
        for p in range(parts):
            here = per_part_tile[p, t]
            per_part_tile[p, t] = position
            position += here
        buckets[min(255, (position - tile_start[t]) >> 4)] += np.int32(1)
    tile_start[tiles] = position
    total = np.int64(position)
    position = np.int32(0)
    for k in range(255, -1, -1):
        here = buckets[k]
        buckets[k] = position
        position += here
    for t in range(tiles):
        k = min(255, (tile_start[t + 1] - tile_start[t]) >> 4)
        tile_order[buckets[k]] = t
        buckets[k] += np.int32(1)
    return total


@kernel("void(int64, int64, uint32[::1], int32[::1], uint32[::1], uint16[::1], int32[::1], uint32[:,::1])")
def scatter_entries(first, count, order, offsets, tile_of, mask_of, cursor, entries):
    """Copies the listed entries of one part into the tile lists: (Gaussian, mask) by place.

    `cursor` holds the next place of each tile; `tile_of` is overwritten with the places.
    """
    for r in range(count):
        g = order[first + r]
        for k in range(offsets[r], offsets[r + 1]):
            tile = tile_of[k]
            place = cursor[tile]
            cursor[tile] = place + np.int32(1)
            entries[place, 0], entries[place, 1] = g, np.uint32(mask_of[k])
            tile_of[k] = np.uint32(place)
