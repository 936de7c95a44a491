"""Linear layers with 8-bit weights for few rows: a stream reads each weight once a frame, so reading is the cost.

In: rows `[R, I]` float32, weights `[O, I]` int8 with a scale per output. Out: `[R, O]` float32, the product with the
restored weights to rounding. For many rows torch's float32 product is faster.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from ..rendering.numba_runtime import kernel

MOST_ROWS = 8  # from here on the float32 product is as fast


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


class EarLinear(nn.Linear):
    """`nn.Linear`; after `use_int8_` few rows on a CPU are multiplied by 8-bit weights."""

    weight8: Tensor | None
    scale: Tensor | None

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.register_buffer("weight8", None, persistent=False)
        self.register_buffer("scale", None, persistent=False)

    def use_int8_(self, weight8: Tensor, scale: Tensor) -> None:
        """Takes the 8-bit weights `[O, I]` and their scales `[O]` whose product `weight` is."""
        self.weight8, self.scale = weight8.contiguous(), scale.float().contiguous()

    def forward(self, input: Tensor) -> Tensor:
        if self.weight8 is None or input.numel() > MOST_ROWS * self.in_features or input.device.type != "cpu":
            return F.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features).contiguous()
        out = rows.new_empty(len(rows), self.out_features)
        if len(rows):
            arrays = (t.detach().numpy() for t in (rows, self.weight8, self.scale, self.bias, out))  # type: ignore[union-attr]
            _int8_rows(*arrays)
        return out.view(*input.shape[:-1], self.out_features)


EAR_KERNELS = (_int8_rows,)

__all__ = ["EAR_KERNELS", "MOST_ROWS", "EarLinear"]
