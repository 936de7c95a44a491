"""Skin, lips, ears and neck: what colour the light falls on.

In: points on the skin. Out: albedo and gloss per point, linear RGB.
"""

from __future__ import annotations

import numpy as np
from canvas import Canvas, linear, smoothstep, value_noise
from surface import Samples

SKIN = linear(222, 170, 142)
FLUSH = linear(205, 118, 104)
SHADE = linear(168, 112, 100)
LIP = linear(180, 100, 93)
LIP_EDGE = linear(198, 130, 114)


def _mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return a + (b - a) * np.clip(weight, 0, 1)[:, None]


def skin_albedo(canvas: Canvas, samples: Samples) -> np.ndarray:
    """`[N, 3]` linear RGB of skin, lips included."""
    p = samples.position
    color = np.repeat(SKIN[None], len(p), 0)
    # Blood shows where the skin is thin or warm: cheeks, nose, ears, chin; forehead and jaw are paler.
    for landmark, radius, weight in ((50, 0.026, 0.40), (280, 0.026, 0.40), (4, 0.015, 0.42), (199, 0.018, 0.22),
                                     (98, 0.010, 0.25), (327, 0.010, 0.25)):  # fmt: skip
        color = _mix(color, FLUSH, weight * canvas.near(p, landmark, radius))
    color = _mix(color, FLUSH, 0.24 * samples.interpolate(canvas.faces, canvas.soft_mask("ears", rounds=4)))
    # Thin, darker skin around the eyes, and the crease of the upper lid.
    for landmark, radius, weight in ((145, 0.013, 0.34), (374, 0.013, 0.34), (133, 0.009, 0.45), (362, 0.009, 0.45),
                                     (159, 0.010, 0.30), (386, 0.010, 0.30)):  # fmt: skip
        color = _mix(color, SHADE, weight * canvas.near(p, landmark, radius))
    lips = samples.interpolate(canvas.faces, canvas.soft_mask("lips", rounds=1))
    color = _mix(color, LIP_EDGE, smoothstep(0.10, 0.55, lips))
    color = _mix(color, LIP, smoothstep(0.45, 0.95, lips))
    # Mottling at three sizes: without it skin looks like plastic.
    tone = 0.045 * value_noise(p, 0.022, 1) + 0.035 * value_noise(p, 0.007, 2) + 0.040 * value_noise(p, 0.0022, 3)
    red = 0.05 * value_noise(p, 0.012, 4) + 0.02 * value_noise(p, 0.003, 5)
    color = color * (1 + tone)[:, None] * (1 + red[:, None] * np.array([0.35, -0.6, -0.5]))
    # Fine vertical lines on the lips.
    grain = value_noise(p * np.array([1.0, 0.25, 0.5]), 0.0011, 6)
    return color * (1 + 0.10 * smoothstep(0.5, 0.9, lips) * grain)[:, None]


def skin_gloss(canvas: Canvas, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Strength of the broad oil highlight and of the wet one, `[N]` each."""
    p = samples.position
    oil = np.full(len(p), 0.028)
    for landmark, radius, weight in ((4, 0.012, 0.030), (9, 0.030, 0.016), (151, 0.035, 0.016), (50, 0.022, 0.012),
                                     (280, 0.022, 0.012), (199, 0.014, 0.010)):  # fmt: skip
        oil += weight * canvas.near(p, landmark, radius)
    wet = 0.05 * smoothstep(0.5, 0.95, samples.interpolate(canvas.faces, canvas.soft_mask("lips", rounds=1)))
    return oil * (1 + 0.25 * value_noise(p, 0.0016, 7)), wet
