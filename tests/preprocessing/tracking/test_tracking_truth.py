"""The tracker against motion that is known exactly: rendered people whose head, jaw, lips and lids a script moved.

Rotation is compared without one constant rotation per clip, because two head models need not rest in the same pose.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from emotag_hf import EXPRESSION_NAMES, EmoTaGPipeline, FlameMotion
from emotag_hf.preprocessing.tracking.fit import FitOptions, fit_head
from emotag_hf.preprocessing.tracking.head_track import FaceLandmarks
from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
from emotag_hf.utils.rotations import rotation_matrix
from emotag_hf.video.video_reader import read_video

# What Face Mesh's points allow on a head that turns 35 degrees: a typical frame is within about two degrees, one in
# twenty is off by up to four. The fit is not the limit: from true points it is three times as close
# (`test_fit_of_true_points`), and the pose that MediaPipe's points give on the *true* face is no better (see the
# benchmark).
MEDIAN, WORST = 2.1, 4.2  # degrees; WORST is the 95th percentile
JAW, SMILE, LIDS = 0.88, 0.87, 0.88  # Pearson's r of every clip; SMILE is that of both sides' mean
TRUE_POINTS = 0.93  # the same from true points
SCRIPT = Path(__file__).parents[3] / "conversion_scripts" / "render_ict_clips"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="only in a checkout of the repository")
needs_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None,
    reason="MediaPipe is not installed: pip install -r requirements-tracking.txt, then mediapipe --no-deps",
)


def _load_truth():
    spec = importlib.util.spec_from_file_location("ict_truth", SCRIPT / "truth.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


truth = _load_truth() if SCRIPT.exists() else None


def waves(frames: int, *periods: float) -> list[np.ndarray]:
    """Curves from -1 to 1 that start apart, one for each period in frames."""
    t = np.arange(frames)
    return [np.sin(2 * np.pi * t / period + 1.3 * i) for i, period in enumerate(periods)]


def known_motion(frames: int) -> FlameMotion:
    """A head that turns, nods, tilts, speaks, smiles and blinks."""
    yaw, pitch, roll, smile = waves(frames, 60, 41, 53, 37)
    jaw, _, blink = waves(frames, 13, 1, 25)
    motion = FlameMotion.zeros(frames)
    motion.rotation[:] = torch.from_numpy(np.radians(np.stack([8 * pitch, 24 * yaw, 7 * roll], 1))).float()
    motion.jaw_pose[:, 0] = torch.from_numpy(0.12 * (1 + jaw)).float()
    for name in ("mouthSmile_L", "mouthSmile_R"):
        motion.expression[:, EXPRESSION_NAMES.index(name)] = torch.from_numpy(0.4 * (1 + smile)).float()
    motion.eyelids[:] = torch.from_numpy(np.clip(4 * blink - 3, 0, 1)).float()[:, None]
    return motion


def truth_of(motion: FlameMotion, camera, points: np.ndarray | None = None):
    """The `Truth` that a motion of the open head is."""
    rotation = (rotation_matrix(motion.rotation.double()) @ rotation_matrix(motion.neck_pose.double())).numpy()
    curves = {"jawOpen": motion.jaw_pose[:, 0].numpy()}
    for name in ("mouthSmile_L", "mouthSmile_R"):
        curves[name] = motion.expression[:, EXPRESSION_NAMES.index(name)].numpy()
    for i, name in enumerate(("eyeBlink_L", "eyeBlink_R")):
        curves[name] = motion.eyelids[:, i].numpy()
    gaze = np.zeros((len(motion), 2))
    return truth.Truth(rotation, motion.translation.double().numpy(), curves, gaze, camera, points)


def summary(report) -> str:
    """One line for a failing test."""
    degrees = np.percentile(report.rotation, [50, 95, 100]).round(2)
    r = {name: round(value, 3) for name, value in report.correlation.items()}
    return f"rotation median, p95, max: {degrees} degrees; constant {report.offset:.2f}; r {r}"


def check(report) -> None:
    """The bounds above."""
    assert report.valid == report.frames, summary(report)
    assert np.median(report.rotation) < MEDIAN and np.percentile(report.rotation, 95) < WORST, summary(report)
    r = report.correlation
    assert r["jawOpen"] >= JAW and r["mouthSmile"] >= SMILE, summary(report)
    assert min(r["eyeBlink_L"], r["eyeBlink_R"]) >= LIDS, summary(report)


def test_the_measure_itself():
    """A constant turn between two heads is taken out and nothing else; the pose from true points is the true pose."""
    pipe = EmoTaGPipeline.from_pretrained()
    motion = known_motion(40)
    camera = pipe.model.camera(512)
    head = pipe.model.head
    local = head(expression=motion.expression, jaw_pose=motion.jaw_pose).vertices
    known = truth_of(motion, camera, head.landmarks(local).numpy())
    extra = rotation_matrix(torch.tensor([0.1, -0.05, 0.02], dtype=torch.float64)).numpy()
    wobble = rotation_matrix(torch.from_numpy(np.radians([[0, 1.5, 0]] * 20 + [[0, -1.5, 0]] * 20))).numpy()
    left, constant, raw = truth.rotation_errors(known.in_camera() @ wobble @ extra, known.in_camera())
    assert np.allclose(left, 1.5, atol=0.05) and constant == pytest.approx(6.5, abs=0.1) and raw.min() > 4
    pixels = known.pixels()
    for i in (0, 9, 33):
        found = truth._pose(known, i, pixels[i] + np.random.default_rng(i).normal(0, 0.3, (468, 2)))
        assert truth._degrees(found.T @ known.in_camera()[i]) < 0.5


def test_truth_file(tmp_path):
    """What is saved comes back, and another file is refused."""
    camera = EmoTaGPipeline.from_pretrained().model.camera(256)
    known = truth_of(known_motion(7), camera, np.zeros((7, 468, 3), np.float32))
    known.save(tmp_path / "truth.safetensors")
    back = truth.Truth.load(tmp_path / "truth.safetensors")
    assert np.allclose(back.rotation, known.rotation, atol=1e-6) and list(back.curves) == list(known.curves)
    assert np.array_equal(back.curves["jawOpen"], known.curves["jawOpen"]) and back.camera.width == 256
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected a truth file"):
        truth.Truth.load(tmp_path / "other.safetensors")


@needs_mediapipe
@pytest.mark.slow
def test_painted_person():
    """The embedded person, rendered under known motion and tracked from the pictures alone."""
    pipe = EmoTaGPipeline.from_pretrained()
    motion = known_motion(60)
    camera = pipe.model.camera(512)
    with torch.no_grad():
        frames = pipe.model.render(pipe.model.pose(motion), camera).images
    frames = (frames.numpy() * 255 + 0.5).astype(np.uint8)
    landmarks = track_landmarks(iter(frames), 512, 512, fps=25.0)
    assert landmarks.found.all()
    check(truth.compare(fit_head(landmarks), truth_of(motion, camera)))


@pytest.fixture(scope="module")
def ict_clips(test_data, tmp_path_factory):
    """Folders of three rendered clips of five seconds, by name."""
    archive = test_data / "data" / "heads" / "ict_facekit_f16.npz"
    if not archive.exists():
        pytest.skip(f"ICT-FaceKit is not there: {archive}")
    folder = tmp_path_factory.mktemp("ict")
    names = ("ruddy", "dark", "short_lens")
    command = [sys.executable, str(SCRIPT), "--ict", str(archive), "-o", str(folder), "--clips"]
    done = subprocess.run([*command, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: folder / name for name in names}


@pytest.mark.real_data
@pytest.mark.slow
@needs_mediapipe
@pytest.mark.parametrize("name", ["ruddy", "dark", "short_lens"])
def test_ict_faces(ict_clips, name):
    """Faces of another model than our head, painted and moved by a script, tracked from the video alone; also where the
    lens is another than the tracker assumes."""
    video = read_video(ict_clips[name] / "clip.mp4")
    known = truth.Truth.load(ict_clips[name] / "truth.safetensors")
    landmarks = track_landmarks(video.frames(fps=25.0), video.width, video.height, fps=25.0)
    assert landmarks.found.all()
    check(truth.compare(fit_head(landmarks), known, with_landmarks=False))


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ruddy", "dark", "short_lens"])
def test_fit_of_true_points(ict_clips, name):
    """MediaPipe left out: true points of a face of another model give the pose within half a degree (median), so what
    `test_ict_faces` finds beyond this lies in the landmarks."""
    known = truth.Truth.load(ict_clips[name] / "truth.safetensors")
    view = known.camera.viewmat.numpy()
    depth = np.einsum("tij,tnj->tni", view[:3, :3] @ known.rotation, known.points)[..., 2:]
    scale = float(known.camera.K[0, 0]) / np.linalg.norm(view[:3, 3])  # pixels per metre: z is in those of x
    points = np.full((len(known.rotation), 478, 3), np.nan, np.float32)
    points[:, :468] = np.concatenate([known.pixels(), depth * scale], -1)
    points[:, 468:] = points[:, [33] * 5 + [263] * 5]  # irises play no part here
    found = np.ones(len(points), bool)
    landmarks = FaceLandmarks(points, found, found.astype(np.int32), known.camera.width, known.camera.height)
    track = fit_head(landmarks, options=FitOptions(unbias=False))  # these points are where they should be
    report = truth.compare(track, known, with_landmarks=False)
    assert np.median(report.rotation) < 0.5 and report.rotation.max() < 1.5, summary(report)
    for curve in ("jawOpen", "mouthSmile", "eyeBlink_L", "eyeBlink_R"):
        assert report.correlation[curve] >= TRUE_POINTS, summary(report)
