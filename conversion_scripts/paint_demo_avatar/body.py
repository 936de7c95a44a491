"""What is not skin, hair or eyes: the mouth's inside and the clothes.

In: the canvas. Out: points, their spacing and albedo.
"""

from __future__ import annotations

import numpy as np
from canvas import Canvas, linear, smoothstep, value_noise
from surface import Samples

TOOTH, GUM, TONGUE = linear(232, 222, 204), linear(176, 92, 88), linear(178, 88, 86)
CAVITY = linear(74, 24, 22)
NECKLINE = -0.158  # metres, y at the nape
CLOTH, CLOTH_LIGHT = linear(34, 44, 58), linear(62, 76, 92)


def mouth(canvas: Canvas) -> list[tuple[Samples, np.ndarray, np.ndarray]]:
    """Teeth, gums, tongue and the bag behind them."""
    parts = []
    for names, spacing, albedo in (
        (("teeth_upper", "teeth_lower"), 0.0013, TOOTH),
        (("gums",), 0.0030, GUM),
        (("tongue",), 0.0026, TONGUE),
        (("mouth_interior",), 0.0042, CAVITY),
    ):
        which = canvas.faces_in(canvas.mask(*names))
        samples, local = canvas.cover(which, spacing)
        tone = 1 + 0.06 * value_noise(samples.position, 0.002, 51)
        color = albedo * tone[:, None]
        if "teeth_upper" in names:
            # A little overbite: without it the lips hide the teeth of all but a wide-open mouth.
            upper = samples.interpolate(canvas.faces, canvas.mask("teeth_upper").astype(float)) > 0.5
            samples.position = samples.position + np.where(upper[:, None], [0, -0.0024, 0], [0, 0.0012, 0])
            # Enamel is bluish at the edge and warm at the gum.
            lips = canvas.vertices[canvas.mask("lips")].mean(0)
            color = color * (1 - 0.10 * smoothstep(0.004, 0.010, np.abs(samples.position[:, 1] - lips[1])))[:, None]
        parts.append((samples, local, color))
    return parts


def clothes(canvas: Canvas, spacing: float) -> tuple[Samples, np.ndarray, np.ndarray]:
    """A knitted crew-neck pullover; its collar stands off the neck."""
    which = canvas.faces_in(canvas.mask("torso", "neck"))
    lowest = canvas.vertices[canvas.faces[which]][:, :, 1].min(1)
    at_collar = np.abs(collar_height(canvas, canvas.vertices[canvas.faces[which]].mean(1))) < 0.03
    which, at_collar = which[lowest < NECKLINE], at_collar[lowest < NECKLINE]
    behind = canvas.normals[canvas.faces[which]].mean(1)[:, 2] < -0.45
    samples, local = canvas.cover(which, spacing * np.where(behind, 1.8, np.where(at_collar, 0.38, 1.0)))
    below = -collar_height(canvas, samples.position)
    samples, local, below = samples[below > 0], local[below > 0], below[below > 0]
    p = samples.position
    band = smoothstep(0.019, 0.016, below)  # the ribbed collar, a rolled band that stands off the neck
    roll = np.sqrt(np.clip(1 - ((below - 0.008) / 0.0095) ** 2, 0, 1))
    samples.position = (
        p + samples.normal * (0.0022 + 0.0042 * band * roll + 0.0008 * value_noise(p, 0.018, 61))[:, None]
    )
    around = np.arctan2(p[:, 0], p[:, 2] - canvas.joints[1][2])
    ribs = 0.5 + 0.5 * np.sin(around * 120)
    weave = 0.5 + 0.5 * np.sin(p[:, 0] * 900) * np.sin(p[:, 1] * 700 + p[:, 2] * 700)
    weight = band * (0.15 + 0.55 * ribs) + (1 - band) * 0.5 * weave + 0.12 * value_noise(p, 0.02, 62)
    color = CLOTH + (CLOTH_LIGHT - CLOTH) * np.clip(weight, 0, 1)[:, None]
    seam = np.exp(-(((below - 0.0185) / 0.0016) ** 2))
    return samples, local, color * (1 - 0.45 * seam)[:, None]


def collar_height(canvas: Canvas, position: np.ndarray) -> np.ndarray:
    """Metres above the collar line (negative on the cloth), `[N]`: lower in front than at the nape."""
    neck = canvas.joints[1]
    front = smoothstep(-0.02, 0.08, position[:, 2] - neck[2])
    return position[:, 1] - (NECKLINE - 0.024 * front)
