"""Where the face is: frames in, MediaPipe's 478 points of one face out (the first step of tracking).

The legacy Face Mesh (468 points and two irises) and its detectors come inside the `mediapipe` wheel, so nothing is
downloaded. Every face that could be the right one is followed in a window of its own (`face_window`); which one it is,
is known at the end: the largest over time, or the one asked for. With a `face_landmarker.task` at hand the 52
blendshapes come along.
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
_CHECK_EVERY = 5  # frames: how often to look for further faces
_PATIENCE = 50  # frames for which a face that was lost is looked for in every frame
_PAST_BYTES = 64 << 20  # of frames kept to look back into
_MAX_FACES = 4  # followed at once
_RIVAL = 0.5  # of the largest face's size: smaller ones cannot become the largest, and are only counted
_SURE_OTHER = 0.7  # detector score of a face that is only counted
_SMALLEST_OTHER = 0.25  # of the largest face's size: smaller ones are pictures on the wall
_TWINS = 0.6  # overlap from which two windows show one face
_STILL = 10.0  # of 255: below it, the change of a 64x64 thumbnail may be the encoder's alone
_STILL_FACE = 0.04  # of the face's size: below it, the motion of points may be their jitter alone


class NoFaceError(ValueError):
    """No frame shows a face that can be followed; the message says what to do."""


def load_mediapipe() -> ModuleType:
    """MediaPipe, without its chatter. Raises ImportError with the line that installs it."""
    os.environ.setdefault("GLOG_minloglevel", "3")  # its C++ parts read these at import
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return require_package("mediapipe", install=INSTALL)


def check_mediapipe() -> None:
    """Runs Face Mesh once; raises what stands in its way. `emotag setup tracking` calls it in a fresh process."""
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
        frames: RGB frames `[height, width, 3]` uint8 in order, each looked at once.
        width, height: their size in pixels.
        fps: frames per second.
        face: which face, counted from the left (1, 2, ...) as they stand in the first frame that shows so many of
            them; None follows the largest one (median over its frames).
        face_landmarker: MediaPipe's face_landmarker.task, for blendshapes; else the file that EMOTAG_FACE_LANDMARKER
            names, else the copy that `emotag setup tracking` fetched, else there are no blendshapes.

    Returns:
        The landmarks in pixels of these frames. Where the face is not seen, `found` is False and the points are NaN;
        blendshapes can be NaN in a few frames more, where their own model does not see it.

    Raises:
        NoFaceError: no face in any frame.
        ValueError: frames of another shape, none, a single one or a still picture; a face that no frame shows; a
            face_landmarker that is none.
        FileNotFoundError: face_landmarker is not there.
        ImportError: MediaPipe is not installed; the message says how to install it.
    """
    if face is not None and (isinstance(face, bool) or face != int(face) or face < 1):
        raise ValueError(f"face: expected a whole number from 1 on, counted from the left, got {face}.")
    mediapipe = load_mediapipe()
    model = find_face_landmarker(face_landmarker)
    if model is not None:
        _Blendshapes(mediapipe, model, fps).close()  # a file that is none is told before the work
    still = StillCheck()
    with _Crowd(mediapipe, model, fps, face) as crowd:
        for frame in frames:
            if frame.dtype != np.uint8 or frame.shape != (height, width, 3):
                raise ValueError(
                    f"frames: expected uint8 arrays of shape ({height}, {width}, 3), got {frame.dtype} {frame.shape}."
                )
            still.add(frame)
            crowd.look(frame)
        count = len(crowd.num_faces)
        if count == 0:
            raise ValueError("frames: expected at least two frames of a video, got none.")
        person = crowd.chosen()
        if still.is_still and person.is_still:
            raise ValueError(single_photo("one frame" if count == 1 else f"all {count} frames show the same picture"))
        found = person.result(count, width, height, fps, np.array(crowd.num_faces, np.int32))
    for sentence in face_warnings(found, face):
        logger.warning(sentence)
    return found


def face_warnings(landmarks: FaceLandmarks, face: int | None = None) -> list[str]:
    """What is to be said about the number of faces, one sentence each."""
    several = landmarks.num_faces > 1
    if several.sum() < 2 * _CHECK_EVERY:  # a false alarm of the detector lasts for one check
        return []
    which = f"face {face} from the left" if face else "the largest one"
    return [
        f"{landmarks.num_faces.max()} faces are in the picture (first at {np.argmax(several) / landmarks.fps:.1f} s); "
        f"{which} was followed" + ("." if face else ", `face` chooses another, counted from the left.")
    ]


