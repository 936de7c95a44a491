"""Expression coefficients of each emotion and each action unit: FACS prototypes (METHOD 4).

The combinations of action units are from EMFACS (Friesen and Ekman, 1983), as quoted in the emotion literature:
happy 6+12, sad 1+4+15, surprise 1+2+5+26, fear 1+2+4+5+7+20+26, angry 4+5+7+23, disgust 9+15+16. They are symmetric
and change the lips' opening as little as possible, because speech needs it. The coefficients were tuned by eye and with
benchmarks/bench_emotion.py: units that define an emotion change by 1.5 or more of 5, and lip sync is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..constants import ACTION_UNITS, EMOTIONS, EXPRESSION_NAMES, GRMN_ACTION_UNITS

# Coefficients at full intensity (gate = 1). A name without suffix is both _L and _R. "jaw" is jaw_pose[0] in radians.
EXPRESSION_PROTOTYPES: dict[str, dict[str, float]] = {
    "angry": {  # AU 4, 5, 7, 23 (+ weak 9; inner ends of the brows lowest; jaw forward)
        "browDown": 1.00, "browInnerUp": -0.50, "browOuterUp": 0.25, "eyeSquint": 0.75, "eyeWide": 0.45,
        "cheekSquint": 0.20, "noseSneer": 0.25, "nostrilDilate": 0.60, "mouthPress": 0.45, "mouthRollLower": 0.15,
        "mouthFrown": 0.60, "mouthStretch": 0.25, "jawForward": 0.30, "neckTighten": 0.40,
    },
    "disgust": {  # AU 9, 15, 16 (+ 4, 10)
        "noseSneer": 0.75, "browDown": 0.60, "cheekSquint": 0.45, "eyeSquint": 0.20, "mouthFrown": 0.95,
        "mouthUpperUp": 0.30, "mouthLowerDown": 0.10, "mouthShrugLower": 0.35,
    },
    "fear": {  # AU 1, 2, 4, 5, 7, 20, 26
        "browInnerUp": 0.95, "browOuterUp": 0.35, "browDown": 0.55, "eyeWide": 0.95, "mouthStretch": 0.85,
        "mouthFrown": 0.20, "neckTighten": 0.60, "jaw": 0.020,
    },
    "happy": {  # AU 6, 12
        "mouthSmile": 0.75, "cheekRaiser": 0.65, "cheekSquint": 0.35, "eyeSquint": 0.15, "mouthDimple": 0.15,
        "browOuterUp": 0.08,
    },
    "sad": {  # AU 1, 4, 15 (+ 17, lowered upper lids)
        "browInnerUp": 1.00, "browDown": 0.45, "mouthFrown": 1.00, "mouthShrugLower": 0.35, "eyeSquint": 0.25,
        "eyeWide": -0.30,
    },
    "surprise": {  # AU 1, 2, 5, 26; much less jaw than in the prototype, so that lips close in p, b, m
        "browInnerUp": 0.90, "browOuterUp": 0.90, "eyeWide": 0.90, "mouthFunnel": 0.08, "jaw": 0.045,
    },
    "neutral": {},
}  # fmt: skip

# Intensities (OpenFace's 0..5) of these faces on GRMN's six input units. AU45, the blink, belongs to no emotion.
ACTION_UNIT_PROTOTYPES: dict[str, dict[str, float]] = {
    "angry": {"AU04": 3.5, "AU05": 1.5, "AU07": 3.0},
    "disgust": {"AU04": 2.0, "AU06": 1.5, "AU07": 3.0},
    "fear": {"AU01": 3.0, "AU04": 1.5, "AU05": 3.0, "AU07": 1.5},
    "happy": {"AU06": 3.5, "AU07": 1.0},
    "sad": {"AU01": 3.0, "AU04": 2.0},
    "surprise": {"AU01": 3.5, "AU05": 3.0},
    "neutral": {},
}


# Coefficients of an action unit at intensity 5; others scale linearly. "jaw" as above, "eyelids" is closure. They are
# chosen so that `features.action_units` measures about 3 for an intensity of 3. It measures less for AU05, AU06, AU07
# and AU17, where larger coefficients look unnatural, and for AU25 and AU26, where a wider mouth would break lip sync.
ACTION_UNIT_MOTIONS: dict[str, dict[str, float]] = {
    "AU01": {"browInnerUp": 1.05},
    "AU02": {"browOuterUp": 0.82, "browInnerUp": -0.50},  # browOuterUp raises the inner ends, too
    "AU04": {"browDown": 0.75},
    "AU05": {"eyeWide": 1.10},
    "AU06": {"cheekRaiser": 0.95, "cheekSquint": 0.65},
    "AU07": {"eyeSquint": 1.30},
    "AU09": {"noseSneer": 0.80},
    "AU12": {"mouthSmile": 0.80},
    "AU15": {"mouthFrown": 0.90},
    "AU17": {"mouthShrugLower": 1.00, "mouthShrugUpper": 0.40},
    "AU20": {"mouthStretch": 0.75},
    "AU25": {"mouthLowerDown": 0.90, "mouthUpperUp": 0.60},
    "AU26": {"jaw": 0.15},
    "AU45": {"eyelids": 1.00},
}


def expression_prototypes(jaw_dim: int = 3) -> torch.Tensor:
    """`[7, 50 + jaw_dim]` float32 in the order of `EMOTIONS`: expression coefficients, then the jaw in radians."""
    table = torch.zeros(len(EMOTIONS), len(EXPRESSION_NAMES) + jaw_dim)
    for row, emotion in enumerate(EMOTIONS):
        for name, value in EXPRESSION_PROTOTYPES[emotion].items():
            table[row, _columns(name)] = value
    return table


def action_unit_motions() -> torch.Tensor:
    """`[14, 52]` float32, what each unit of `ACTION_UNITS` adds at intensity 5: expression, jaw_pose[0], eyelids."""
    table = torch.zeros(len(ACTION_UNITS), len(EXPRESSION_NAMES) + 2)
    for row, unit in enumerate(ACTION_UNITS):
        for name, value in ACTION_UNIT_MOTIONS[unit].items():
            table[row, -1 if name == "eyelids" else _columns(name)] = value
    return table


def _columns(name: str) -> list[int]:
    """Column indices of a coefficient (both sides); the jaw is after the expression."""
    sides = [n for n in (name, f"{name}_L", f"{name}_R") if n in EXPRESSION_NAMES]
    return [len(EXPRESSION_NAMES)] if name == "jaw" else [EXPRESSION_NAMES.index(n) for n in sides]


def action_unit_prototypes() -> torch.Tensor:
    """`[7, 6]` float32 in 0..5: the rows `EMOTIONS`, the columns `GRMN_ACTION_UNITS`."""
    rows = [[ACTION_UNIT_PROTOTYPES[e].get(u, 0.0) for u in GRMN_ACTION_UNITS] for e in EMOTIONS]
    return torch.tensor(rows)


def emotion_to_logits(emotion: str | Mapping[str, float]) -> torch.Tensor:
    """Logits z_e of a named emotion or a mixture, for `GatedResidualMotionNetwork.forward(emotion_logits=...)`.

    Args:
        emotion: one of `EMOTIONS`, or weights such as `{"happy": 0.6, "surprise": 0.4}`; see `emotion_mixture`.

    Returns:
        `[7]` float32 logits whose softmax is the mixture.

    Raises:
        ValueError: an unknown emotion, a negative or non-finite weight.
    """
    return probabilities_to_logits(torch.tensor(emotion_mixture(emotion)))


def emotion_mixture(emotion: str | Mapping[str, float]) -> list[float]:
    """Probabilities in the order of `EMOTIONS`: if the weights' sum is below 1 the rest is neutral; above 1 they are
    normalised. Raises ValueError as `emotion_to_logits`."""
    weights = {emotion: 1.0} if isinstance(emotion, str) else dict(emotion)
    unknown = [name for name in weights if name not in EMOTIONS]
    if unknown or not weights:
        raise ValueError(f"emotion: expected one or more of {', '.join(EMOTIONS)}, got {emotion!r}.")
    # Python floats: `from_pretrained` builds networks on the meta device, where tensors have no values to validate.
    values = [float(weights.get(name, 0.0)) for name in EMOTIONS]
    if not all(math.isfinite(v) and 0 <= v <= 1e6 for v in values):
        raise ValueError(f"emotion: expected weights of 0 or more, got {emotion!r}.")
    values[EMOTIONS.index("neutral")] += max(0.0, 1.0 - sum(values))
    return [value / sum(values) for value in values]


def probabilities_to_logits(probabilities: torch.Tensor) -> torch.Tensor:
    """Logits z_e of probabilities `[..., 7]`. 1e-6 is added, so that logits stay finite; the effect is not visible."""
    return torch.log(probabilities + 1e-6)
