"""Landmarks: one face found and followed wherever it is in the picture, and no other. All faces here are drawn."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from emotag_hf import EmoTaGPipeline, FlameMotion
from emotag_hf.preprocessing.tracking import setup
from emotag_hf.preprocessing.tracking.face_window import Square
from emotag_hf.preprocessing.tracking.landmarks import (
    NUM_BLENDSHAPES,
    NoFaceError,
    StillCheck,
    face_warnings,
    track_landmarks,
)
from emotag_hf.utils.import_utils import is_available

pytestmark = pytest.mark.skipif(
    not is_available("mediapipe"), reason="MediaPipe is not installed: emotag setup tracking"
)

LOOKS = {
    "neutral": {},
    "open": {"jaw_pose": [0.2]},
    "shut": {"eyelids": [1.0, 1.0]},
    "turned": {"rotation": [0.0, 0.35, 0.0]},
}
FACE = 0.47  # height of the points' box over the height of a picture


@pytest.fixture(scope="module")
def person() -> dict[str, np.ndarray]:
    """Pictures 384x384 of the embedded person, named as LOOKS."""
    pipe = EmoTaGPipeline.from_pretrained()
    pictures = {}
    for name, values in LOOKS.items():
        motion = FlameMotion.zeros(1)
        for field, value in values.items():
            getattr(motion, field)[0, : len(value)] = torch.tensor(value)
        with torch.no_grad():
            image = pipe.model.render(pipe.model.pose(motion), pipe.model.camera(384)).images[0]
        pictures[name] = (image.numpy() * 255 + 0.5).astype(np.uint8)
    return pictures


@pytest.fixture(autouse=True)
def no_model(monkeypatch, tmp_path):
    """No face_landmarker.task but the one that a test names."""
    monkeypatch.delenv(setup.MODEL_ENV, raising=False)
    monkeypatch.setenv("EMOTAG_CACHE", str(tmp_path / "cache"))


def backdrop(width: int, height: int) -> np.ndarray:
    """A soft room, so that a detector has something else to look at."""
    coarse = np.random.default_rng(3).integers(60, 190, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def put(frame: np.ndarray, picture: np.ndarray, x: int, y: int, side: int | None = None) -> np.ndarray:
    """Pastes a picture at (x, y), `side` pixels wide; what is outside of the frame is cut off."""
    if side is not None:
        picture = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))
    height, width = frame.shape[:2]
    part = picture[max(-y, 0) : height - y, max(-x, 0) : width - x]
    frame = frame.copy()
    frame[max(y, 0) : max(y, 0) + part.shape[0], max(x, 0) : max(x, 0) + part.shape[1]] = part
    return frame


def talking(person, index: int) -> np.ndarray:
    return person["open" if index % 4 < 2 else "neutral"]


def track(frames, **kwargs):
    frames = list(frames)
    return track_landmarks(frames, frames[0].shape[1], frames[0].shape[0], **kwargs)


def face_size(points) -> float:
    return float(np.nanmedian(np.ptp(points[..., 1], axis=-1)))


@pytest.fixture(scope="module")
def alone(person):
    """The person filling the picture, each look for five frames: the truth for the scenes below."""
    frames = [person[name] for name in LOOKS for _ in range(5)]
    found = track_landmarks(frames, 384, 384)
    assert found.found.all()
    return {name: found.points[5 * i + 4] for i, name in enumerate(LOOKS)}


def test_what_the_points_are(person, alone):
    """478 points with irises, x and y in pixels, z growing away from the camera; they open and shut with the face."""
    points = alone["neutral"]
    assert points.shape == (478, 3) and points.dtype == np.float32
    assert face_size(points[None]) == pytest.approx(FACE * 384, rel=0.1)
    assert points[:, 0].mean() == pytest.approx(192, abs=3), "the person is symmetric and looks at the camera"
    assert points[1, 2] < points[[234, 454], 2].min() - 20, "the nose is nearer than the ears"
    assert points[33, 0] < points[468, 0] < points[133, 0] < points[362, 0] < points[473, 0] < points[263, 0]
    lips = {name: points[14, 1] - points[13, 1] for name, points in alone.items()}
    lids = {name: points[145, 1] - points[159, 1] for name, points in alone.items()}
    assert lips["open"] > lips["neutral"] + 8 and lids["shut"] < 0.5 * lids["neutral"]


def test_result(person):
    """The container says what it is about, and the same frames give the same bits."""
    frames = [talking(person, i) for i in range(8)]
    a, b = track(frames, fps=30.0), track(iter(frames), fps=30.0)
    assert (a.width, a.height, a.fps, len(a)) == (384, 384, 30.0, 8)
    assert a.found.all() and (a.num_faces == 1).all() and a.num_faces.dtype == np.int32
    assert a.blendshapes is None and a.blendshape_names == ()
    np.testing.assert_array_equal(a.points, b.points)


def test_face_that_wanders_through_the_picture(person, alone):
    """The window moves with the face, and its moves are not seen in the points."""
    offsets = [(40 + 9 * i, 60 + 3 * i) for i in range(75)]
    room = backdrop(1280, 720)
    found = track(put(room, person["neutral"], *xy) for xy in offsets)
    assert found.found.all()
    still = found.points[..., :2] - np.array(offsets)[:, None]
    face = FACE * 384
    assert np.abs(still - alone["neutral"][:, :2]).mean() < 0.01 * face
    jumps = np.linalg.norm(np.diff(still, axis=0), axis=-1).mean(1)
    assert jumps.max() < 0.008 * face, f"the points jump by {jumps.max():.2f} px"


@pytest.mark.parametrize(("width", "height", "side"), [(1920, 1080, 110), (3840, 2160, 150), (1080, 1920, 120)])
def test_small_face_in_a_large_picture(person, alone, width, height, side):
    """Face Mesh by itself sees no face smaller than a tenth of the picture."""
    room = backdrop(width, height)
    x, y = width * 2 // 3, height // 4
    found = track(put(room, talking(person, i), x, y, side) for i in range(6))
    assert found.found.all()
    points = (found.points[5, :, :2] - (x, y)) * 384 / side
    assert np.linalg.norm(points - alone["neutral"][:, :2], axis=1).mean() < 0.03 * FACE * 384
    assert found.points[5, 1, 2] < found.points[5, 234, 2], "z is in the same pixels"


def test_window_beyond_the_edge():
    """A window repeats the edge of the picture around it: the same as the slow, obvious way."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    padded = np.pad(frame, ((100, 100), (100, 100), (0, 0)), mode="edge")
    for _ in range(300):
        x, y, side = (int(v) for v in rng.integers((-60, -60, 1), (60, 60, 70)))
        expected = padded[100 + y : 100 + y + side, 100 + x : 100 + x + side]
        np.testing.assert_array_equal(Square(x, y, side).cut(frame), expected, f"{x} {y} {side}")