class StillCheck:
    """Whether frames show nothing but one picture, apart from what a video encoder does to it."""

    def __init__(self) -> None:
        self.is_still = True
        self._first: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        """Looks at the next frame `[H, W, 3]` uint8; costs nothing once something has moved."""
        if not self.is_still:
            return
        small = Image.fromarray(frame).resize((64, 64), Image.Resampling.BOX).convert("L")
        thumbnail = np.asarray(small, np.float32)
        if self._first is None:
            self._first = thumbnail
        elif np.abs(thumbnail - self._first).max() > _STILL:
            self.is_still = False


class _Person:
    """One face and what was seen of it, frame by frame."""

    def __init__(self, mediapipe: ModuleType, model: Path | None, fps: float):
        self.window = FaceWindow(mediapipe)
        self._blendshapes = None if model is None else _Blendshapes(mediapipe, model, fps)
        self.points: dict[int, np.ndarray] = {}
        self.shapes: dict[int, np.ndarray] = {}
        self.since = 0  # the frame from which it has been followed without a break
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
        """Whether no point ever moved: a small mouth that talks in a large picture does not show in a thumbnail."""
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

    def look_back(self, frame: np.ndarray, index: int, past: Iterable[tuple[int, np.ndarray]], others: list) -> None:
        """From the frame on which it was found, goes back through the frames before it (the latest first): a face can
        be followed into a profile in which it would not be found. Ends where it began."""
        for before, picture in past:
            if before in self.points or not self.follow(picture, before):
                break
            theirs = [other.points[before] for other in others if before in other.points]
            if any(overlap(self.box, box_of(points)) >= _TWINS for points in theirs):
                self.forget(before)
                break
        self.begin(frame, index, box_of(self.points[index]))

    def forget(self, index: int) -> None:
        """Takes a frame back: what the window showed was another face."""
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


