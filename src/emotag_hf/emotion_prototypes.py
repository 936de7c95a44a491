"""What each emotion looks like before any training: FACS prototypes on the named expression directions (METHOD 4).

The combinations of action units are EMFACS' (Friesen and Ekman, 1983), as the emotion literature quotes them:
happy 6+12, sad 1+4+15, surprise 1+2+5+26, fear 1+2+4+5+7+20+26, angry 4+5+7+23, disgust 9+15+16. They are symmetric,
and they keep off the lips' opening as far as they can, because speech needs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from .constants import EMOTIONS, EXPRESSION_NAMES, GRMN_ACTION_UNITS

# Coefficients at full intensity (gate = 1). A bare name means its _L and _R. "jaw" is jaw_pose[0] in radians.
EXPRESSION_PROTOTYPES: dict[str, dict[str, float]] = {
    "angry": {  # AU 4, 5, 7, 23 (+ 9 lightly, as it goes with 4)
        "browDown": 0.95, "eyeSquint": 0.45, "eyeWide": 0.25, "noseSneer": 0.30, "nostrilDilate": 0.35,
        "mouthPress": 0.28, "mouthRollLower": 0.12, "mouthFrown": 0.30, "neckTighten": 0.25,
    },
    "disgust": {  # AU 9, 15, 16 (+ 4, 10)
        "noseSneer": 0.90, "browDown": 0.45, "cheekSquint": 0.45, "eyeSquint": 0.40, "mouthFrown": 0.45,
        "mouthUpperUp": 0.32, "mouthLowerDown": 0.12, "mouthShrugLower": 0.20,
    },
    "fear": {  # AU 1, 2, 4, 5, 7, 20, 26
        "browInnerUp": 0.85, "browOuterUp": 0.40, "browDown": 0.25, "eyeWide": 0.75, "mouthStretch": 0.60,
        "mouthFrown": 0.15, "neckTighten": 0.45, "jaw": 0.025,
    },
    "happy": {  # AU 6, 12
        "mouthSmile": 0.75, "cheekRaiser": 0.75, "cheekSquint": 0.45, "eyeSquint": 0.30, "mouthDimple": 0.15,
        "browOuterUp": 0.08,
    },
    "sad": {  # AU 1, 4, 15 (+ 17)
        "browInnerUp": 0.85, "browDown": 0.25, "mouthFrown": 0.75, "mouthShrugLower": 0.30, "eyeSquint": 0.15,
    },
    "surprise": {  # AU 1, 2, 5, 26; the jaw far less than the prototype says, or p, b, m could not close
        "browInnerUp": 0.90, "browOuterUp": 0.90, "eyeWide": 0.85, "mouthFunnel": 0.12, "jaw": 0.045,
    },
    "neutral": {},
}  # fmt: skip

# How those faces read on the six action units that GRMN sees, in OpenFace's 0..5. AU45 is the blink: of no emotion.
ACTION_UNIT_PROTOTYPES: dict[str, dict[str, float]] = {
    "angry": {"AU04": 3.5, "AU05": 1.5, "AU07": 3.0},
    "disgust": {"AU04": 2.0, "AU06": 1.5, "AU07": 3.0},
    "fear": {"AU01": 3.0, "AU04": 1.5, "AU05": 3.0, "AU07": 1.5},
    "happy": {"AU06": 3.5, "AU07": 1.0},
    "sad": {"AU01": 3.0, "AU04": 2.0},
    "surprise": {"AU01": 3.5, "AU05": 3.0},
    "neutral": {},
}


def expression_prototypes(jaw_dim: int = 3) -> torch.Tensor:
    """`[7, 50 + jaw_dim]` float32 in the order of `EMOTIONS`: expression coefficients, then the jaw in radians."""
    table = torch.zeros(len(EMOTIONS), len(EXPRESSION_NAMES) + jaw_dim)
    for row, emotion in enumerate(EMOTIONS):
        for name, value in EXPRESSION_PROTOTYPES[emotion].items():
            if name == "jaw":
                table[row, len(EXPRESSION_NAMES)] = value
                continue
            sides = [n for n in (name, f"{name}_L", f"{name}_R") if n in EXPRESSION_NAMES]
            table[row, [EXPRESSION_NAMES.index(n) for n in sides]] = value
    return table


def action_unit_prototypes() -> torch.Tensor:
    """`[7, 6]` float32 in 0..5: the rows `EMOTIONS`, the columns `GRMN_ACTION_UNITS`."""
    rows = [[ACTION_UNIT_PROTOTYPES[e].get(u, 0.0) for u in GRMN_ACTION_UNITS] for e in EMOTIONS]
    return torch.tensor(rows)


def emotion_to_logits(emotion: str | Mapping[str, float]) -> torch.Tensor:
    """A named emotion or a mixture as z_e, for `GatedResidualMotionNetwork.forward(emotion_logits=...)`.

    Args:
        emotion: one of `EMOTIONS`, or weights such as `{"happy": 0.6, "surprise": 0.4}`; what weights below a sum of 1
            leave over is neutral, weights above it are normalised.

    Returns:
        `[7]` float32 logits whose softmax is the mixture.

    Raises:
        ValueError: an unknown emotion, a negative or non-finite weight.
    """
    weights = {emotion: 1.0} if isinstance(emotion, str) else dict(emotion)
    unknown = [name for name in weights if name not in EMOTIONS]
    if unknown or not weights:
        raise ValueError(f"emotion: expected one or more of {', '.join(EMOTIONS)}, got {emotion!r}.")
    # Plain numbers: `from_pretrained` builds networks on the meta device, where tensors have no values to check.
    values = [float(weights.get(name, 0.0)) for name in EMOTIONS]
    if not all(math.isfinite(v) and 0 <= v <= 1e6 for v in values):
        raise ValueError(f"emotion: expected weights of 0 or more, got {emotion!r}.")
    values[EMOTIONS.index("neutral")] += max(0.0, 1.0 - sum(values))
    # A probability of 1e-6 instead of 0: logits stay finite, the face does not show it.
    return torch.log(torch.tensor(values) / sum(values) + 1e-6)
