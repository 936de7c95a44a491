"""What a face does, in millimetres: measured on the fitted head with pose and identity taken away.

In: a `HeadTrack` and its `ParametricHead`. Out: named numbers per frame. They are read off the head's 468 landmarks,
because one movement of the skin can be several mixtures of the coefficients (a raised brow is browInnerUp, browOuterUp
or less browDown), while the place of the brow is one number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...constants import EXPRESSION_NAMES
from ...models.modeling_head import ParametricHead
from ..tracking.head_track import HeadTrack

# MediaPipe's landmarks, both sides together.
_INNER_BROW = (55, 65, 107, 66, 285, 295, 336, 296)
_OUTER_BROW = (70, 46, 53, 63, 300, 276, 283, 293)
_UPPER_LID = (159, 160, 158, 386, 385, 387)
_LOWER_LID = (145, 144, 153, 374, 380, 373)  # each opposite the one above
_UPPER_LIP, _LOWER_LIP = (13, 82, 312), (14, 87, 317)  # inner edge
_LIP_EDGE = 17  # outer edge of the lower lip
_CORNERS = (61, 291)  # of the mouth, the person's right and left
_CHIN = 152
# Where a smile takes the mouth's corners: outwards, up, back (the head's own mouthSmile, as a unit vector).
_SMILE_WAY = (0.46, 0.67, -0.58)
_MM = 1000.0
_CHUNK = 512  # frames posed at once


def face_measures(track: HeadTrack, head: ParametricHead) -> dict[str, Tensor]:
    """Numbers `[T]` float32 relative to the identity's neutral head, the mean of both sides.

    Returns:
        mm, from landmarks: `inner_brow`, `outer_brow` and `lower_lid` rise; `opening` of the lids (absolute);
        `corner_drop` of the mouth's corners without the jaw; `lower_lip`, rise of its edge above the chin;
        `lips_apart`, between the inner lips.
        Mixed with coefficients, which tell apart what shares a place: `brow_lower`, mm (lowered brows that are also
        raised in the middle, as in fear, stay where they are); `smile`, mm (way of the mouth's corners in a smile's
        direction, without the jaw); `jaw_drop`, mm of the chin and the lips (the fit trades the jaw against the lips,
        and knows better where they are); `cheek`, half of it the smile that lifts it (landmarks hardly show it).
        Coefficients: `nose`, `stretch`.
        `closure` of the lids relative to the person's open eye, 0..1: that is the 80 % quantile of `opening` over the
        clip, and at least 3 mm, below which the eyes are shut throughout.
    """
    motion, identity = track.motion.to(head.v_template.device), track.shape[None].to(head.v_template)
    with torch.no_grad():
        rest = head.landmarks(head(shape=identity).vertices)[0] * _MM
        parts = []
        for start in range(0, len(motion), _CHUNK):
            part = motion[start : start + _CHUNK]
            expression = {"shape": identity, "expression": part.expression, "eyelids": part.eyelids}
            moved = head.landmarks(head(**expression, jaw_pose=part.jaw_pose).vertices) * _MM
            shut_jaw = head.landmarks(head(**expression).vertices) * _MM
            parts.append(_measure(moved, shut_jaw, rest))
    m = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    of = lambda *names: _coefficient(motion.expression, names)  # noqa: E731
    m["brow_lower"] = 0.5 * (-m["inner_brow"]).clamp_min(0) + 6.0 * of("browDown")
    m["smile"] = 0.5 * m["corner_way"] + 6.0 * of("mouthSmile")
    m["cheek"] = 0.5 * of("cheekRaiser", "cheekSquint") / 1.2 + 0.5 * (m["smile"] - 2.0) / 9.0
    m["jaw_drop"] = m["chin"] + 0.6 * m["lips_apart"]
    m["nose"], m["stretch"] = of("noseSneer"), of("mouthStretch")
    reliable = track.valid.to(m["opening"].device)
    open_eye = m["opening"][reliable if reliable.any() else slice(None)].quantile(0.8)
    m["closure"] = 1.0 - m["opening"] / open_eye.clamp_min(3.0)
    return m


def _measure(moved: Tensor, shut_jaw: Tensor, rest: Tensor) -> dict[str, Tensor]:
    """From landmarks `[T,468,3]` with and without the jaw and `[468,3]` at rest, mm."""
    way, free = moved - rest, shut_jaw - rest
    outwards = free.new_tensor([[-1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])  # the person's right is at -x
    corners = (free[:, _CORNERS] * outwards).mean(1)
    return {
        "inner_brow": way[:, _INNER_BROW, 1].mean(1),
        "outer_brow": way[:, _OUTER_BROW, 1].mean(1),
        "opening": (moved[:, _UPPER_LID] - moved[:, _LOWER_LID]).norm(dim=2).mean(1),
        "lower_lid": way[:, _LOWER_LID, 1].mean(1),
        "corner_way": corners @ corners.new_tensor(_SMILE_WAY),
        "corner_drop": -corners[:, 1],
        "chin": -way[:, _CHIN, 1],
        "lower_lip": way[:, _LIP_EDGE, 1] - way[:, _CHIN, 1],
        "lips_apart": (moved[:, _UPPER_LIP] - moved[:, _LOWER_LIP]).norm(dim=2).mean(1),
    }


def _coefficient(expression: Tensor, directions: Sequence[str]) -> Tensor:
    """`[T]` sum of directions, each the mean of its sides."""
    total = expression.new_zeros(len(expression))
    for name in directions:
        sides = [i for i, other in enumerate(EXPRESSION_NAMES) if other in (name, f"{name}_L", f"{name}_R")]
        total = total + expression[:, sides].mean(1)
    return total


__all__ = ["face_measures"]
