"""Finding faces in a picture and following one of them in a square window of its own.

In: RGB frames and MediaPipe's legacy solutions (`landmarks.load_mediapipe`). Out: boxes and MediaPipe's 478 points in
frame pixels. Face Mesh looks only for faces that fill a good part of its picture, and starts anew from a box that is a
few pixels off; so it gets a window around the face, which stands still while the face stays well inside, walks in small
steps when it must move, and shows a new face several times until the points have settled.
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

MESH_INPUT = 192  # pixels each way: what Face Mesh sees
MESH_MARGIN = 1.5  # the side of what it sees over the longer side of the points' box
# Found by showing mirrored pictures (22 clips): the points lie this many of its pixels too far along its own axes.
_MESH_BIAS = 0.36

_ZOOM = 2.6  # side of the window over the longer side of the face
_ZOOM_RANGE = (1.7, 4.2)  # outside of it the window changes its size
_KEEP = 0.3  # of the face: nearer to the window's edge than this, the window moves
_STRIDE = 0.1  # of the face: the window's step when it moves, small enough for Face Mesh to follow
_SETTLED = 5  # showings of one frame until the points stand still within 0.1 % of the face
SAME_FACE = 0.3  # overlap of two boxes of one face

_SURE = 0.6  # score of the full-range detector; flat and blurred backgrounds reach 0.5
_SURE_NEAR = 0.75  # of the short-range detector, which is for faces that fill the picture; backgrounds reach 0.7
_DETECTOR_SIDE = 768  # pixels; the detectors shrink to 192 without smoothing
_SMALLEST_TILE = 900  # pixels; the full-range detector sees faces down to a twentieth of the tile

_DARK = 80.0  # of 255: below this the bright parts of a face are raised ...
_LIT = 110.0  # ... to this: in the dark, points are 1 % of the face off, raised 0.3 %
_BLACK = 3.0  # there is nothing to raise
_MAX_GAIN = 24.0


@dataclass(frozen=True)
class Square:
    """A square of whole pixels; it may reach beyond the picture."""

    x: int
    y: int
    side: int

    @classmethod
    def around(cls, box: np.ndarray) -> Square:
        """The window for a face in the box `[4]` (left, top, right, bottom)."""
        side = max(round(_ZOOM * size_of(box)), 32)
        x, y = (box[:2] + box[2:]) / 2 - side / 2
        return cls(round(float(x)), round(float(y)), side)

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """The square `[side, side, 3]`; what lies outside of the frame repeats its edge."""
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
    """Shared area of two boxes over the area of the smaller one."""
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(shared / max(min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()), 1e-6))


def size_of(box: np.ndarray) -> float:
    """The longer side of a box."""
    return float(max(box[2] - box[0], box[3] - box[1]))


@contextmanager
def quiet() -> Iterator[None]:
    """Sends what C++ writes to stderr nowhere: MediaPipe greets with warnings that no setting silences."""
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
    """Boxes of all faces of a picture, large and small. Holds MediaPipe graphs: close it."""

    def __init__(self, mediapipe: ModuleType):
        detection = mediapipe.solutions.face_detection
        with quiet():
            self._far = detection.FaceDetection(model_selection=1, min_detection_confidence=_SURE)
            self._near = detection.FaceDetection(model_selection=0, min_detection_confidence=_SURE_NEAR)
            for graph in (self._far, self._near):
                graph.process(np.zeros((MESH_INPUT, MESH_INPUT, 3), np.uint8))  # says what it has to say

    def close(self) -> None:
        """Frees the graphs."""
        self._far.close()
        self._near.close()

    def find(self, frame: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Boxes `[4]` in pixels and their scores, the largest first: faces from a twentieth of the picture up."""
        return _distinct(self._look(self._far, _SURE, frame) or self._look(self._near, _SURE_NEAR, frame))

    def find_small(self, frame: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """The same for smaller faces: looks into overlapping parts of the picture, which takes longer."""
        height, width = frame.shape[:2]
        for side in _tile_sides(width, height):
            found = []
            for y in _tile_starts(height, side):
                for x in _tile_starts(width, side):
                    part = frame[y : y + side, x : x + side]
                    found += [(box + (x, y) * 2, score) for box, score in self._look(self._far, _SURE, part)]
            if found:
                return _distinct(found)
        return []

    @staticmethod
    def _look(graph, sure: float, picture: np.ndarray) -> list[tuple[np.ndarray, float]]:
        height, width = picture.shape[:2]
        shrink = max(width, height) // _DETECTOR_SIDE
        if shrink > 1:
            picture = np.asarray(Image.fromarray(picture).reduce(shrink))
        level = float(np.percentile(picture[::4, ::4].max(2), 95))
        picture = _raised(picture, _gain_for(level))
        found = []
        for detection in graph.process(np.ascontiguousarray(picture)).detections or ():
            area = detection.location_data.relative_bounding_box
            corners = (area.xmin, area.ymin, area.xmin + area.width, area.ymin + area.height)
            if detection.score[0] >= sure:  # the graph's own threshold lets some pass
                found.append((np.array(corners) * ((width, height) * 2), float(detection.score[0])))
        return found


def _distinct(found: list[tuple[np.ndarray, float]]) -> list[tuple[np.ndarray, float]]:
    """One box for each face, the largest first."""
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
    """Starts of tiles that overlap by half or more, from one end to the other."""
    count = 1 + math.ceil((length - side) / (side / 2))
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]


