"""Kernels in plain Numba: tile lists in, images out; an image's gradient in, one gradient row per entry out.

The reference for `numba_vector_kernels`, and the kernels on CPUs without AVX2. Compositing goes front to back, Gaussian
by Gaussian inside a tile, on a state of 256 floats per plane ordered block by block (4x4 pixels), so that the compiler
vectorises the innermost loop over the 16 pixels of a block. alpha = exp(power) is poly5(power / 8)^8, good to 1e-6.

Semantics of gsplat 1.5: alpha below 1/255 is skipped, alpha is clamped at `alpha_max`, and a pixel stops before the
Gaussian that would bring its transmittance to 1e-4 or below.
"""

from __future__ import annotations

import numpy as np

from .numba_binning import (
    CHANNELS,
    COLOR,
    LOG_255,
    LOG_OPACITY,
    MEAN_X,
    MEAN_Y,
    OPACITY,
    TILE,
    XX,
    XY,
    YY,
    fetch_add,
    lowest_bit,
)
from .numba_runtime import device, kernel

_f = np.float32
_u = np.uint64

PIXELS = TILE * TILE
FORWARD_STATE = PIXELS * (1 + CHANNELS)  # transmittance, four colours
BACKWARD_STATE = PIXELS * (2 + CHANNELS)  # transmittance, accumulated gradient of what is behind, four colour gradients
MIN_TRANSMITTANCE = 1e-4
CHECK_EVERY = 16  # entries between two checks for opaque blocks
# Minimax fit of exp on [-5.6 / 8, 0.02], to be raised to the 8th power; coefficients pre-divided by 8^k.
EXP_POLYNOMIAL = tuple(
    c / 8**k
    for k, c in enumerate(
        (1.0000000311591244, 0.9999957464762107, 0.49990774535827026, 0.16605425969760781, 0.039884853886085495,
         0.005904022921539209)
    )
)  # fmt: skip
_E0, _E1, _E2, _E3, _E4, _E5 = (_f(c) for c in EXP_POLYNOMIAL)
_STOP = _f(MIN_TRANSMITTANCE)

# Columns of a gradient row: sums over the pixels of one entry.
G_COLOR, G_POWER, G_X, G_Y, G_XX, G_XY, G_YY, G_ABS_X, G_ABS_Y = 0, 4, 5, 6, 7, 8, 9, 10, 11
GRADIENT_ROW = 16

FORWARD_SIGNATURE = (
    "void(float32[:,::1], uint32[:,::1], int32[::1], int32[::1], int64, float32[::1], int64[::1],"
    " float32[::1], int64, float32, float32[:,:,::1], float32[:,::1], int32[::1])"
)
BACKWARD_SIGNATURE = (
    "void(float32[:,::1], uint32[:,::1], int32[::1], int32[::1], int64, float32[::1], int64[::1],"
    " float32[::1], int64, float32, float32[:,:,::1], float32[:,::1], int32[::1], float32[:,:,::1], float32[:,::1],"
    " boolean, float32[:,::1])"
)
GATHER_SIGNATURE = (
    "void(int64, int64, uint32[::1], int32[::1], uint32[::1], float32[:,::1], float32[:,::1], int64, float32[::1],"
    " float32[:,::1], float32[:,::1], float32[:,::1], float32[::1], float32[::1], float32[:,::1])"
)


@device
def pixel_place(x, y):
    """Place of a tile's pixel (x, y) in a plane of the state: blocks of 4x4 one after the other."""
    return ((y >> 2) * 4 + (x >> 2)) * 16 + (y & 3) * 4 + (x & 3)


@device
def clear_state(state):
    """An empty tile: transmittance 1, colours 0."""
    for i in range(PIXELS):
        state[i] = _f(1.0)
    for i in range(PIXELS, FORWARD_STATE):
        state[i] = _f(0.0)


