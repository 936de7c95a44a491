"""Movements of the face in millimetres, measured on the fitted head, independent of pose and identity.

In: a `HeadTrack` and its `ParametricHead`. Out: named numbers per frame. They are computed from the head's 468
landmarks, because coefficients are ambiguous: several combinations (browInnerUp, browOuterUp, less browDown) raise a
brow, while the brow's height is one number. Only `cheek` uses coefficients as well: landmarks hardly show it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...constants import EXPRESSION_NAMES
from ...models.modeling_head import ParametricHead
from ..tracking.head_track import HeadTrack

# Indices of MediaPipe's landmarks, both sides together.
_INNER_BROW = (55, 65, 107, 66, 285, 295, 336, 296)
_OUTER_BROW = (70, 46, 53, 63, 300, 276, 283, 293)
_INNER_BROW_SIDES = (55, 65, 66, 107), (285, 295, 296, 336)  # the person's right; the opposite points
_EYE_CORNERS = (33, 133, 362, 263)
_UPPER_LID = (159, 160, 158, 386, 385, 387)
_LOWER_LID = (145, 144, 153, 374, 380, 373)  # in the order of the opposite upper points
_UPPER_LIP, _LOWER_LIP = (13, 82, 312), (14, 87, 317)  # inner edge
_LIP_EDGE = 17  # outer edge of the lower lip
_CORNERS = (61, 291)  # of the mouth, the person's right and left
_CHIN = 152
_WINGS = (64, 98, 294, 327)  # of the nose
_LIP_ARCH = (0, 37, 267)  # upper edge of the upper lip
# Direction in which a smile moves the mouth's corners: outwards, up. Depth is left out: landmarks hardly determine it.
_SMILE_DIRECTION = (0.6, 0.8, 0.0)
_CORNERS_IN_SMILE = 0.65  # outward over upward movement of the corners in a smile
_GAP_BY_RAISE = 0.35  # mm that raising the inner brows by 1 mm moves them apart
_LIP_TO_WINGS = 0.2  # mm that raising the upper lip by 1 mm moves the wings of the nose up
_MM = 1000.0
_BATCH_SIZE = 512  # frames per batch


def face_measures(track: HeadTrack, head: ParametricHead) -> dict[str, Tensor]:
    """Measures `[T]` float32 relative to the identity's neutral head, averaged over both sides.

    Returns:
        In mm:
        `inner_brow`, `outer_brow`, upward movement; `brow_lower`, downward movement of the inner brows and narrowing of
        the gap between them, which shows brows that are both lowered and raised in the middle, as in fear;
        `opening`, distance of the lids (absolute); `lower_lid`, upward movement relative to the corners of the eyes;
        `nose`, upward movement of its wings beyond what a raised upper lip does;
        of the mouth's corners, without the jaw: `smile`, movement outwards and up; `corner_drop`, downward movement;
        `stretch`, outward movement beyond what a smile or a frown does;
        `lower_lip`, movement of the lip's edge away from the chin; `lips_apart`, distance of the inner lips;
        `jaw_drop`, of chin and lips together (the fit can confuse jaw and lip coefficients).
        `cheek`, about 0..1: half from coefficients, half from `smile`, which raises cheeks.
        `closure` of the lids, 0..1, relative to the person's open eyes: the 80 % quantile of `opening` over the clip,
        but at least 3 mm, in case the eyes are shut in the whole clip.
    """
    motion, identity = track.motion.to(head.v_template.device), track.shape[None].to(head.v_template)
    with torch.no_grad():
        rest = head.landmarks(head(shape=identity).vertices)[0] * _MM
        parts = []
        for start in range(0, len(motion), _BATCH_SIZE):
            part = motion[start : start + _BATCH_SIZE]
            expression = {"shape": identity, "expression": part.expression, "eyelids": part.eyelids}
            moved = head.landmarks(head(**expression, jaw_pose=part.jaw_pose).vertices) * _MM
            shut_jaw = head.landmarks(head(**expression).vertices) * _MM
            parts.append(_measure(moved, shut_jaw, rest))
    m = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    narrowed = m["brow_gap"] + _GAP_BY_RAISE * m["inner_brow"].clamp_min(0)
    m["brow_lower"] = 0.6 * (-m["inner_brow"]).clamp_min(0) + narrowed.clamp_min(0)
    cheeks = _coefficient(motion.expression, ("cheekRaiser", "cheekSquint"))
    m["cheek"] = 0.5 * cheeks / 1.2 + 0.5 * (m["smile"] - 2.5).clamp_min(0) / 9.0
    m["jaw_drop"] = m["chin"] + 0.6 * m["lips_apart"]
    reliable = track.valid.to(m["opening"].device)
    open_eye = m["opening"][reliable if reliable.any() else slice(None)].quantile(0.8)
    m["closure"] = 1.0 - m["opening"] / open_eye.clamp_min(3.0)
    return m


def _measure(moved: Tensor, shut_jaw: Tensor, rest: Tensor) -> dict[str, Tensor]:
    """Measures from landmarks `[T,468,3]` with and without the jaw and the neutral ones `[468,3]`, mm."""
    way, free = moved - rest, shut_jaw - rest
    outwards = free.new_tensor([[-1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])  # the person's right is at -x
    corners = (free[:, _CORNERS] * outwards).mean(1)
    return {
        "inner_brow": way[:, _INNER_BROW, 1].mean(1),
        "outer_brow": way[:, _OUTER_BROW, 1].mean(1),
        "opening": (moved[:, _UPPER_LID] - moved[:, _LOWER_LID]).norm(dim=2).mean(1),
        "brow_gap": _brow_gap(rest) - _brow_gap(moved),
        "lower_lid": way[:, _LOWER_LID, 1].mean(1) - way[:, _EYE_CORNERS, 1].mean(1),
        "nose": free[:, _WINGS, 1].mean(1) - _LIP_TO_WINGS * free[:, _LIP_ARCH, 1].mean(1),
        "smile": corners @ corners.new_tensor(_SMILE_DIRECTION),
        "stretch": corners[:, 0] - _CORNERS_IN_SMILE * corners[:, 1].abs(),
        "corner_drop": -corners[:, 1],
        "chin": -way[:, _CHIN, 1],
        "lower_lip": way[:, _LIP_EDGE, 1] - way[:, _CHIN, 1],
        "lips_apart": (moved[:, _UPPER_LIP] - moved[:, _LOWER_LIP]).norm(dim=2).mean(1),
    }


def _brow_gap(points: Tensor) -> Tensor:
    """`[...]` mean distance between the inner brows of landmarks `[..., 468, 3]`."""
    right, left = _INNER_BROW_SIDES
    return (points[..., right, :] - points[..., left, :]).norm(dim=-1).mean(-1)


def _coefficient(expression: Tensor, directions: Sequence[str]) -> Tensor:
    """`[T]` sum of coefficients, each averaged over its sides."""
    total = expression.new_zeros(len(expression))
    for name in directions:
        sides = [i for i, other in enumerate(EXPRESSION_NAMES) if other in (name, f"{name}_L", f"{name}_R")]
        total = total + expression[:, sides].mean(1)
    return total


__all__ = ["face_measures"]
