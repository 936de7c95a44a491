"""Kernels with explicit vectors: fast versions of those in `numba_kernels` and of `numba_binning.list_entries`.

Same signatures, same results except for rounding; `numba_runtime.selected_kernels` chooses.
"""

from __future__ import annotations

import numpy as np

from .numba_binning import LIST_SIGNATURE, TILE, fetch_add, prefetch, tile_mask
from .numba_intrinsics import (
    band_words,
    composite_splat3,
    composite_splat4,
    live_blocks,
    splat_gradient,
    splat_gradient_absolute,
    sum_rows,
)
from .numba_kernels import (
    BACKWARD_SIGNATURE,
    CHECK_EVERY,
    FORWARD_SIGNATURE,
    GATHER_SIGNATURE,
    GRADIENT_ROW,
    add_splat_gradient,
    clear_state,
    start_backward_tile,
    write_tile,
)
from .numba_runtime import kernel

_f = np.float32
_ROW_BYTES = 64
_AHEAD = 8  # entries between asking for a row and using it


@kernel(LIST_SIGNATURE)
def list_entries(start, stop, rows, order, rects, tiles_x, first, words, offsets, per_tile, tile_of, mask_of):
    """See `numba_binning.list_entries`."""
    capacity = tile_of.shape[0]
    base, out = rows.ctypes.data, words.ctypes.data
    last = order.shape[0] - 1
    for r in range(start, stop):
        g = np.int64(order[first + r])
        prefetch(base + np.int64(order[min(first + r + _AHEAD, last)]) * _ROW_BYTES)
        x0, x1 = np.int64(rects[g, 0]), np.int64(rects[g, 1])
        y0, y1 = np.int64(rects[g, 2]), np.int64(rects[g, 3])
        k = np.int64(offsets[r])
        if k + (x1 - x0) * (y1 - y0) > capacity:
            return r
        for window in range(x0, x1, 4):
            for rows4 in range(y0, y1, 4):
                band_words(base + g * _ROW_BYTES, _f(rows4), _f(window * 4), out)
                for ty in range(rows4, min(y1, rows4 + 4)):
                    word = words[ty - rows4]
                    for tx in range(window, min(x1, window + 4)):
                        mask = tile_mask(word, tx - window)
                        tile = ty * tiles_x + tx
                        tile_of[k], mask_of[k] = np.uint32(tile), np.uint16(mask)
                        touched = np.int32(mask != 0)
                        per_tile[tile] += touched
                        k += touched
        offsets[r + 1] = np.int32(k)
    return stop


@kernel(FORWARD_SIGNATURE)
def composite_forward(
    rows, entries, tile_start, tile_order, tiles_x, state, counter,
    background, channel, alpha_max, out_colors, out_alphas, tile_stop,
):  # fmt: skip
    """See `numba_kernels.composite_forward`."""
    tiles = tile_order.shape[0]
    base, state_at = rows.ctypes.data, state.ctypes.data
    three = out_colors.shape[2] - channel <= 3
    while True:
        index = fetch_add(counter.ctypes.data)
        if index >= tiles:
            break
        t = np.int64(tile_order[index])
        ty, tx = t // tiles_x, t % tiles_x
        corner_x, corner_y = _f(tx * TILE) + _f(0.5), _f(ty * TILE) + _f(0.5)
        clear_state(state)
        live = np.uint32(0xFFFF)
        k, stop = np.int64(tile_start[t]), np.int64(tile_start[t + 1])
        check = k + CHECK_EVERY
        while k < stop:
            g, mask = np.int64(entries[k, 0]), entries[k, 1] & live
            prefetch(base + np.int64(entries[min(k + _AHEAD, stop - 1), 0]) * _ROW_BYTES)
            k += 1
            if mask != 0:
                if three:
                    composite_splat3(state_at, mask, base + g * _ROW_BYTES, corner_x, corner_y, alpha_max)
                else:
                    composite_splat4(state_at, mask, base + g * _ROW_BYTES, corner_x, corner_y, alpha_max)
            if k >= check:
                check = k + CHECK_EVERY
                live = live_blocks(state_at)
                if live == 0:
                    break
        tile_stop[t] = k
        write_tile(state, ty, tx, channel, background, out_colors, out_alphas)


@kernel(BACKWARD_SIGNATURE)
def composite_backward(
    rows, entries, tile_start, tile_order, tiles_x, state, counter, background, channel, alpha_max,
    out_colors, out_alphas, tile_stop, v_colors, v_alphas, absgrad, gradients,
):  # fmt: skip
    """See `numba_kernels.composite_backward`."""
    tiles = tile_order.shape[0]
    base, state_at, out = rows.ctypes.data, state.ctypes.data, gradients.ctypes.data
    while True:
        index = fetch_add(counter.ctypes.data)
        if index >= tiles:
            break
        t = np.int64(tile_order[index])
        ty, tx = t // tiles_x, t % tiles_x
        corner_x, corner_y = _f(tx * TILE) + _f(0.5), _f(ty * TILE) + _f(0.5)
        start_backward_tile(state, ty, tx, channel, background, out_colors, out_alphas, v_colors, v_alphas)
        live = np.uint32(0xFFFF)
        start, stop = np.int64(tile_start[t]), np.int64(tile_stop[t])
        check = start + CHECK_EVERY
        for k in range(start, stop):
            g, mask = np.int64(entries[k, 0]), entries[k, 1] & live
            prefetch(base + np.int64(entries[min(k + _AHEAD, stop - 1), 0]) * _ROW_BYTES)
            if mask == 0:
                for j in range(GRADIENT_ROW):
                    gradients[k, j] = _f(0.0)
            else:
                row, at = base + g * _ROW_BYTES, out + k * _ROW_BYTES
                if absgrad:
                    splat_gradient_absolute(state_at, mask, row, corner_x, corner_y, alpha_max, at)
                else:
                    splat_gradient(state_at, mask, row, corner_x, corner_y, alpha_max, at)
            if k + 1 >= check:
                check = k + 1 + CHECK_EVERY
                live = live_blocks(state_at)
        for k in range(stop, np.int64(tile_start[t + 1])):
            for j in range(GRADIENT_ROW):
                gradients[k, j] = _f(0.0)


@kernel(GATHER_SIGNATURE)
def gather_gradients(
    first, count, order, offsets, places, gradients, rows, channel, sums,
    v_means2d, v_conics, v_colors, v_opacities, v_depths, v_absolute,
):  # fmt: skip
    """See `numba_kernels.gather_gradients`."""
    places_at, gradients_at, sums_at = places.ctypes.data, gradients.ctypes.data, sums.ctypes.data
    for r in range(count):
        g = np.int64(order[first + r])
        start = np.int64(offsets[r])
        sum_rows(places_at + start * 4, np.int64(offsets[r + 1]) - start, gradients_at, sums_at)
        add_splat_gradient(sums, rows[g], g, channel, v_means2d, v_conics, v_colors, v_opacities, v_depths, v_absolute)