def _gain_for(level: float) -> float:
    """By what to multiply a picture whose bright parts have this level (of 255)."""
    return 1.0 if level >= _DARK or level < _BLACK else min(_LIT / level, _MAX_GAIN)


def _raised(picture: np.ndarray, gain: float) -> np.ndarray:
    if gain == 1.0:
        return picture
    return np.minimum(np.arange(256) * gain + 0.5, 255).astype(np.uint8)[picture]


class FaceWindow:
    """Face Mesh on one face. Holds a MediaPipe graph: close it.

    Attributes:
        box: `[4]` of the face in the last frame, None if it is lost.
        last_box: the last one it had.
        square: where the window stands.
        picture: `[side, side, 3]` what Face Mesh saw last.
    """

    def __init__(self, mediapipe: ModuleType):
        with quiet():
            self._mesh = mediapipe.solutions.face_mesh.FaceMesh(max_num_faces=1, refine_landmarks=True)
            self._mesh.process(np.zeros((MESH_INPUT, MESH_INPUT, 3), np.uint8))  # says what it has to say
        self.box: np.ndarray | None = None
        self.last_box: np.ndarray | None = None
        self.square: Square | None = None
        self.picture: np.ndarray | None = None
        self._gain = 1.0

    def close(self) -> None:
        """Frees the graph."""
        self._mesh.close()

    def begin(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """Points `[478, 3]` of the face in a box that `FaceFinder` found; None if there is none after all."""
        self.square, self._gain = Square.around(box), _gain_for(_level(frame, box))
        with quiet():
            self._mesh.reset()
            points = self._settle(frame)
        if points is None or overlap(box_of(points), box) < SAME_FACE:
            self.lose()
            return None
        self.box = self.last_box = box_of(points)
        return self._recentred(frame, points)

    def follow(self, frame: np.ndarray) -> np.ndarray | None:
        """Points `[478, 3]` of the same face in the next frame; None if it is lost."""
        points = self._see(frame)
        if points is None:  # the graph has let go; shown again, it looks for a face in the window
            points = self._settle(frame)
            if points is None or overlap(box_of(points), self.box) < SAME_FACE:
                self.lose()
                return None
        self.box = self.last_box = box_of(points)
        return self._recentred(frame, points)

    def lose(self) -> None:
        """Forgets where the face is."""
        self.box = None

    def _recentred(self, frame: np.ndarray, points: np.ndarray) -> np.ndarray:
        """The points, after window and brightness have been put right if they no longer suit the face."""
        moved = None
        if not self._suits(frame.shape[1], frame.shape[0]):
            moved = self._walk(frame, Square.around(self.box))
        gain = _gain_for(_level(frame, self.box))
        if not 1 / 1.5 < gain / self._gain < 1.5:  # hysteresis: a window that flickers would make the points flicker
            self._gain = gain
            moved = self._settle(frame)
        if moved is not None:
            points, self.box = moved, box_of(moved)
            self.last_box = self.box
        return points

    def _suits(self, width: int, height: int) -> bool:
        square, size = self.square, size_of(self.box)
        if not _ZOOM_RANGE[0] <= square.side / size <= _ZOOM_RANGE[1]:
            return False
        inside = (self.box[0] - square.x, self.box[1] - square.y)
        inside += (square.x + square.side - self.box[2], square.y + square.side - self.box[3])
        # Beyond the edge of the picture there is nothing to look at.
        beyond = (square.x <= 0, square.y <= 0, square.x + square.side >= width, square.y + square.side >= height)
        return all(done or room >= _KEEP * size for done, room in zip(beyond, inside))

    def _walk(self, frame: np.ndarray, target: Square) -> np.ndarray | None:
        """Moves the window in steps that Face Mesh can follow, all of them on this frame: its memory is in fractions
        of the window, and one jump would show it the wrong place."""
        start = self.square
        way = max(abs(target.x - start.x), abs(target.y - start.y)) / size_of(self.box)
        zoom = abs(math.log(target.side / start.side))
        steps = min(max(math.ceil(way / _STRIDE), math.ceil(zoom / _STRIDE), 1), 30)
        for i in range(1, steps + 1):
            share = i / steps
            side = start.side * (target.side / start.side) ** share
            x, y = start.x + share * (target.x - start.x), start.y + share * (target.y - start.y)
            self.square = Square(round(x), round(y), round(side)) if i < steps else target
            self._see(frame)
        return self._settle(frame)

    def _settle(self, frame: np.ndarray) -> np.ndarray | None:
        """The points after the frame has been shown until they stand still."""
        points = None
        for _ in range(_SETTLED):
            last, points = points, self._see(frame)
            if last is not None and points is not None:
                if np.abs(points - last)[:, :2].mean() < 1e-3 * size_of(box_of(points)):
                    break
        return points

    def _see(self, frame: np.ndarray) -> np.ndarray | None:
        square = self.square
        self.picture = np.ascontiguousarray(_raised(square.cut(frame), self._gain))
        faces = self._mesh.process(self.picture).multi_face_landmarks
        if not faces:
            return None
        points = np.array([(p.x, p.y, p.z) for p in faces[0].landmark]) * square.side
        # MediaPipe counts from the middle of a pixel, here pixel centres lie at +0.5; the rest is its mesh's own bias.
        along = points[263, :2] - points[33, :2]  # between the outer corners of the eyes
        along = along / max(float(np.hypot(*along)), 1e-6)
        bias = _MESH_BIAS * MESH_MARGIN / MESH_INPUT * size_of(box_of(points))
        points[:, 0] += square.x + 0.5 - bias * (along[0] - along[1])
        points[:, 1] += square.y + 0.5 - bias * (along[0] + along[1])
        return points.astype(np.float32)


def _level(frame: np.ndarray, box: np.ndarray) -> float:
    """Of 255: how bright the bright parts of the face in a box are."""
    left, top, right, bottom = (round(float(v)) for v in np.clip(box, 0, None))
    part = frame[top:bottom:4, left:right:4]
    return float(np.percentile(part.max(2), 90)) if part.size else 255.0


__all__ = ["SAME_FACE", "FaceFinder", "FaceWindow", "Square", "box_of", "overlap", "quiet", "size_of"]