def test_dark_frames(person, alone):
    """A face at a twentieth of its brightness is raised before it is looked at."""
    noise = np.random.default_rng(0)
    frames = [talking(person, i) * 0.05 + noise.normal(0, 0.7, (384, 384, 3)) for i in range(8)]
    found = track(np.clip(frame + 0.5, 0, 255).astype(np.uint8) for frame in frames)
    assert found.found.all()
    assert np.linalg.norm((found.points[7] - alone["neutral"])[:, :2], axis=1).mean() < 0.02 * FACE * 384


@pytest.mark.parametrize(("x", "y"), [(-145, 100), (1280 - 239, 100), (500, -130), (500, 720 - 250)])
def test_face_at_the_edge(person, alone, x, y):
    """A third of the face lies outside of the picture; the rest is where it belongs."""
    room = backdrop(1280, 720)
    found = track(put(room, talking(person, i), x, y) for i in range(6))
    assert found.found.all()
    expected = alone["neutral"][:, :2] + (x, y)
    inside = ((expected > 0) & (expected < (1280, 720))).all(1)
    assert 0.45 < inside.mean() < 0.95
    assert np.linalg.norm(found.points[5, inside, :2] - expected[inside], axis=1).mean() < 0.05 * FACE * 384


def test_face_that_leaves(person):
    """Gone for a second and back elsewhere: found again at once, and nothing invented in between."""
    room = backdrop(960, 540)
    away = range(12, 37)
    places = {i: (60, 90) if i < 12 else (520, 120) for i in range(50) if i not in away}
    found = track(put(room, talking(person, i), *places[i]) if i in places else room for i in range(50))
    np.testing.assert_array_equal(np.flatnonzero(~found.found), away)
    np.testing.assert_array_equal(found.num_faces > 0, found.found)
    assert np.isnan(found.points[20]).all() and found.points[10, :, 0].mean() < 400 < found.points[45, :, 0].mean()


