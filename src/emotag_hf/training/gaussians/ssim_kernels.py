"""SSIM and L1 of two images and their gradient in one pass over the rows: the kernels of `ssim` (METHOD 5).

In: images as rows of interleaved colours `[H, W * 3]` float32. Out: one sum per row, and the gradient. The 11x11
Gaussian window is separated into a row and a column filter; outside the image everything is 0. A row is filtered once
and kept in a ring buffer for the eleven windows that need it, so that each band of rows passes through the cache once.
Every row is summed in the same order whatever band it is in, so the result does not depend on the number of threads.

Loops are short and touch few arrays each, because the compiler vectorises a loop only while it can check cheaply that
its arrays do not overlap; that is also why a row is worked through in chunks of a fixed length.
"""

from __future__ import annotations

import numpy as np

from ...rendering.numba_runtime import device, kernel

CHANNELS = 3
RADIUS = 5  # the window is 11x11
SIGMA = 1.5  # pixels
C1, C2 = 0.01**2, 0.03**2  # for colours in [0, 1]

TAPS = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
TAPS /= TAPS.sum()

MARGIN = CHANNELS * RADIUS  # zeros left and right of a padded row
WINDOW = 2 * RADIUS + 1
CHUNK = 512  # floats of a row that are worked on at once

# Rows of the scratch array: padded rows, the weights of a row, then two rings of three fields each.
_PREDICTION, _SQUARE, _PRODUCT, _BY_MEAN, _BY_SQUARE, _BY_PRODUCT = range(6)
_PADDED, _WEIGHT, _RING, _RING_BACK = 6, 6, 7, 7 + 3 * WINDOW
SCRATCH_ROWS = 7 + 6 * WINDOW

_K0, _K1, _K2, _K3, _K4, _K5 = (np.float32(TAPS[RADIUS + k]) for k in range(RADIUS + 1))
_C1, _C2 = np.float32(C1), np.float32(C2)
_ZERO, _TWO = np.float32(0), np.float32(2)  # a bare 2 would make every sum float64


