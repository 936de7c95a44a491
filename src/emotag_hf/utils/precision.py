"""Modules that stay float32 whatever dtype the model has: geometry in metres needs the precision."""

from __future__ import annotations

from torch import nn


class Float32Module(nn.Module):
    """Follows its model to another device, but not to another floating-point type (`.to(dtype)`, `.half()`)."""

    def _apply(self, fn, recurse: bool = True):
        def move(tensor):
            moved = fn(tensor)
            kept = tensor.is_floating_point() and moved.dtype != tensor.dtype
            return tensor.to(moved.device) if kept else moved

        return super()._apply(move, recurse)