def test_cut_to_another_place(person):
    """An edited clip: from one frame to the next the face stands elsewhere."""
    room = backdrop(960, 540)
    found = track(put(room, talking(person, i), 60 if i < 9 else 540, 100) for i in range(18))
    assert found.found.all()
    assert (found.points[:9, :, 0].mean(1) < 400).all() and (found.points[9:, :, 0].mean(1) > 600).all()


def test_looks_back(person):
    """A face that could not be found yet, here in fog, is followed back from where it could."""
    room = backdrop(960, 540)
    share = [0.02, 0.025, 0.03, 0.035, 0.04, 0.3, 0.7, 1.0, 1.0, 1.0]
    clear = [put(room, talking(person, i), 300, 100) for i in range(10)]
    frames = [(a * frame + (1 - a) * 128.0).astype(np.uint8) for a, frame in zip(share, clear)]
    with pytest.raises(NoFaceError):
        track(frames[:5])
    late = track([room] * 3 + frames)
    np.testing.assert_array_equal(np.flatnonzero(~late.found), [0, 1, 2])
    assert np.abs(late.points[3:, 1, :2] - late.points[-1, 1, :2]).max() < 8


class TestTwoFaces:
    """A large face on the right, a smaller one on the left, both talking."""

    @pytest.fixture
    def frames(self, person):
        room = backdrop(1280, 720)
        other = np.ascontiguousarray(person["neutral"][..., ::-1])
        frames = []
        for i in range(22):
            frame = room if i < 6 else put(room, talking(person, i), 700, 150, 480)
            frames.append(put(frame, other if i % 4 < 2 else person["shut"], 100, 150, 330))
        return frames

    def test_largest_wins(self, frames, caplog):
        """The largest over time, although the other one was there first."""
        with caplog.at_level(logging.WARNING):
            found = track(frames)
        assert not found.found[:5].any() and found.found[10:].all()
        assert (found.points[10:, :, 0].mean(1) > 640).all()
        assert list(np.unique(found.num_faces)) == [1, 2]
        assert "2 faces are in the picture" in caplog.text and "the largest one was followed" in caplog.text
        assert face_warnings(found, 2)[0].endswith("face 2 from the left was followed.")

    @pytest.mark.parametrize("face", [1, 2])
    def test_one_of_them(self, frames, face):
        """Counted from the left in the first frame that shows so many: face 1 is there before face 2 is."""
        found = track(frames, face=face)
        assert found.found[10:].all() and found.found[:5].all() == (face == 1)
        assert (found.points[10:, :, 0].mean(1) > 640).all() == (face == 2)

    def test_too_many(self, frames):
        with pytest.raises(ValueError, match="^face: expected a number up to 2, got 3; no frame shows more"):
            track(frames, face=3)

    def test_no_change_of_person(self, person):
        """When the right face leaves, its points do not settle on the other one."""
        room = backdrop(1280, 720)
        frames = []
        for i in range(24):
            frame = put(room, talking(person, i + 1), 60, 250, 300)
            frames.append(put(frame, talking(person, i), 760, 150, 400) if i < 12 else frame)
        found = track(frames)
        assert found.found[:12].all() and not found.found[12:].any()


def test_one_face_is_no_warning(person):
    found = track(talking(person, i) for i in range(12))
    assert face_warnings(found) == []


def test_no_face():
    """A room, a black film."""
    room = backdrop(640, 360)
    with pytest.raises(NoFaceError, match="^frames: expected a face, found none in 12 frames; .*upright, lit"):
        track(np.roll(room, 5 * i, axis=1) for i in range(12))
    with pytest.raises(NoFaceError, match="found none in 7 frames"):
        track([np.zeros((360, 640, 3), np.uint8)] * 7)
    assert issubclass(NoFaceError, ValueError)


def test_still_picture(person, tmp_path):
    """A photo is refused, also when an encoder has gone over it; a face that only blinks is no photo."""
    with pytest.raises(ValueError, match="all 9 frames show the same picture; a single photo is not supported"):
        track([person["neutral"]] * 9)
    with pytest.raises(ValueError, match="one frame; a single photo is not supported, because"):
        track([person["neutral"]])
    photo, blink = StillCheck(), StillCheck()
    for i in range(20):
        buffer = tmp_path / "a.jpg"  # another quality each time, as an encoder's key frames differ from the rest
        Image.fromarray(person["neutral"]).save(buffer, quality=25 + 3 * i)
        photo.add(np.asarray(Image.open(buffer)))
        blink.add(put(backdrop(1280, 720), person["shut" if i == 13 else "neutral"], 500, 200))
    assert photo.is_still and not blink.is_still