def scratch_shape(width: int) -> tuple[int, int]:
    """Shape of the float32 scratch array that one thread needs for pictures `width` pixels wide.

    A row takes an odd number of cache lines, because rows a power of two apart would evict each other.
    """
    lines = -(-(CHANNELS * width + 2 * MARGIN) // 16)
    return SCRATCH_ROWS, 16 * (lines | 1)


@device
def _filter_row(source, out):  # pragma: no cover - compiled
    """`out[i]` is the weighted sum of the eleven pixels of the padded row `source` around i."""
    for i in range(out.shape[0]):
        near = _K0 * source[i + 15] + _K1 * (source[i + 12] + source[i + 18]) + _K2 * (source[i + 9] + source[i + 21])
        far = _K3 * (source[i + 6] + source[i + 24]) + _K4 * (source[i + 3] + source[i + 27])
        out[i] = near + far + _K5 * (source[i] + source[i + 30])


@device
def _in_ring(rows, r, start, stop):  # pragma: no cover - compiled
    """Columns start..stop of picture row r in a ring; rows above the picture have numbers down to -WINDOW."""
    return rows[(r + WINDOW) % WINDOW, start:stop]


@device
def _filter_column(rows, r, start, out):  # pragma: no cover - compiled
    """`out[i]` is the weighted sum of eleven rows of a ring around row r, at column `start + i`."""
    n = out.shape[0]
    stop = start + n
    up, down = _in_ring(rows, r - 1, start, stop), _in_ring(rows, r + 1, start, stop)
    up2, down2 = _in_ring(rows, r - 2, start, stop), _in_ring(rows, r + 2, start, stop)
    centre = _in_ring(rows, r, start, stop)
    for i in range(n):
        out[i] = _K0 * centre[i] + _K1 * (up[i] + down[i]) + _K2 * (up2[i] + down2[i])
    up, down = _in_ring(rows, r - 3, start, stop), _in_ring(rows, r + 3, start, stop)
    up2, down2 = _in_ring(rows, r - 4, start, stop), _in_ring(rows, r + 4, start, stop)
    up3, down3 = _in_ring(rows, r - 5, start, stop), _in_ring(rows, r + 5, start, stop)
    for i in range(n):
        out[i] += _K3 * (up[i] + down[i]) + _K4 * (up2[i] + down2[i]) + _K5 * (up3[i] + down3[i])


@device
def _similarity(field, mean, variance, weight):  # pragma: no cover - compiled
    """SSIM of a chunk: `field` holds the window means of x, x*x and x*y, and then SSIM's derivatives by them.

    Returns the weighted sum of SSIM.
    """
    n = mean.shape[0]
    total = _ZERO
    for i in range(n):
        mu_x, mu_y = field[i], mean[i]
        var_x = max(field[i + CHUNK] - mu_x * mu_x, _ZERO)  # rounding can take it below
        num1 = _TWO * mu_x * mu_y + _C1
        num2 = _TWO * (field[i + 2 * CHUNK] - mu_x * mu_y) + _C2
        den1 = mu_x * mu_x + mu_y * mu_y + _C1
        den2 = var_x + variance[i] + _C2
        inverse = weight[i] / (den1 * den2)
        similarity = num1 * num2 * inverse
        total += similarity
        step = similarity / (den1 * den2)
        field[i] = _TWO * (mu_y * (num2 - num1) * inverse - mu_x * (den2 - den1) * step)
        field[i + CHUNK] = -den1 * step
        field[i + 2 * CHUNK] = _TWO * num1 * inverse
    return total


@device
def _absolute(x, y, weight):  # pragma: no cover - compiled
    """The weighted sum of |x - y|."""
    total = _ZERO
    for i in range(weight.shape[0]):
        total += weight[i] * abs(x[i] - y[i])
    return total


@device
def _absolute_gradient(x, y, weight, factor, out):  # pragma: no cover - compiled
    """`out = factor * weight * sign(x - y)`."""
    for i in range(weight.shape[0]):
        scaled = factor * weight[i]
        out[i] = scaled if x[i] > y[i] else (-scaled if x[i] < y[i] else _ZERO)


@device
def _spread_weight(weight, unit, out):  # pragma: no cover - compiled
    """A row of weights `[W]`, scaled, for each colour of each pixel."""
    for j in range(weight.shape[0]):
        scaled = unit * weight[j]
        out[3 * j] = scaled
        out[3 * j + 1] = scaled
        out[3 * j + 2] = scaled


@kernel(
    "void(float32[:,::1], float32[:,::1], float32[:,::1], float32[:,::1], float32[:,::1], float32, float32, float32,"
    " int64, int64, float32[:,::1], float32[::1], float32[:,::1], float32[:,::1])"
)
def compare_rows(
    x, y, mean, variance, weight, unit, l1_factor, ssim_factor, start, stop, scratch, chunk, sums, gradient
):  # pragma: no cover - compiled
    """Weighted sums of |x - y| and of SSIM for the rows start..stop, and the gradient of their mixture.

    Args:
        x, y: `[H, W * 3]` prediction and truth.
        mean, variance: `[H, W * 3]` window statistics of the truth, from `truth_rows`.
        weight: `[H, W]`, or `[0, 0]` for all ones.
        unit: what a weight is multiplied by, so that all of them sum to 1 over pixels and colours.
        l1_factor, ssim_factor: the mixture whose gradient is wanted.
        start, stop: the band.
        scratch: `scratch_shape(W)`; chunk: `[3 * CHUNK]`.
        sums: `[H, 2]` out, of L1 and SSIM.
        gradient: `[H, W * 3]` out, or `[0, 0]` when none is wanted.
    """
    height, n = x.shape
    fields = chunk.shape[0] // CHUNK  # three, but a number unknown to the compiler keeps it from writing all thrice
    with_gradient = gradient.shape[0] > 0
    lag = 2 * RADIUS if with_gradient else RADIUS  # rows of the truth's surroundings that the band needs
    left, right = MARGIN, MARGIN + n
    weights = scratch[_WEIGHT, :n]
    for k in range(_PADDED):
        scratch[k, :left] = _ZERO
        scratch[k, right : right + MARGIN] = _ZERO
    if weight.shape[0] == 0:
        weights[:] = unit
    for r in range(start - lag, stop + lag):
        # 1. row r through the row filter
        slot = (r + WINDOW) % WINDOW
        if 0 <= r < height:
            row, truth = x[r], y[r]
            padded, square, product = (
                scratch[_PREDICTION, left:right],
                scratch[_SQUARE, left:right],
                scratch[_PRODUCT, left:right],
            )
            for i in range(n):
                padded[i] = row[i]
            for i in range(n):
                square[i] = row[i] * row[i]
            for i in range(n):
                product[i] = row[i] * truth[i]
            for k in range(fields):
                _filter_row(scratch[_PREDICTION + k, : n + 2 * MARGIN], scratch[_RING + k * WINDOW + slot, :n])
        else:
            for k in range(fields):
                scratch[_RING + k * WINDOW + slot, :n] = _ZERO
        # 2. SSIM of row q, whose window is complete now
        q = r - RADIUS
        if q < start - (lag - RADIUS):
            continue
        slot = (q + WINDOW) % WINDOW
        if 0 <= q < height:
            if weight.shape[0] > 0:
                _spread_weight(weight[q], unit, weights)
            total = _ZERO
            for begin in range(0, n, CHUNK):
                end = min(begin + CHUNK, n)
                for k in range(fields):
                    ring = scratch[_RING + k * WINDOW : _RING + (k + 1) * WINDOW]
                    _filter_column(ring, q, begin, chunk[k * CHUNK : k * CHUNK + end - begin])
                total += _similarity(chunk, mean[q, begin:end], variance[q, begin:end], weights[begin:end])
                if with_gradient:
                    for k in range(fields):
                        scratch[_BY_MEAN + k, left + begin : left + end] = chunk[k * CHUNK : k * CHUNK + end - begin]
            if start <= q < stop:
                sums[q, 0] = _absolute(x[q], y[q], weights)
                sums[q, 1] = total
                if with_gradient:
                    _absolute_gradient(x[q], y[q], weights, l1_factor, gradient[q])
            if with_gradient:
                for k in range(fields):
                    _filter_row(scratch[_BY_MEAN + k, : n + 2 * MARGIN], scratch[_RING_BACK + k * WINDOW + slot, :n])
        elif with_gradient:
            for k in range(fields):
                scratch[_RING_BACK + k * WINDOW + slot, :n] = _ZERO
        # 3. the gradient of row p, all of whose windows are complete now
        p = r - 2 * RADIUS
        if with_gradient and p >= start:
            for begin in range(0, n, CHUNK):
                end = min(begin + CHUNK, n)
                for k in range(fields):
                    ring = scratch[_RING_BACK + k * WINDOW : _RING_BACK + (k + 1) * WINDOW]
                    _filter_column(ring, p, begin, chunk[k * CHUNK : k * CHUNK + end - begin])
                row, truth, out = x[p, begin:end], y[p, begin:end], gradient[p, begin:end]
                for i in range(end - begin):
                    by_x = chunk[i] + _TWO * row[i] * chunk[i + CHUNK] + truth[i] * chunk[i + 2 * CHUNK]
                    out[i] += ssim_factor * by_x


@kernel("void(float32[:,::1], int64, int64, float32[:,::1], float32[::1], float32[:,::1], float32[:,::1])")
def truth_rows(y, start, stop, scratch, chunk, mean, variance):  # pragma: no cover - compiled
    """Window mean and variance `[H, W * 3]` of the truth for the rows start..stop; arguments as in `compare_rows`."""
    height, n = y.shape
    fields = chunk.shape[0] // CHUNK - 1
    left, right = MARGIN, MARGIN + n
    for k in range(2):
        scratch[k, :left] = _ZERO
        scratch[k, right : right + MARGIN] = _ZERO
    for r in range(start - RADIUS, stop + RADIUS):
        slot = (r + WINDOW) % WINDOW
        if 0 <= r < height:
            row = y[r]
            padded, square = scratch[_PREDICTION, left:right], scratch[_SQUARE, left:right]
            for i in range(n):
                padded[i] = row[i]
            for i in range(n):
                square[i] = row[i] * row[i]
            for k in range(fields):
                _filter_row(scratch[_PREDICTION + k, : n + 2 * MARGIN], scratch[_RING + k * WINDOW + slot, :n])
        else:
            for k in range(2):
                scratch[_RING + k * WINDOW + slot, :n] = _ZERO
        q = r - RADIUS
        if q < start:
            continue
        for k in range(fields):
            out = mean[q] if k == 0 else variance[q]
            _filter_column(scratch[_RING + k * WINDOW : _RING + (k + 1) * WINDOW], q, 0, out)
        mu, out = mean[q], variance[q]
        for i in range(n):
            out[i] = max(out[i] - mu[i] * mu[i], _ZERO)