@device
def write_tile(state, ty, tx, channel, background, out_colors, out_alphas):
    """Copies a finished tile into the picture, over the background; only the first channels write alpha."""
    height, width, channels = out_colors.shape
    count = min(CHANNELS, channels - channel)
    for y in range(ty * TILE, min(height, ty * TILE + TILE)):
        for x in range(tx * TILE, min(width, tx * TILE + TILE)):
            place = pixel_place(x - tx * TILE, y - ty * TILE)
            rest = abs(state[place])  # negative marks a stopped pixel
            if channel == 0:
                out_alphas[y, x] = _f(1.0) - rest
            for k in range(count):
                color = state[place + PIXELS * (k + 1)]
                out_colors[y, x, channel + k] = color + rest * background[channel + k]


@device
def _composite_block(state, at, x, y, xx, xy, yy, log_opacity, c0, c1, c2, c3, alpha_max):
    """One Gaussian over the 16 pixels of one block; (x, y) is the first pixel relative to its centre."""
    for i in range(16):
        u = at + _u(i)
        dx, dy = x + _f(i & 3), y + _f(i >> 2)
        power = (xx * dx + xy * dy) * dx + (yy * dy * dy + log_opacity)
        e = _E0 + power * (_E1 + power * (_E2 + power * (_E3 + power * (_E4 + power * _E5))))
        e = e * e
        e = e * e
        e = e * e
        alpha = min(e, alpha_max)
        alpha = alpha if power >= -LOG_255 else _f(0.0)
        light = state[u]
        weight = light * alpha
        left = light - weight
        goes_on = left > _STOP
        weight = weight if goes_on else _f(0.0)
        state[u] = left if goes_on else -abs(light)
        state[u + _u(256)] += weight * c0
        state[u + _u(512)] += weight * c1
        state[u + _u(768)] += weight * c2
        state[u + _u(1024)] += weight * c3


@device
def live_blocks(state):
    """Bit per block in which some pixel still lets light through."""
    mask = np.uint32(0)
    for b in range(16):
        most = _f(-1.0)
        for i in range(16):
            most = max(most, state[_u(b * 16 + i)])
        if most > _STOP:
            mask |= np.uint32(1) << np.uint32(b)
    return mask


@kernel(FORWARD_SIGNATURE)
def composite_forward(
    rows, entries, tile_start, tile_order, tiles_x, state, counter,
    background, channel, alpha_max, out_colors, out_alphas, tile_stop,
):  # fmt: skip
    """Composites tiles until none is left. `tile_stop` gets the place in each list where the tile went dark."""
    tiles = tile_order.shape[0]
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
            k += 1
            if mask != 0:
                x, y = corner_x - rows[g, MEAN_X], corner_y - rows[g, MEAN_Y]
                xx, xy, yy, log_opacity = rows[g, XX], rows[g, XY], rows[g, YY], rows[g, LOG_OPACITY]
                c0, c1, c2, c3 = rows[g, COLOR], rows[g, COLOR + 1], rows[g, COLOR + 2], rows[g, COLOR + 3]
                while mask != 0:
                    b = lowest_bit(mask)
                    mask &= mask - np.uint32(1)
                    at_x, at_y = x + _f((b & 3) * 4), y + _f((b >> 2) * 4)
                    _composite_block(
                        state, _u(b) * _u(16), at_x, at_y, xx, xy, yy, log_opacity, c0, c1, c2, c3, alpha_max
                    )
            if k >= check:
                check = k + CHECK_EVERY
                live = live_blocks(state)
                if live == 0:
                    break
        tile_stop[t] = k
        write_tile(state, ty, tx, channel, background, out_colors, out_alphas)


