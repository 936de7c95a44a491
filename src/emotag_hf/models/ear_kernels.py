"""The product of few rows with 8-bit weights, compiled: a stream reads each weight once a frame, which is the cost.

In: rows `[R, I]` float32, weights `[O, I]` int8 with a scale per output, biases. Out: `[R, O]` float32.
"""

from __future__ import annotations

import numpy as np

from ..rendering.numba_runtime import kernel


@kernel("void(float32[:, ::1], int8[:, ::1], float32[::1], float32[::1], float32[:, ::1])")
def _int8_rows(rows, weight, scale, bias, out):  # pragma: no cover - compiled
    """Two rows at a time, so that a weight is read and widened once for both."""
    count, inputs = rows.shape
    for first in range(0, count, 2):
        second = min(first + 1, count - 1)
        for o in range(weight.shape[0]):
            a, b = np.float32(0), np.float32(0)
            for i in range(inputs):
                w = np.float32(weight[o, i])
                a += rows[first, i] * w
                b += rows[second, i] * w
            out[first, o] = a * scale[o] + bias[o]
            out[second, o] = b * scale[o] + bias[o]


EAR_KERNELS = (_int8_rows,)

__all__ = ["EAR_KERNELS"]
