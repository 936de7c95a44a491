"""Small helpers of the painters: colours, soft steps, smooth noise, distances in the plane."""

from __future__ import annotations

import numpy as np
from numba import njit


def linear(*srgb: float) -> np.ndarray:
    """An sRGB colour 0..255 as linear RGB in [0, 1]."""
    c = np.asarray(srgb, np.float64) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def smoothstep(start: float, end: float, x: np.ndarray) -> np.ndarray:
    """0 before `start`, 1 after `end` (which may lie below `start`)."""
    t = np.clip((np.asarray(x) - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colours `a [N, 3]` moved towards `b` by `weight [N]`."""
    return a + (b - a) * np.clip(weight, 0, 1)[:, None]


def value_noise(points: np.ndarray, size: float, seed: int) -> np.ndarray:
    """Smooth noise of points `[N, 3]`, about -1..1, with lumps of `size` metres."""
    return _noise(np.ascontiguousarray(points, np.float64), size, np.uint64(seed * 2654435761 & 0xFFFFFFFF))


@njit(cache=True)
def _noise(points, size, seed):  # pragma: no cover - compiled
    out = np.empty(len(points))
    for n in range(len(points)):
        x, y, z = points[n, 0] / size + 1000.0, points[n, 1] / size + 1000.0, points[n, 2] / size + 1000.0
        i, j, k = int(x), int(y), int(z)
        x, y, z = x - i, y - j, z - k
        x, y, z = x * x * (3 - 2 * x), y * y * (3 - 2 * y), z * z * (3 - 2 * z)
        total = 0.0
        for corner in range(8):
            a, b, c = corner & 1, corner >> 1 & 1, corner >> 2
            weight = (x if a else 1 - x) * (y if b else 1 - y) * (z if c else 1 - z)
            h = np.uint64(i + a) * np.uint64(73856093) ^ np.uint64(j + b) * np.uint64(19349663)
            h = (h ^ np.uint64(k + c) * np.uint64(83492791) ^ seed) * np.uint64(0x9E3779B97F4A7C15)
            h = (h ^ h >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)
            total += weight * (np.float64((h ^ h >> np.uint64(32)) & np.uint64(0xFFFFFF)) / 0x7FFFFF - 1)
        out[n] = 1.5 * total
    return out


def inside_polygon(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Signed distance `[N]` of points `[N, 2]` to a closed polygon `[K, 2]`, positive inside."""
    start, end = polygon, np.roll(polygon, -1, 0)
    distance = np.full(len(points), np.inf)
    odd = np.zeros(len(points), bool)
    for a, b in zip(start, end, strict=True):
        distance = np.minimum(distance, _to_segment(points, a, b))
        crosses = (a[1] > points[:, 1]) != (b[1] > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            at = a[0] + (points[:, 1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
        odd ^= crosses & (points[:, 0] < at)
    return np.where(odd, distance, -distance)


def _to_segment(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    along = b - a
    t = np.clip((points - a) @ along / max(float(along @ along), 1e-18), 0, 1)
    return np.linalg.norm(points - (a + t[:, None] * along), axis=1)


def to_polyline(points: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance `[N]` of points `[N, D]` to an open line `[K, D]`, and how far along it (0..1) the nearest place is."""
    distance, place = np.full(len(points), np.inf), np.zeros(len(points))
    lengths = np.r_[0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))]
    for i in range(len(line) - 1):
        along = line[i + 1] - line[i]
        t = np.clip((points - line[i]) @ along / max(float(along @ along), 1e-18), 0, 1)
        away = np.linalg.norm(points - (line[i] + t[:, None] * along), axis=1)
        closer = away < distance
        distance[closer] = away[closer]
        place[closer] = (lengths[i] + t[closer] * (lengths[i + 1] - lengths[i])) / lengths[-1]
    return distance, place
