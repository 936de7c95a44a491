"""Linear layers of the ear, which multiply few rows by 8-bit weights.

In: `[..., I]` float32. Out: `[..., O]`, the product with the restored weights to rounding. For many rows, gradients and
other devices it is torch's float32 product.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

MOST_ROWS = 8  # from here on the float32 product is as fast


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
        many = input.numel() > MOST_ROWS * self.in_features or input.device.type != "cpu"
        if self.weight8 is None or many or input.requires_grad:
            return F.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features).contiguous()
        out = rows.new_empty(len(rows), self.out_features)
        if len(rows):
            from .ear_kernels import EAR_KERNELS  # Numba is imported when it is needed

            arrays = (t.detach().numpy() for t in (rows, self.weight8, self.scale, self.bias, out))  # type: ignore[union-attr]
            EAR_KERNELS[0](*arrays)
        return out.view(*input.shape[:-1], self.out_features)


__all__ = ["MOST_ROWS", "EarLinear"]