@device
def start_backward_tile(
    state, ty, tx, channel, background, out_colors, out_alphas, v_colors, v_alphas
):  # fmt: skip
    """Fills the state of a tile: light 1, gradient of everything behind, colour gradients.

    The colour behind a Gaussian is the rendered colour minus what is in front, so one running value per pixel suffices
    and the list is read front to back again.
    """
    height, width, channels = out_colors.shape
    count = min(CHANNELS, channels - channel)
    for i in range(BACKWARD_STATE):
        state[i] = _f(0.0)
    for y in range(ty * TILE, min(height, ty * TILE + TILE)):
        for x in range(tx * TILE, min(width, tx * TILE + TILE)):
            place = pixel_place(x - tx * TILE, y - ty * TILE)
            rest = _f(1.0) - out_alphas[y, x]
            behind = _f(0.0)
            for k in range(count):
                v = v_colors[y, x, channel + k]
                state[place + PIXELS * (k + 2)] = v
                behind += out_colors[y, x, channel + k] * v
            if channel == 0:
                behind -= rest * v_alphas[y, x]
            state[place] = _f(1.0)
            state[place + PIXELS] = behind


@device
def _block_gradient(state, at, x, y, xx, xy, yy, log_opacity, c0, c1, c2, c3, alpha_max, absgrad):
    """Gradient sums of one Gaussian over one block; advances the state as `_composite_block` does."""
    zero = _f(0.0)
    a0, a1, a2, a3 = zero, zero, zero, zero
    power_sum, x_sum, y_sum, xx_sum, xy_sum, yy_sum, abs_x, abs_y = zero, zero, zero, zero, zero, zero, zero, zero
    for i in range(16):
        u = at + _u(i)
        dx, dy = x + _f(i & 3), y + _f(i >> 2)
        power = (xx * dx + xy * dy) * dx + (yy * dy * dy + log_opacity)
        e = _E0 + power * (_E1 + power * (_E2 + power * (_E3 + power * (_E4 + power * _E5))))
        e = e * e
        e = e * e
        e = e * e
        alpha = min(e, alpha_max)
        alpha = alpha if power >= -LOG_255 else zero
        light = state[u]
        left = light - light * alpha
        goes_on = left > _STOP
        alpha = alpha if goes_on else zero
        weight = light * alpha
        state[u] = left if goes_on else zero
        v0, v1, v2, v3 = state[u + _u(512)], state[u + _u(768)], state[u + _u(1024)], state[u + _u(1280)]
        cv = c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3
        behind = state[u + _u(256)] - weight * cv
        state[u + _u(256)] = behind
        v_power = (light * cv - behind / (_f(1.0) - alpha)) * alpha
        v_power = v_power if e < alpha_max else zero
        a0 += weight * v0
        a1 += weight * v1
        a2 += weight * v2
        a3 += weight * v3
        gx, gy = v_power * dx, v_power * dy
        power_sum += v_power
        x_sum += gx
        y_sum += gy
        xx_sum += gx * dx
        xy_sum += gx * dy
        yy_sum += gy * dy
        if absgrad:
            abs_x += abs(_f(2.0) * xx * gx + xy * gy)
            abs_y += abs(xy * gx + _f(2.0) * yy * gy)
    return a0, a1, a2, a3, power_sum, x_sum, y_sum, xx_sum, xy_sum, yy_sum, abs_x, abs_y


