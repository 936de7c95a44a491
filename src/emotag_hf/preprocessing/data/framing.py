"""The crop of a clip: one window for all frames, framed as usual in talking-head data.

In: the landmarks over the source. Out: a `FrameCrop`. The face takes half of the window's height, a little below its
middle, so that it contains hair, neck and some shoulder. The window never leaves the frame.
"""

from __future__ import annotations

import numpy as np

from ...video.cropping import FrameCrop
from ..tracking.head_track import FaceLandmarks

FACE_HEIGHT = 0.5  # of the window: forehead to chin as MediaPipe's points span it; published clips have 0.48 to 0.57
FACE_CENTRE = 0.54  # of the window's height, from the top; published clips have 0.51 to 0.57
_LARGE_FACE = 0.4  # of the frame's shorter side; such a clip is not cropped
_ROOM = (0.7, 0.75)  # share of the window's width and height that the face's whole motion may fill
_OUTLIERS = 0.02  # of the frames on each side, which may be wrong
_FEW_PIXELS = 0.6  # source pixels per pixel of the clip, below which there is a warning


def choose_crop(landmarks: FaceLandmarks, size: int, crop: str = "face") -> tuple[FrameCrop, list[str]]:
    """Chooses the window; also returns warnings.

    Args:
        landmarks: in pixels of the upright source picture; a face in at least one frame.
        size: pixels of the clip's shorter side, even.
        crop: `"face"` for a square around the face; `"whole"` for the whole frame.

    A source whose face is large already is used as it is if it is square, else cropped to a square of its full height
    (or width).
    """
    width, height = landmarks.width, landmarks.height
    if crop == "whole":
        window = FrameCrop.whole(width, height, round(size * max(1.0, width / height)))
    else:
        window = _around_the_face(landmarks, size)
    warnings = []
    if window.window_height < _FEW_PIXELS * window.height:
        warnings.append(
            f"The source shows the face on {window.window_width:.0f}x{window.window_height:.0f} pixels; the clip's "
            f"{window.width}x{window.height} are not more than that. Record closer, or in a higher resolution."
        )
    return window, warnings


def _around_the_face(landmarks: FaceLandmarks, size: int) -> FrameCrop:
    points = landmarks.points[landmarks.found][..., :2]
    low, high = points.min(1), points.max(1)
    left, top = np.quantile(low, _OUTLIERS, axis=0)
    right, bottom = np.quantile(high, 1 - _OUTLIERS, axis=0)
    face_height = float(np.median(high[:, 1] - low[:, 1]))
    shorter = min(landmarks.width, landmarks.height)
    side = max(face_height / FACE_HEIGHT, (right - left) / _ROOM[0], (bottom - top) / _ROOM[1])
    if face_height >= _LARGE_FACE * shorter:
        side = shorter
    side = float(min(round(side), shorter))
    centre_x, centre_y = (left + right) / 2, (top + bottom) / 2 + (0.5 - FACE_CENTRE) * side
    x = min(max(round(centre_x - side / 2), 0), landmarks.width - side)
    y = min(max(round(centre_y - side / 2), 0), landmarks.height - side)
    return FrameCrop(float(x), float(y), side, side, size, size, landmarks.width, landmarks.height)


__all__ = ["choose_crop"]