def test_bad_arguments(person):
    frames = [person["neutral"]] * 2
    for face in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="^face: expected a whole number from 1 on"):
            track(frames, face=face)
    with pytest.raises(ValueError, match=r"^frames: expected uint8 arrays of shape \(100, 200, 3\), got uint8 \(384"):
        track_landmarks(frames, 200, 100)
    with pytest.raises(ValueError, match="^frames: .*got float32"):
        track([frames[0].astype(np.float32)])
    with pytest.raises(ValueError, match="^frames: expected at least two frames"):
        track_landmarks([], 384, 384)


def test_without_mediapipe(person, monkeypatch):
    """The message is the line that installs it."""
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ImportError, match="mediapipe is needed.*install it with: emotag setup tracking$"):
        track([person["neutral"]] * 2)


def test_wrong_model_file(person, tmp_path, monkeypatch):
    """A file that is no FaceLandmarker is named before the work begins; so is one that is not there."""
    (tmp_path / "other.task").write_bytes(b"hello")
    with pytest.raises(
        ValueError, match="^face_landmarker: expected MediaPipe's face_landmarker.task, but .*other.task"
    ):
        track([person["neutral"]] * 2, face_landmarker=tmp_path / "other.task")
    with pytest.raises(FileNotFoundError, match="^face_landmarker: .*no file .*missing.task"):
        track([person["neutral"]] * 2, face_landmarker=tmp_path / "missing.task")
    monkeypatch.setenv(setup.MODEL_ENV, str(tmp_path / "gone.task"))
    with pytest.raises(FileNotFoundError, match="^EMOTAG_FACE_LANDMARKER: .*no file .*gone.task"):
        track([person["neutral"]] * 2)


def test_silence(person, capfd):
    """Nothing of what MediaPipe's graphs say when they start reaches the terminal."""
    track(talking(person, i) for i in range(8))
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.slow
def test_silence_of_a_new_process(person, tmp_path):
    """The same from the first import on."""
    np.save(tmp_path / "a.npy", np.stack([talking(person, i) for i in range(8)]))
    code = f"""
import numpy
from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
frames = numpy.load({str(tmp_path / "a.npy")!r})
print(track_landmarks(frames, 384, 384).found.sum())
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)
    assert (run.stdout.strip(), run.stderr.strip()) == ("8", "")


@pytest.mark.real_data
def test_blendshapes(person, test_data):
    """52 coefficients with their names, NaN without a face; they open and shut with the face."""
    model = test_data / "models" / "face_landmarker.task"
    room = backdrop(384, 384)
    order = [name for name in LOOKS for _ in range(5)]
    found = track([person[name] for name in order] + [room] * 3, face_landmarker=model)
    assert found.blendshapes.shape == (23, NUM_BLENDSHAPES) and found.blendshapes.dtype == np.float32
    assert len(found.blendshape_names) == NUM_BLENDSHAPES and found.blendshape_names[0] == "_neutral"
    assert np.isnan(found.blendshapes[20:]).all() and not np.isnan(found.blendshapes[:20]).any()
    value = {name: found.blendshapes[:, found.blendshape_names.index(name)] for name in ("jawOpen", "eyeBlinkLeft")}
    assert (
        value["jawOpen"][9] > value["jawOpen"][4] + 0.15 and value["eyeBlinkLeft"][14] > value["eyeBlinkLeft"][4] + 0.2
    )
    without = track([person[name] for name in order] + [room] * 3)
    np.testing.assert_array_equal(found.points, without.points)


@pytest.mark.real_data
def test_model_from_the_environment(person, test_data, monkeypatch):
    monkeypatch.setenv(setup.MODEL_ENV, str(test_data / "models" / "face_landmarker.task"))
    assert track(talking(person, i) for i in range(6)).blendshapes is not None


@pytest.mark.real_data
def test_recordings(test_data):
    """A face in every frame of every recording, one and no more."""
    from emotag_hf.video.video_reader import read_video

    paths = sorted((test_data / "data" / "clips").glob("*.mp4")) + sorted(
        (test_data / "data" / "motion").rglob("*.mp4")
    )
    assert len(paths) > 35
    for path in paths:
        clip = read_video(path)
        found = track_landmarks(clip.frames(25, stop=0.8), clip.width, clip.height)
        assert found.found.all() and (found.num_faces == 1).all(), path.name