@kernel(BACKWARD_SIGNATURE)
def composite_backward(
    rows, entries, tile_start, tile_order, tiles_x, state, counter, background, channel, alpha_max,
    out_colors, out_alphas, tile_stop, v_colors, v_alphas, absgrad, gradients,
):  # fmt: skip
    """Writes one row of gradient sums per list entry; entries behind the point where a tile went dark get zeros."""
    tiles = tile_order.shape[0]
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
            zero = _f(0.0)
            a0, a1, a2, a3, m0, m1, m2, m3, m4, m5 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
            abs_x, abs_y = zero, zero
            if mask != 0:
                x, y = corner_x - rows[g, MEAN_X], corner_y - rows[g, MEAN_Y]
                xx, xy, yy, log_opacity = rows[g, XX], rows[g, XY], rows[g, YY], rows[g, LOG_OPACITY]
                c0, c1, c2, c3 = rows[g, COLOR], rows[g, COLOR + 1], rows[g, COLOR + 2], rows[g, COLOR + 3]
                while mask != 0:
                    b = lowest_bit(mask)
                    mask &= mask - np.uint32(1)
                    at_x, at_y = x + _f((b & 3) * 4), y + _f((b >> 2) * 4)
                    s = _block_gradient(
                        state, _u(b) * _u(16), at_x, at_y, xx, xy, yy, log_opacity, c0, c1, c2, c3, alpha_max, absgrad
                    )
                    a0, a1, a2, a3 = a0 + s[0], a1 + s[1], a2 + s[2], a3 + s[3]
                    m0, m1, m2, m3, m4, m5 = m0 + s[4], m1 + s[5], m2 + s[6], m3 + s[7], m4 + s[8], m5 + s[9]
                    abs_x, abs_y = abs_x + s[10], abs_y + s[11]
            sums = (a0, a1, a2, a3, m0, m1, m2, m3, m4, m5, abs_x, abs_y, zero, zero, zero, zero)
            for j in range(GRADIENT_ROW):
                gradients[k, j] = sums[j]
            if k + 1 >= check:
                check = k + 1 + CHECK_EVERY
                live = live_blocks(state)
        for k in range(stop, np.int64(tile_start[t + 1])):
            for j in range(GRADIENT_ROW):
                gradients[k, j] = _f(0.0)


@device
def add_splat_gradient(sums, row, g, channel, v_means2d, v_conics, v_colors, v_opacities, v_depths, v_absolute):
    """Turns the summed rows of Gaussian `g` into gradients of its 2D parameters and adds them."""
    count = v_colors.shape[1]
    for k in range(CHANNELS):
        if channel + k < count:
            v_colors[g, channel + k] = sums[G_COLOR + k]
        elif channel + k == count:
            v_depths[g] = sums[G_COLOR + k]  # zero when the depth is not a channel: nothing flows into empty ones
    a, b, c = _f(-2.0) * row[XX], -row[XY], _f(-2.0) * row[YY]
    v_means2d[g, 0] += a * sums[G_X] + b * sums[G_Y]
    v_means2d[g, 1] += b * sums[G_X] + c * sums[G_Y]
    v_conics[g, 0] -= _f(0.5) * sums[G_XX]
    v_conics[g, 1] -= sums[G_XY]
    v_conics[g, 2] -= _f(0.5) * sums[G_YY]
    v_opacities[g] += sums[G_POWER] / row[OPACITY]
    if v_absolute.shape[0] > 0:
        v_absolute[g, 0] += sums[G_ABS_X]
        v_absolute[g, 1] += sums[G_ABS_Y]


@kernel(GATHER_SIGNATURE)
def gather_gradients(
    first, count, order, offsets, places, gradients, rows, channel, sums,
    v_means2d, v_conics, v_colors, v_opacities, v_depths, v_absolute,
):  # fmt: skip
    """Sums, for `count` sorted Gaussians from `first` on, the rows of their entries, always in the order of tiles."""
    for r in range(count):
        g = np.int64(order[first + r])
        zero = _f(0.0)  # locals, because sums kept in an array would go through memory at each step
        s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
        s10, s11 = zero, zero
        for k in range(offsets[r], offsets[r + 1]):
            e = gradients[places[k]]
            s0, s1, s2, s3, s4, s5 = s0 + e[0], s1 + e[1], s2 + e[2], s3 + e[3], s4 + e[4], s5 + e[5]
            s6, s7, s8, s9, s10, s11 = s6 + e[6], s7 + e[7], s8 + e[8], s9 + e[9], s10 + e[10], s11 + e[11]
        sums[0], sums[1], sums[2], sums[3], sums[4], sums[5] = s0, s1, s2, s3, s4, s5
        sums[6], sums[7], sums[8], sums[9], sums[10], sums[11] = s6, s7, s8, s9, s10, s11
        add_splat_gradient(sums, rows[g], g, channel, v_means2d, v_conics, v_colors, v_opacities, v_depths, v_absolute)