class _Crowd:
    """All faces of a clip. A context manager: MediaPipe holds resources.

    Every few frames the whole picture is searched; in between, each known face is followed in its window. A face that
    was lost is taken up again where it was, or anywhere if it is the only one that there ever was.
    """

    def __init__(self, mediapipe: ModuleType, model: Path | None, fps: float, face: int | None):
        self._make = lambda: _Person(mediapipe, model, fps)
        self._finder = FaceFinder(mediapipe)
        self._face, self._picked = face, None
        self._people: list[_Person] = []
        self._spare: _Person | None = None  # was tried on what was no face, serves the next time
        self._others = 0  # faces that are counted and not followed
        self._most = 0  # faces in one frame
        self._past: deque[tuple[int, np.ndarray]] = deque()  # frames in which somebody may have been missed
        self.num_faces: list[int] = []

    def __enter__(self) -> _Crowd:
        return self

    def __exit__(self, *error) -> None:
        self._finder.close()
        for person in [*self._people, *([self._spare] if self._spare else [])]:
            person.close()

    def look(self, frame: np.ndarray) -> None:
        """Looks at the next frame."""
        index = len(self.num_faces)
        for person in self._people:
            if person.box is not None:
                person.follow(frame, index)
        self._part_twins(index)
        lost = [person for person in self._people if person.box is None]
        is_check = index % _CHECK_EVERY == 0
        if is_check or not self._people or any(index - person.last_seen <= _PATIENCE for person in lost):
            self._search(frame, index, is_check)
        self._remember(frame, index)
        seen = [person for person in self._people if person.box is not None]
        self.num_faces.append(len(seen) + self._others)
        self._most = max(self._most, len(seen))
        if self._face is not None and self._picked is None and len(seen) >= self._face:
            self._picked = sorted(seen, key=lambda person: person.box[0] + person.box[2])[self._face - 1]

    def _remember(self, frame: np.ndarray, index: int) -> None:
        """Keeps the frame if somebody may be in it who will be found later."""
        if self._people and all(person.box is not None for person in self._people):
            self._past.clear()
            return
        self._past.append((index, frame.copy()))
        while len(self._past) > min(_PATIENCE, max(_PAST_BYTES // frame.nbytes, 1)):
            self._past.popleft()

    def _search(self, frame: np.ndarray, index: int, is_check: bool) -> None:
        """Takes up lost faces and, at a check, new ones."""
        boxes = [person.box for person in self._people if person.box is not None]
        self._others = 0
        self._take_up(self._finder.find(frame), boxes, frame, index, is_check)
        if is_check and not boxes:
            self._take_up(self._finder.find_small(frame), boxes, frame, index, is_check)

    def _take_up(self, found: list, boxes: list, frame: np.ndarray, index: int, is_check: bool) -> None:
        """Follows the faces found from now on, or counts them; adds to `boxes` those that are followed."""
        for box, score in found:
            if any(overlap(box, other) >= SAME_FACE for other in boxes):
                continue
            person = self._lost_near(box)
            if person is None and (is_check or not self._people):
                person = self._newcomer(box, boxes)
            if person is None:
                largest = max((size_of(other) for other in boxes), default=0.0)
                self._others += score >= _SURE_OTHER and size_of(box) >= _SMALLEST_OTHER * largest
            elif person.begin(frame, index, box):
                if person is self._spare:
                    self._people.append(person)
                    self._spare = None
                if self._past:
                    others = [other for other in self._people if other is not person]
                    person.look_back(frame, index, reversed(self._past), others)
                boxes.append(box_of(person.points[index]))

    def _lost_near(self, box: np.ndarray) -> _Person | None:
        """Whose face this may be: that of the nearest one who was lost nearby, or of the only one there is."""
        lost = [person for person in self._people if person.box is None]
        if len(self._people) == 1 and lost:
            return lost[0]
        near = [(np.abs(person.window.last_box - box).max(), person) for person in lost]
        near = [(far, person) for far, person in near if far <= 2 * size_of(box)]
        return min(near, key=lambda item: item[0])[1] if near else None

    def _newcomer(self, box: np.ndarray, boxes: list[np.ndarray]) -> _Person | None:
        """Somebody who joins the people if Face Mesh finds a face in the box."""
        if len(self._people) >= max(_MAX_FACES, self._face or 0):
            return None
        if self._face is None and size_of(box) < _RIVAL * max((size_of(other) for other in boxes), default=0.0):
            return None
        self._spare = self._spare or self._make()
        return self._spare

    def _part_twins(self, index: int) -> None:
        """Two windows on one face: the one that has followed it for longer keeps it."""
        seen = sorted((person for person in self._people if person.box is not None), key=lambda person: person.since)
        for i, person in enumerate(seen):
            if any(other.box is not None and overlap(person.box, other.box) >= _TWINS for other in seen[:i]):
                person.forget(index)

    def chosen(self) -> _Person:
        """The person asked for, or the largest of those who were there for at least half as long as anybody."""
        people = [person for person in self._people if person.points]
        if not people:
            raise NoFaceError(
                f"frames: expected a face, found none in {len(self.num_faces)} frames; the head must be upright, lit, "
                "turned to the camera and about a tenth of the picture high or more. Drawn faces are often not seen."
            )
        if self._face is not None:
            if self._picked is None:
                raise ValueError(f"face: expected a number up to {self._most}, got {self._face}; no frame shows more.")
            return self._picked
        longest = max(len(person.points) for person in people)
        return max((p for p in people if 2 * len(p.points) >= longest), key=lambda person: person.size)


class _Blendshapes:
    """MediaPipe's FaceLandmarker on the pictures of a window. It holds a graph: close it."""

    def __init__(self, mediapipe: ModuleType, path: Path, fps: float):
        self._mediapipe, self._path, self._square = mediapipe, path, None
        self._time, self._step = 0.0, 1000 / fps  # milliseconds; its clock must not run backwards, frames may
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
        """`[52]` float32 in [0, 1] for what the window shows now; None if this model sees no face, or another one."""
        if self._square != window.square:  # it remembers the face in fractions of the picture: begin anew
            if self._square is not None:
                self._model.close()
                self._model = self._load()
        image = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=window.picture)
        with nullcontext() if self._square == window.square else quiet():  # the first picture makes it talk
            result = self._model.detect_for_video(image, round(self._time))
        self._time += max(self._step, 1.0)
        self._square = window.square
        if not result.face_blendshapes:
            return None
        points = np.array([(p.x, p.y) for p in result.face_landmarks[0]]) * window.square.side
        if overlap(box_of(points) + (window.square.x, window.square.y) * 2, window.box) < _TWINS:
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
