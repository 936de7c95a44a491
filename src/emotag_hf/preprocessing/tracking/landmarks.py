"""Landmark detection: frames in, MediaPipe's 478 landmarks of one face out (the first step of tracking).

The models of the legacy Face Mesh (468 points and two irises) and of its face detectors are part of the `mediapipe`
wheel, so nothing is downloaded. Every candidate face is tracked in a crop of its own (`face_window`). At the end one is
selected: the one asked for, or the largest over time. With a `face_landmarker.task` there are 52 blendshapes as well.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections import deque
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from ...utils.import_utils import require_package
from ...video.video_reader import single_photo
from .face_window import SAME_FACE, FaceFinder, FaceWindow, box_of, overlap, quiet, size_of
from .head_track import NUM_POINTS, FaceLandmarks
from .setup import INSTALL, MODEL_NAME, find_face_landmarker

logger = logging.getLogger(__name__)

NUM_BLENDSHAPES = 52
_DETECT_EVERY = 5  # frames between two detections of further faces
_SEARCH_FRAMES = 50  # frames for which a lost face is searched in every frame
_PAST_BYTES = 64 << 20  # memory for past frames, which are kept to track backwards
_MAX_FACES = 4  # tracked at once
_MIN_CANDIDATE_SIZE = 0.5  # fraction of the largest face's size: smaller faces are counted and not tracked
_MIN_COUNTED_SCORE = 0.7  # least detector score of a face that is counted and not tracked
_MIN_COUNTED_SIZE = 0.25  # fraction of the largest face's size: smaller faces (such as pictures on a wall) are ignored
_DUPLICATE_OVERLAP = 0.6  # two windows whose boxes overlap by this or more track the same face
_STILL = 10.0  # of 255: smaller changes of a 64x64 thumbnail may come from the video encoder
_STILL_FACE = 0.04  # fraction of the face's size: smaller movements of landmarks may be jitter


class NoFaceError(ValueError):
    """No frame shows a face that can be tracked; the message says what to do."""


def load_mediapipe() -> ModuleType:
    """Imports MediaPipe without its log output. Raises ImportError with the line that installs it."""
    os.environ.setdefault("GLOG_minloglevel", "3")  # read by its C++ code at import
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return require_package("mediapipe", install=INSTALL)


def check_mediapipe() -> None:
    """Runs Face Mesh once and raises if it fails. `emotag setup tracking` calls it in a new process."""
    window = FaceWindow(load_mediapipe())
    window.begin(np.zeros((64, 64, 3), np.uint8), np.array([16.0, 16.0, 48.0, 48.0]))
    window.close()


def track_landmarks(
    frames: Iterable[np.ndarray],
    width: int,
    height: int,
    *,
    fps: float = 25.0,
    face: int | None = None,
    face_landmarker: str | os.PathLike | None = None,
) -> FaceLandmarks:
    """Finds one face in every frame.

    Args:
        frames: RGB frames `[height, width, 3]` uint8 in order; read once.
        width, height: their size in pixels.
        fps: frames per second.
        face: which face, counted from the left (1, 2, ...) in the first frame with at least that many faces; None
            selects the largest one (median over its frames).
        face_landmarker: MediaPipe's face_landmarker.task, for blendshapes. Without it the file named by
            EMOTAG_FACE_LANDMARKER, or the copy that `emotag setup tracking` downloaded. With none of them there are no
            blendshapes.

    Returns:
        The landmarks in pixels of these frames. Where the face is not found, `found` is False and the points are
        NaN; blendshapes can be NaN in some more frames, where their model does not find the face.

    Raises:
        NoFaceError: no face in any frame.
        ValueError: frames of another shape, no frame, a single one or a still picture; fewer faces than `face`; a
            face_landmarker that is another kind of file.
        FileNotFoundError: face_landmarker does not exist.
        ImportError: MediaPipe is not installed; the message says how to install it.
    """
    if face is not None and (isinstance(face, bool) or face != int(face) or face < 1):
        raise ValueError(f"face: expected a whole number from 1 on, counted from the left, got {face}.")
    mediapipe = load_mediapipe()
    model = find_face_landmarker(face_landmarker)
    if model is not None:
        _Blendshapes(mediapipe, model, fps).close()  # an unsuitable file raises before any frame is processed
    still = StillCheck()
    with _FaceTracks(mediapipe, model, fps, face) as tracks:
        for frame in frames:
            if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
                raise ValueError(
                    f"frames: expected uint8 arrays of shape ({height}, {width}, 3), got {frame.dtype} {frame.shape}."
                )
            still.add(frame)
            tracks.look(frame)
        count = len(tracks.num_faces)
        if count == 0:
            raise ValueError("frames: expected at least two frames of a video, got none.")
        track = tracks.chosen()
        if still.is_still and track.is_still:
            raise ValueError(single_photo("one frame" if count == 1 else f"all {count} frames show the same picture"))
        found = track.result(count, width, height, fps, np.array(tracks.num_faces, np.int32))
    for sentence in face_warnings(found, face):
        logger.warning(sentence)
    return found


def face_warnings(landmarks: FaceLandmarks, face: int | None = None) -> list[str]:
    """Warnings about the number of faces, one sentence each."""
    several = landmarks.num_faces > 1
    if several.sum() < 2 * _DETECT_EVERY:  # a false detection lasts until the next one
        return []
    which = f"face {face} from the left" if face else "the largest one"
    return [
        f"{landmarks.num_faces.max()} faces are in the picture (first at {np.argmax(several) / landmarks.fps:.1f} s); "
        f"{which} was followed" + ("." if face else ", `face` chooses another, counted from the left.")
    ]


class StillCheck:
    """Whether all frames show the same picture, apart from encoding artefacts."""

    def __init__(self) -> None:
        self.is_still = True
        self._first: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        """Compares the next frame `[H, W, 3]` uint8 with the first; skipped once a difference was found."""
        if not self.is_still:
            return
        small = Image.fromarray(frame).resize((64, 64), Image.Resampling.BOX).convert("L")
        thumbnail = np.asarray(small, np.float32)
        if self._first is None:
            self._first = thumbnail
        elif np.abs(thumbnail - self._first).max() > _STILL:
            self.is_still = False


class _FaceTrack:
    """The track of one face: its landmarks and blendshapes by frame."""

    def __init__(self, mediapipe: ModuleType, model: Path | None, fps: float):
        self.window = FaceWindow(mediapipe)
        self._blendshapes = None if model is None else _Blendshapes(mediapipe, model, fps)
        self.points: dict[int, np.ndarray] = {}
        self.shapes: dict[int, np.ndarray] = {}
        self.since = 0  # first frame of the current uninterrupted run
        self.last_seen = -1

    def close(self) -> None:
        self.window.close()
        if self._blendshapes is not None:
            self._blendshapes.close()

    @property
    def box(self) -> np.ndarray | None:
        return self.window.box

    @property
    def size(self) -> float:
        """Median over its frames of the longer side of its box, in pixels."""
        return float(np.median([np.ptp(points[:, :2], axis=0).max() for points in self.points.values()]))

    @property
    def is_still(self) -> bool:
        """Whether no landmark moved; a thumbnail does not show a small mouth that talks in a large picture."""
        first, limit = next(iter(self.points.values())), _STILL_FACE * self.size
        return all(np.abs(points - first)[:, :2].max() < limit for points in self.points.values())

    def begin(self, frame: np.ndarray, index: int, box: np.ndarray) -> bool:
        self.since = index
        return self._keep(index, self.window.begin(frame, box))

    def follow(self, frame: np.ndarray, index: int) -> bool:
        return self._keep(index, self.window.follow(frame))

    def _keep(self, index: int, points: np.ndarray | None) -> bool:
        if points is None:
            return False
        self.points[index] = points
        self.last_seen = max(self.last_seen, index)
        if self._blendshapes is not None:
            shapes = self._blendshapes.read(self.window)
            if shapes is not None:
                self.shapes[index] = shapes
        return True

    def track_backwards(
        self, frame: np.ndarray, index: int, past: Iterable[tuple[int, np.ndarray]], others: list
    ) -> None:
        """Tracks backwards from the frame of the first detection through earlier frames (the latest first): tracking
        works in profile views that the detector misses. Then starts again at that frame."""
        for before, picture in past:
            if before in self.points or not self.follow(picture, before):
                break
            theirs = [other.points[before] for other in others if before in other.points]
            if any(overlap(self.box, box_of(points)) >= _DUPLICATE_OVERLAP for points in theirs):
                self.forget(before)
                break
        self.begin(frame, index, box_of(self.points[index]))

    def forget(self, index: int) -> None:
        """Removes a frame, because the window showed another face."""
        self.points.pop(index, None)
        self.shapes.pop(index, None)
        self.window.lose()

    def result(self, count: int, width: int, height: int, fps: float, num_faces: np.ndarray) -> FaceLandmarks:
        points = np.full((count, NUM_POINTS, 3), np.nan, np.float32)
        for index, value in self.points.items():
            points[index] = value
        shapes = None
        if self._blendshapes is not None:
            shapes = np.full((count, NUM_BLENDSHAPES), np.nan, np.float32)
            for index, value in self.shapes.items():
                shapes[index] = value
        found = np.isfinite(points[:, 0, 0])
        return FaceLandmarks(
            points=points,
            found=found,
            num_faces=np.maximum(num_faces, found),
            width=width,
            height=height,
            fps=fps,
            blendshapes=shapes,
            blendshape_names=() if self._blendshapes is None else self._blendshapes.names,
        )


class _FaceTracks:
    """Tracks of all faces of a clip. A context manager: MediaPipe holds resources.

    The face detector runs on the whole picture every few frames; in between, each face is tracked in its window. A lost
    face is resumed at a detection near its last position, or anywhere if there has only been one face.
    """

    def __init__(self, mediapipe: ModuleType, model: Path | None, fps: float, face: int | None):
        self._make = lambda: _FaceTrack(mediapipe, model, fps)
        self._finder = FaceFinder(mediapipe)
        self._face, self._picked = face, None
        self._tracks: list[_FaceTrack] = []
        self._unused: _FaceTrack | None = None  # created for a false detection, reused for the next one
        self._others = 0  # faces that are counted and not tracked
        self._most = 0  # largest number of faces in one frame
        self._past: deque[tuple[int, np.ndarray]] = deque()  # recent frames in which a face may have been missed
        self.num_faces: list[int] = []

    def __enter__(self) -> _FaceTracks:
        return self

    def __exit__(self, *error) -> None:
        self._finder.close()
        for track in [*self._tracks, *([self._unused] if self._unused else [])]:
            track.close()

    def look(self, frame: np.ndarray) -> None:
        """Processes the next frame."""
        index = len(self.num_faces)
        for track in self._tracks:
            if track.box is not None:
                track.follow(frame, index)
        self._drop_duplicates(index)
        lost = [track for track in self._tracks if track.box is None]
        is_check = index % _DETECT_EVERY == 0
        if is_check or not self._tracks or any(index - track.last_seen <= _SEARCH_FRAMES for track in lost):
            self._search(frame, index, is_check)
        self._keep_past_frame(frame, index)
        seen = [track for track in self._tracks if track.box is not None]
        self.num_faces.append(len(seen) + self._others)
        self._most = max(self._most, len(seen))
        if self._face is not None and self._picked is None and len(seen) >= self._face:
            self._picked = sorted(seen, key=lambda track: track.box[0] + track.box[2])[self._face - 1]

    def _keep_past_frame(self, frame: np.ndarray, index: int) -> None:
        """Keeps the frame if it may show a face that is detected later."""
        if self._tracks and all(track.box is not None for track in self._tracks):
            self._past.clear()
            return
        self._past.append((index, frame.copy()))
        while len(self._past) > min(_SEARCH_FRAMES, max(_PAST_BYTES // frame.nbytes, 1)):
            self._past.popleft()

    def _search(self, frame: np.ndarray, index: int, is_check: bool) -> None:
        """Runs the detector to resume lost faces and, if `is_check`, to find new ones."""
        boxes = [track.box for track in self._tracks if track.box is not None]
        self._others = 0
        self._assign(self._finder.find(frame), boxes, frame, index, is_check)
        if is_check and not boxes:
            self._assign(self._finder.find_small(frame), boxes, frame, index, is_check)

    def _assign(self, found: list, boxes: list, frame: np.ndarray, index: int, is_check: bool) -> None:
        """Starts or resumes a track for each detection, or counts it; adds the tracked ones to `boxes`."""
        for box, score in found:
            if any(overlap(box, other) >= SAME_FACE for other in boxes):
                continue
            track = self._lost_track_near(box)
            if track is None and (is_check or not self._tracks):
                track = self._new_track(box, boxes)
            if track is None:
                largest = max((size_of(other) for other in boxes), default=0.0)
                self._others += score >= _MIN_COUNTED_SCORE and size_of(box) >= _MIN_COUNTED_SIZE * largest
            elif track.begin(frame, index, box):
                if track is self._unused:
                    self._tracks.append(track)
                    self._unused = None
                if self._past:
                    others = [other for other in self._tracks if other is not track]
                    track.track_backwards(frame, index, reversed(self._past), others)
                boxes.append(box_of(track.points[index]))

    def _lost_track_near(self, box: np.ndarray) -> _FaceTrack | None:
        """The lost track that a detection belongs to: the nearest within range, or the only one there is."""
        lost = [track for track in self._tracks if track.box is None]
        if len(self._tracks) == 1 and lost:
            return lost[0]
        near = [(np.abs(track.window.last_box - box).max(), track) for track in lost]
        near = [(far, track) for far, track in near if far <= 2 * size_of(box)]
        return min(near, key=lambda item: item[0])[1] if near else None

    def _new_track(self, box: np.ndarray, boxes: list[np.ndarray]) -> _FaceTrack | None:
        """A new track, added to the others if Face Mesh finds a face in the box."""
        if len(self._tracks) >= max(_MAX_FACES, self._face or 0):
            return None
        if self._face is None and size_of(box) < _MIN_CANDIDATE_SIZE * max(
            (size_of(other) for other in boxes), default=0.0
        ):
            return None
        self._unused = self._unused or self._make()
        return self._unused

    def _drop_duplicates(self, index: int) -> None:
        """If two windows track the same face, the one with the longer uninterrupted run keeps it."""
        seen = sorted((track for track in self._tracks if track.box is not None), key=lambda track: track.since)
        for i, track in enumerate(seen):
            if any(other.box is not None and overlap(track.box, other.box) >= _DUPLICATE_OVERLAP for other in seen[:i]):
                track.forget(index)

    def chosen(self) -> _FaceTrack:
        """The face asked for, or the largest among those tracked at least half as long as the longest."""
        tracks = [track for track in self._tracks if track.points]
        if not tracks:
            raise NoFaceError(
                f"frames: expected a face, found none in {len(self.num_faces)} frames; the head must be upright, lit, "
                "turned to the camera and about a tenth of the picture high or more. Drawn faces are often not seen."
            )
        if self._face is not None:
            if self._picked is None:
                raise ValueError(f"face: expected a number up to {self._most}, got {self._face}; no frame shows more.")
            return self._picked
        longest = max(len(track.points) for track in tracks)
        return max((p for p in tracks if 2 * len(p.points) >= longest), key=lambda track: track.size)


class _Blendshapes:
    """MediaPipe's FaceLandmarker on a window's pictures, for blendshapes. It holds a graph: call `close`."""

    def __init__(self, mediapipe: ModuleType, path: Path, fps: float):
        self._mediapipe, self._path, self._square = mediapipe, path, None
        self._time, self._step = 0.0, 1000 / fps  # milliseconds; timestamps must increase, also when tracking backwards
        self.names: tuple[str, ...] = ()
        self._model = self._load()

    def close(self) -> None:
        self._model.close()

    def _load(self):
        tasks = self._mediapipe.tasks
        options = tasks.vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_buffer=self._path.read_bytes()),
            running_mode=tasks.vision.RunningMode.VIDEO,
            output_face_blendshapes=True,
        )
        with quiet():
            try:
                return tasks.vision.FaceLandmarker.create_from_options(options)
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"face_landmarker: expected MediaPipe's {MODEL_NAME}, but {self._path} is another file or damaged; "
                    f"{INSTALL} fetches the right one."
                ) from error

    def read(self, window: FaceWindow) -> np.ndarray | None:
        """`[52]` float32 in [0, 1] for the window's picture; None if this model finds no face or another one."""
        if self._square != window.square:  # it keeps the face's position relative to its input: reload
            if self._square is not None:
                self._model.close()
                self._model = self._load()
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=window.picture)
        with nullcontext() if self._square == window.square else quiet():  # the first run prints warnings
            result = self._model.detect_for_video(image, round(self._time))
        self._time += max(self._step, 1.0)
        self._square = window.square
        if not result.face_blendshapes:
            return None
        points = np.array([(p.x, p.y) for p in result.face_landmarks[0]]) * window.square.side
        if overlap(box_of(points) + (window.square.x, window.square.y) * 2, window.box) < _DUPLICATE_OVERLAP:
            return None
        shapes = result.face_blendshapes[0]
        self.names = tuple(shape.category_name for shape in shapes)
        return np.array([shape.score for shape in shapes], np.float32)


__all__ = [
    "NUM_BLENDSHAPES",
    "NoFaceError",
    "StillCheck",
    "check_mediapipe",
    "face_warnings",
    "load_mediapipe",
    "track_landmarks",
]
