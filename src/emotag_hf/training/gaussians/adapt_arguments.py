"""The parameters of an adaptation; the command line's options are made from this dataclass.

In: a preset's name, keywords, or nothing. Out: `AdaptArguments`. Defaults were chosen by measurements
(docs/adapting.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

QUALITIES = ("fast", "best")


def number(default: Any, text: str) -> Any:
    """A field with its help for the command line."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class AdaptArguments:
    """Parameters of fitting Gaussians to a clip. Use `AdaptArguments.preset("best")` or keywords.

    Each field is described by its `metadata["help"]`, as in `emotag adapt --help`.

    Raises:
        ValueError: naming the invalid field.
    """

    steps: int = number(1000, "optimiser steps; each looks at one frame")
    budget_s: float | None = number(
        None, "seconds to train; the schedule is stretched or squeezed to fit, instead of steps"
    )
    seed: int = number(0, "of sampling, frame order and crops")
    num_surface: int = number(14000, "Gaussians on the head's surface")
    num_beside: int = number(7000, "at most so many Gaussians beside it: hair and shoulders")
    num_correctives: int = number(
        8, "expression directions that change colours and places; 3 more follow the head's turn"
    )
    max_frames: int = number(375, "training frames that are kept, those furthest apart in motion")
    coarse_until: float = number(0.15, "share of the training at 128 pixels")
    crops_from: float = number(0.55, "share of the training from which full-size crops are drawn")
    crop: int = number(256, "pixels of a crop, and of whole frames in the middle stage")
    size: int = number(512, "pixels of full size")
    ssim_weight: float = number(0.2, "of 1 - SSIM beside L1 (METHOD 5)")
    face_weight: float = number(2.0, "weight of a pixel in the face's box")
    geometry_weight: float = number(0.0, "factor on L_Geo: depth and normals against the tracked head (METHOD 5)")
    alpha_weight: float = number(0.1, "of the difference between alpha and matte")
    corrective_weight: float = number(0.01, "L2 pull of the correctives to the prior, or to none")
    smooth_weight: float = number(0.1, "pull of neighbouring Gaussians' correctives to each other")
    place_weight: float = number(1e-3, "L2 pull of the Gaussians to where they started, in triangle sizes")
    size_weight: float = number(0.02, "against Gaussians that grow beyond twice their start")
    refine: bool = number(True, "lets pixels move the tracked motion, if a cross-check agrees")
    offset_rate: float = number(0.3, "rate of that movement, in half pixels")
    offset_prior: float = number(2e-6, "pull of that movement to the landmarks' answer")
    trial_steps: int = number(60, "of that cross-check, with and without")
    densify: bool = number(False, "clones, splits and prunes Gaussians in the middle stage")
    ema: float = number(0.995, "decay of the averaged weights, which are the result; 0 for the last weights")
    validation_share: float = number(0.04, "share of the frames, the last ones, kept for early stop")
    patience: int = number(3, "checks without gain after which training stops")
    rate: float = number(1.0, "factor on all learning rates")

    def __post_init__(self) -> None:
        positive = ("steps", "trial_steps", "num_surface", "max_frames", "crop", "size", "rate")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)!r}.")
        if self.budget_s is not None and self.budget_s <= 0:
            raise ValueError(f"budget_s: expected seconds above 0, got {self.budget_s!r}.")
        for name in ("coarse_until", "crops_from", "ema", "ssim_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, got {getattr(self, name)!r}.")
        if not 0 <= self.validation_share <= 0.5:
            raise ValueError(f"validation_share: expected 0 to 0.5, got {self.validation_share!r}.")

    @classmethod
    def preset(cls, quality: str = "fast", **changes: Any) -> AdaptArguments:
        """`"fast"`: under two minutes on two cores; `"best"`: three times as long, better.

        Raises:
            ValueError: an unknown quality or argument.
        """
        if quality not in QUALITIES:
            raise ValueError(f"quality: expected one of {', '.join(QUALITIES)}, got {quality!r}.")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(changes.keys() - known):
            raise ValueError(f"arguments: unknown {', '.join(unknown)}; expected one of {', '.join(sorted(known))}.")
        best: dict[str, Any] = {"steps": 3000, "num_surface": 18000, "num_beside": 10000} if quality == "best" else {}
        return replace(cls(**best), **changes)


__all__ = ["QUALITIES", "AdaptArguments", "number"]
