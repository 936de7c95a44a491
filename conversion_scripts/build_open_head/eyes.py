"""Eyeballs: a polar grid with its own rings for pupil, iris and sclera. Out comes one Part per eye.

The iris is a shallow dish behind the cornea's line, so that it reads as depth when the eye turns.
"""

from __future__ import annotations

import numpy as np
from parts import Part, grid_faces
from source import EYE_RADIUS

SEGMENTS = 28
PUPIL = 0.0020  # metres, radius
IRIS = 0.0060  # metres, radius of the limbus
DISH = 0.65  # 0 keeps the iris on the sphere, 1 makes it flat


def eyeball(centre: np.ndarray, side: str) -> Part:
    """The eyeball around `centre` [3] looking along +z; `side` is "left" or "right"."""
    limbus = np.arcsin(IRIS / EYE_RADIUS)
    inner = np.array([PUPIL * 0.5, PUPIL, 0.0033, 0.0048, IRIS]) / EYE_RADIUS
    polar = np.concatenate([np.arcsin(inner), limbus + np.radians([4.0, 10, 18, 28, 40, 55, 75, 100])])
    around = np.linspace(0, 2 * np.pi, SEGMENTS, endpoint=False)
    radius, height = np.sin(polar) * EYE_RADIUS, np.cos(polar) * EYE_RADIUS
    flat = np.cos(limbus) * EYE_RADIUS
    height = np.where(polar < limbus, flat + (1 - DISH) * (height - flat), height)
    ring = np.stack(
        [
            radius[:, None] * np.cos(around),
            radius[:, None] * np.sin(around),
            np.broadcast_to(height[:, None], (len(polar), SEGMENTS)),
        ],
        -1,
    ).reshape(-1, 3)
    apex = np.array([[0, 0, flat + (1 - DISH) * (EYE_RADIUS - flat)]])
    fan = np.stack([np.zeros(SEGMENTS, int), np.arange(SEGMENTS), (np.arange(SEGMENTS) + 1) % SEGMENTS], 1)
    fan[:, 1:] += 1
    faces = np.concatenate([fan, grid_faces(len(polar), SEGMENTS, wrap=True)[:, ::-1] + 1])
    row = np.concatenate([[0], np.repeat(np.arange(1, len(polar) + 1), SEGMENTS)])  # pupil edge is row 2, limbus row 5
    points = np.concatenate([apex, ring])
    regions = {
        "pupil": row <= 2,
        "iris": (row >= 2) & (row <= 5),
        "sclera": row >= 5,
        f"{side}_eye": np.ones(len(row), bool),
    }
    uv = 0.5 + 0.5 * points[:, :2] / EYE_RADIUS
    return Part(points + centre, faces, uv, regions)
