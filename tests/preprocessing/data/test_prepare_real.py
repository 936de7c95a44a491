"""From a video to a clip with everything real: MediaPipe, the fit, the teachers. The face is the demo person's."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from demo_video import SECONDS, SIZE, demo_video

from emotag_hf.constants import ACTION_UNITS, EMOTIONS
from emotag_hf.preprocessing.data.clip import ProcessedClip
from emotag_hf.preprocessing.data.prepare import FeatureOptions, prepare
from emotag_hf.preprocessing.data.prepare_many import prepare_many
from emotag_hf.utils.import_utils import is_available
from emotag_hf.video.video_reader import read_video

pytestmark = pytest.mark.skipif(not is_available("mediapipe"), reason="MediaPipe is not installed")
FRAMES = round(SECONDS * 25)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> ProcessedClip:
    folder = tmp_path_factory.mktemp("real")
    return prepare(demo_video(folder), size=SIZE, progress=False)


def test_every_frame_is_tracked(clip):
    """The face is found and fitted in every frame; the video was framed well and is kept as it was."""
    assert len(clip) == FRAMES and clip.track.valid.all()
    assert float(clip.track.held_out_error.median()) < 4.0
    assert (clip.crop.x, clip.crop.y, clip.crop.window_width, clip.crop.width) == (0, 0, SIZE, SIZE)
    assert clip.warnings == [] and clip.info["versions"]["mediapipe"]


def test_pictures_are_the_videos(clip):
    """Frame by frame the clip shows what the video shows, and not the neighbouring frame."""
    for i, frame in enumerate(read_video(clip.path.with_name("demo.mp4")).frames()):
        errors = [np.square(clip.frame(j).astype(float) - frame).mean() for j in {max(i - 1, 0), i, min(i + 1, 49)}]
        own = np.square(clip.frame(i).astype(float) - frame).mean()
        assert own == min(errors) and own < 255**2 / 10**4.0, i  # 40 dB


def test_matte_and_background(clip):
    """The matte holds the face and leaves the upper corners; the plate knows what was never covered."""
    for i in (0, 25, 49):
        face = clip.track.landmarks[i, :468, :2].numpy().astype(int)
        assert clip.matte(i)[face[:, 1], face[:, 0]].mean() > 245
        assert clip.matte(i)[:20, :20].max() < 30
    picture, known = clip.background
    assert known[:20, :20].all() and not known[SIZE // 2, SIZE // 2]
    assert np.abs(picture[:20, :20].astype(int) - clip.frame(0)[:20, :20]).mean() < 6


def test_sound_and_lips_belong_together(clip):
    """The sound is the video's, and its offset against the rendered lips is found to be none."""
    assert clip.audio.duration == pytest.approx(SECONDS, abs=0.01)
    assert abs(clip.audio_offset.seconds) < 0.06 and clip.audio_offset.correlation > 0.4


def test_teachers(clip):
    """A happy person smiles more than she frowns; the features say who made them."""
    smile, frown = (clip.features["action_units"][:, ACTION_UNITS.index(unit)] for unit in ("AU12", "AU15"))
    assert smile.mean() > frown.mean()
    assert float(clip.features["identity"].norm()) == pytest.approx(1, abs=1e-4)
    assert clip.feature_sources["action_units"] == "fitted head" and clip.feature_sources["depth"] == "fitted head"


@pytest.mark.slow
def test_processes_side_by_side(tmp_path):
    """Two processes prepare two videos, a broken third one has its error, and the clips are those of one process."""
    (tmp_path / "in").mkdir()
    demo_video(tmp_path / "in")
    shutil.copy(tmp_path / "in" / "demo.mp4", tmp_path / "in" / "again.mp4")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no video")
    options = {"size": 128, "max_seconds": 1.2, "progress": False}
    results = prepare_many(tmp_path / "in", tmp_path / "two", workers=2, **options)
    assert [(r.source.stem, r.ok) for r in results] == [("again", True), ("broken", False), ("demo", True)]
    alone = prepare_many(tmp_path / "in" / "demo.mp4", tmp_path / "one", **options)
    a, b = ProcessedClip.open(results[2].path), ProcessedClip.open(alone[0].path)
    assert np.array_equal(a.frames(), b.frames())
    assert np.allclose(a.features["action_units"], b.features["action_units"], atol=0.05)


@pytest.mark.real_data
def test_real_clip(test_data, tmp_path):
    """A real recording, at 1080p: cut to the square of its full height, every frame with a face."""
    video = test_data / "data" / "clips" / "mead_M003_L1_happy_1080.mp4"
    clip = prepare(video, tmp_path / "clip", size=256, progress=False)
    assert clip.track.valid.all() and clip.crop.window_width == 1080
    assert float(clip.track.held_out_error.median()) < 4.0
    shown = dict(zip(EMOTIONS, clip.features["emotion"].mean(0).tolist()))
    assert max(shown.keys() - {"neutral"}, key=shown.get) == "happy"


@pytest.mark.real_data
def test_blendshapes(test_data, tmp_path):
    """With MediaPipe's face landmarker the units are refined and the blendshapes stay with the clip."""
    clip = prepare(
        demo_video(tmp_path),
        tmp_path / "clip",
        size=128,
        max_seconds=1.2,
        face_landmarker=test_data / "models" / "face_landmarker.task",
        features=FeatureOptions(action_units="blendshapes"),
        progress=False,
    )
    assert clip.features["blendshapes"].shape == (30, 52) and "blendshapes" in clip.feature_sources["action_units"]
