"""Face detection, and Face Mesh on a square crop (the window) that follows one face.

In: RGB frames and MediaPipe's legacy solutions (`landmarks.load_mediapipe`). Out: boxes and MediaPipe's 478 points in
frame pixels. Face Mesh finds only faces that fill a large part of its input, and its result depends on the crop's
position. So it gets a crop around the face, which stays fixed while the face is well inside and else moves in small
steps. A new face is processed several times until the landmarks no longer change.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from PIL import Image

MESH_INPUT = 192  # pixels, width and height of Face Mesh's input
MESH_MARGIN = 1.5  # side of Face Mesh's own crop over the longer side of the landmarks' bounding box
# Face Mesh's constant bias in pixels of its input, towards +x and +y of the upright face. Measured by comparing
# landmarks of 22 clips with those of the mirrored clips.
_MESH_BIAS = 0.36

_WINDOW_RATIO = 2.6  # side of a new window over the longer side of the face
_WINDOW_RATIO_RANGE = (1.7, 4.2)  # outside of this range of that ratio the window is resized
_MIN_MARGIN = 0.3  # fraction of the face's size: a face nearer to the window's edge than this moves the window
_MAX_STEP = 0.1  # fraction of the face's size: largest step of the window; Face Mesh loses the face at larger ones
_MAX_RUNS = 5  # most runs on one frame until the landmarks change by less than 0.1 % of the face's size
SAME_FACE = 0.3  # boxes that overlap by this or more belong to the same face

_MIN_SCORE_FAR = 0.6  # least score of the full-range detector; flat and blurred backgrounds reach 0.5
_MIN_SCORE_NEAR = 0.75  # of the short-range detector, for large faces; backgrounds reach 0.7
_DETECTOR_SIDE = 768  # pixels; larger pictures are reduced first: the detectors resize without smoothing
_SMALLEST_TILE = 900  # pixels; the full-range detector finds faces down to 1/20 of the tile

_DARK_LEVEL = 80.0  # of 255: a face whose bright parts are below this is brightened ...
_TARGET_LEVEL = 110.0  # ... to this. Landmarks in the dark are off by 1 % of the face's size; brightened, by 0.3 %
_BLACK_LEVEL = 3.0  # of 255: below this the picture counts as black and is not brightened
_MAX_GAIN = 24.0


@dataclass(frozen=True)
class Square:
    """A square crop with integer pixel coordinates; it may extend beyond the picture."""

    x: int
    y: int
    side: int

    @classmethod
    def around(cls, box: np.ndarray) -> Square:
        """The window for a face in the box `[4]` (left, top, right, bottom)."""
        side = max(round(_WINDOW_RATIO * size_of(box)), 32)
        x, y = (box[:2] + box[2:]) / 2 - side / 2
        return cls(round(float(x)), round(float(y)), side)

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """The square `[side, side, 3]`; outside the frame its edge pixels are repeated."""
        height, width = frame.shape[:2]
        if self.x == self.y == 0 and self.side == width == height:
            return frame
        left, top = min(max(-self.x, 0), self.side - 1), min(max(-self.y, 0), self.side - 1)
        x, y = min(max(self.x, 0), width - 1), min(max(self.y, 0), height - 1)
        part = frame[y : max(self.y + self.side, y + 1), x : max(self.x + self.side, x + 1)]
        out = np.empty((self.side, self.side, 3), np.uint8)
        part = part[: self.side - top, : self.side - left]
        bottom, right = top + part.shape[0], left + part.shape[1]
        out[top:bottom, left:right] = part
        out[top:bottom, :left], out[top:bottom, right:] = part[:, :1], part[:, -1:]
        out[:top], out[bottom:] = out[top], out[bottom - 1]
        return out


def box_of(points: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom `[4]` of points `[N, >= 2]`."""
    return np.concatenate([points[:, :2].min(0), points[:, :2].max(0)])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection area of two boxes over the area of the smaller one."""
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(shared / max(min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()), 1e-6))


def size_of(box: np.ndarray) -> float:
    """The longer side of a box."""
    return float(max(box[2] - box[0], box[3] - box[1]))


@contextmanager
def quiet() -> Iterator[None]:
    """Discards what C++ code writes to stderr: MediaPipe prints warnings that no setting turns off."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class FaceFinder:
    """Face detector for large and small faces. It holds MediaPipe graphs: call `close`."""

    def __init__(self, mediapipe: ModuleType):
        detection = mediapipe.solutions.face_detection
        with quiet():
            self._far = detection.FaceDetection(model_selection=1, min_detection_confidence=_MIN_SCORE_FAR)
            self._near = detection.FaceDetection(model_selection=0, min_detection_confidence=_MIN_SCORE_NEAR)
            for graph in (self._far, self._near):
                graph.process(np.zeros((MESH_INPUT, MESH_INPUT, 3), np.uint8))  # prints its warnings now

    def close(self) -> None:
        """Frees the graphs."""
        self._far.close()
        self._near.close()

    def find(self, frame: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Boxes `[4]` in pixels and their scores, the largest first; finds faces from 1/20 of the picture."""
        return _without_duplicates(
            self._detect(self._far, _MIN_SCORE_FAR, frame) or self._detect(self._near, _MIN_SCORE_NEAR, frame)
        )

    def find_small(self, frame: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """The same for smaller faces: runs the detector on overlapping tiles of the picture, which takes longer."""
        height, width = frame.shape[:2]
        for side in _tile_sides(width, height):
            found = []
            for y in _tile_starts(height, side):
                for x in _tile_starts(width, side):
                    part = frame[y : y + side, x : x + side]
                    found += [(box + (x, y) * 2, score) for box, score in self._detect(self._far, _MIN_SCORE_FAR, part)]
            if found:
                return _without_duplicates(found)
        return []

    @staticmethod
    def _detect(graph, sure: float, picture: np.ndarray) -> list[tuple[np.ndarray, float]]:
        height, width = picture.shape[:2]
        shrink = max(width, height) // _DETECTOR_SIDE
        if shrink > 1:
            picture = np.asarray(Image.fromarray(picture).reduce(shrink))
        level = float(np.percentile(picture[::4, ::4].max(2), 95))
        picture = _brightened(picture, _gain_for(level))
        found = []
        for detection in graph.process(np.ascontiguousarray(picture)).detections or ():
            area = detection.location_data.relative_bounding_box
            corners = (area.xmin, area.ymin, area.xmin + area.width, area.ymin + area.height)
            if detection.score[0] >= sure:  # the graph's own threshold is not strict
                found.append((np.array(corners) * ((width, height) * 2), float(detection.score[0])))
        return found


def _without_duplicates(found: list[tuple[np.ndarray, float]]) -> list[tuple[np.ndarray, float]]:
    """Non-maximum suppression: one box per face, the largest first."""
    kept: list[tuple[np.ndarray, float]] = []
    for box, score in sorted(found, key=lambda item: -item[1]):
        if all(overlap(box, other) < SAME_FACE for other, _ in kept):
            kept.append((box, score))
    return sorted(kept, key=lambda item: -size_of(item[0]))


def _tile_sides(width: int, height: int) -> list[int]:
    shorter = min(width, height)
    sides = [shorter] if max(width, height) >= 1.2 * shorter else []
    while shorter / 2 >= _SMALLEST_TILE:
        shorter //= 2
        sides.append(shorter)
    return sides


def _tile_starts(length: int, side: int) -> list[int]:
    """Start positions of tiles that overlap by at least half and cover the whole length."""
    count = 1 + math.ceil((length - side) / (side / 2))
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]


def _gain_for(level: float) -> float:
    """Brightness factor for a picture whose bright parts have this level (of 255)."""
    return 1.0 if level >= _DARK_LEVEL or level < _BLACK_LEVEL else min(_TARGET_LEVEL / level, _MAX_GAIN)


def _brightened(picture: np.ndarray, gain: float) -> np.ndarray:
    if gain == 1.0:
        return picture
    return np.minimum(np.arange(256) * gain + 0.5, 255).astype(np.uint8)[picture]


class FaceWindow:
    """Face Mesh on a crop around one face. It holds a MediaPipe graph: call `close`.

    Attributes:
        box: `[4]` of the face in the latest frame, None if the face is lost.
        last_box: the latest box that was found.
        square: the current crop.
        picture: `[side, side, 3]` the latest input of Face Mesh.
    """

    def __init__(self, mediapipe: ModuleType):
        with quiet():
            self._mesh = mediapipe.solutions.face_mesh.FaceMesh(max_num_faces=1, refine_landmarks=True)
            self._mesh.process(np.zeros((MESH_INPUT, MESH_INPUT, 3), np.uint8))  # prints its warnings now
        self.box: np.ndarray | None = None
        self.last_box: np.ndarray | None = None
        self.square: Square | None = None
        self.picture: np.ndarray | None = None
        self._gain = 1.0

    def close(self) -> None:
        """Frees the graph."""
        self._mesh.close()

    def begin(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """Landmarks `[478, 3]` of the face in a box from `FaceFinder`; None if Face Mesh finds no face there."""
        self.square, self._gain = Square.around(box), _gain_for(_face_level(frame, box))
        with quiet():
            self._mesh.reset()
            points = self._run_until_stable(frame)
        if points is None or overlap(box_of(points), box) < SAME_FACE:
            self.lose()
            return None
        self.box = self.last_box = box_of(points)
        return self._adjusted(frame, points)

    def follow(self, frame: np.ndarray) -> np.ndarray | None:
        """Landmarks `[478, 3]` of the same face in the next frame; None if it is lost."""
        points = self._run_mesh(frame)
        if points is None:  # the graph lost the face; another run detects it anew in the window
            points = self._run_until_stable(frame)
            if points is None or overlap(box_of(points), self.box) < SAME_FACE:
                self.lose()
                return None
        self.box = self.last_box = box_of(points)
        return self._adjusted(frame, points)

    def lose(self) -> None:
        """Marks the face as lost."""
        self.box = None

    def _adjusted(self, frame: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The landmarks; window and brightness are first adjusted to the face if they no longer fit it."""
        moved = None
        if not self._window_fits(frame.shape[1], frame.shape[0]):
            moved = self._move_window(frame, Square.around(self.box))
        gain = _gain_for(_face_level(frame, self.box))
        if not 1 / 1.5 < gain / self._gain < 1.5:  # hysteresis: brightness changes cause jitter
            self._gain = gain
            moved = self._run_until_stable(frame)
        if moved is not None:
            points, self.box = moved, box_of(moved)
            self.last_box = self.box
        return points

    def _window_fits(self, width: int, height: int) -> bool:
        square, size = self.square, size_of(self.box)
        if not _WINDOW_RATIO_RANGE[0] <= square.side / size <= _WINDOW_RATIO_RANGE[1]:
            return False
        inside = (self.box[0] - square.x, self.box[1] - square.y)
        inside += (square.x + square.side - self.box[2], square.y + square.side - self.box[3])
        # A side of the window that lies on or beyond the picture's edge needs no margin.
        beyond = (square.x <= 0, square.y <= 0, square.x + square.side >= width, square.y + square.side >= height)
        return all(done or room >= _MIN_MARGIN * size for done, room in zip(beyond, inside))

    def _move_window(self, frame: np.ndarray, target: Square) -> np.ndarray | None:
        """Moves the window in small steps, running Face Mesh on this frame at each: it keeps the face's position
        relative to its input between runs, so that one large step would make it lose the face."""
        start = self.square
        way = max(abs(target.x - start.x), abs(target.y - start.y)) / size_of(self.box)
        zoom = abs(math.log(target.side / start.side))
        steps = min(max(math.ceil(way / _MAX_STEP), math.ceil(zoom / _MAX_STEP), 1), 30)
        for i in range(1, steps + 1):
            share = i / steps
            side = start.side * (target.side / start.side) ** share
            x, y = start.x + share * (target.x - start.x), start.y + share * (target.y - start.y)
            self.square = Square(round(x), round(y), round(side)) if i < steps else target
            self._run_mesh(frame)
        return self._run_until_stable(frame)

    def _run_until_stable(self, frame: np.ndarray) -> np.ndarray | None:
        """Runs Face Mesh on this frame until the landmarks no longer change."""
        points = None
        for _ in range(_MAX_RUNS):
            last, points = points, self._run_mesh(frame)
            if last is not None and points is not None:
                if np.abs(points - last)[:, :2].mean() < 1e-3 * size_of(box_of(points)):
                    break
        return points

    def _run_mesh(self, frame: np.ndarray) -> np.ndarray | None:
        square = self.square
        self.picture = np.ascontiguousarray(_brightened(square.cut(frame), self._gain))
        faces = self._mesh.process(self.picture).multi_face_landmarks
        if not faces:
            return None
        points = np.array([(p.x, p.y, p.z) for p in faces[0].landmark]) * square.side
        # In MediaPipe pixel centres are at integers, here at +0.5. Face Mesh's constant bias is subtracted as well.
        along = points[263, :2] - points[33, :2]  # between the outer corners of the eyes
        along = along / max(float(np.hypot(*along)), 1e-6)
        bias = _MESH_BIAS * MESH_MARGIN / MESH_INPUT * size_of(box_of(points))
        points[:, 0] += square.x + 0.5 - bias * (along[0] - along[1])
        points[:, 1] += square.y + 0.5 - bias * (along[0] + along[1])
        return points.astype(np.float32)


def _face_level(frame: np.ndarray, box: np.ndarray) -> float:
    """Brightness (0..255) of the bright parts of the face in a box: the 90th percentile."""
    left, top, right, bottom = (round(float(v)) for v in np.clip(box, 0, None))
    part = frame[top:bottom:4, left:right:4]
    return float(np.percentile(part.max(2), 90)) if part.size else 255.0


__all__ = ["SAME_FACE", "FaceFinder", "FaceWindow", "Square", "box_of", "overlap", "quiet", "size_of"]
