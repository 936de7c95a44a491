"""The offset between sound and picture: its sign, its size, and when not to believe it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from emotag_hf.audio.audio_io import read_audio
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.features.av_offset import MAX_LAG, compare_mouths, estimate_av_offset, measure_mouth
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.rendering.cameras import Camera
from emotag_hf.utils.asset_paths import sample_path


def talking(count: int, seed: int) -> np.ndarray:
    """`[count, 4]` something that moves like a mouth: a few syllables a second."""
    noise = np.random.default_rng(seed).standard_normal((count + 8, 4))
    kernel = np.array([1, 3, 4, 3, 1]) / 12
    return np.stack([np.convolve(column, kernel, "same") for column in noise.T], 1)[4 : 4 + count]


def seen_from(heard: np.ndarray, lag: float, noise: float, seed: int = 5) -> np.ndarray:
    """The mouth of which the sound comes `lag` frames late, as a tracker sees it: scaled, drifting, noisy."""
    random = np.random.default_rng(seed)
    times = np.arange(len(heard))
    moved = np.stack([np.interp(times + lag, times, column) for column in heard.T], 1)
    drift = 2 * np.sin(times / 40)[:, None] * random.standard_normal(4)
    return moved * (0.2, 0.1, 0.3, 0.05) * heard.std() + (drift + noise * random.standard_normal(heard.shape)) * 0.1


@pytest.mark.parametrize("lag", [-5.0, -1.5, 0.0, 0.4, 3.0, 7.0])
def test_finds_the_lag(lag):
    """Positive is late sound; slow drift of the mouth does not matter; a fraction of a frame is found."""
    heard = talking(250, seed=1)
    offset = compare_mouths(seen_from(heard, lag, noise=0.5), heard)
    assert offset.frames == pytest.approx(lag, abs=0.35)
    assert offset.reliable and offset.confidence > 0.95
    assert offset.seconds == pytest.approx(offset.frames / 25)


def test_foreign_sound_is_not_believed():
    """Of forty pictures with somebody else's sound, hardly one is called reliable."""
    wrong = [compare_mouths(talking(150, seed), talking(150, seed + 100)) for seed in range(40)]
    assert sum(offset.reliable for offset in wrong) <= 2
    assert np.mean([offset.confidence for offset in wrong]) < 0.6


def test_short_clips_are_never_reliable():
    """Two seconds that agree perfectly are still two seconds."""
    heard = talking(50, seed=2)
    offset = compare_mouths(heard, heard)
    assert offset.frames == pytest.approx(0, abs=0.1) and not offset.reliable


def test_gaps_and_unequal_lengths():
    """Frames without a face are left out, not taken for a still mouth; sound may end before the picture."""
    heard = talking(300, seed=3)
    seen = seen_from(heard, 2.0, noise=0.5)
    seen[40:80] = np.nan
    seen[200] = np.nan
    offset = compare_mouths(seen, heard[:250])
    assert offset.frames == pytest.approx(2.0, abs=0.35) and offset.reliable
    nothing = compare_mouths(np.full((300, 4), np.nan), heard)
    assert not nothing.reliable and nothing.confidence < 0.6


def test_a_still_mouth_tells_nothing():
    """A photo has no lag, and no numbers that are not finite."""
    offset = compare_mouths(np.full((200, 4), 0.3), talking(200, seed=4))
    assert np.isfinite(offset.frames) and not offset.reliable and abs(offset.frames) <= MAX_LAG


@pytest.fixture(scope="module")
def head() -> ParametricHead:
    return ParametricHead.from_asset()


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return read_audio(sample_path())


@pytest.fixture(scope="module")
def track(head, speech) -> HeadTrack:
    """A head that speaks the embedded sample, as a tracker would give it: jittering, and turning to and fro."""
    from emotag_hf.models.processing_emotag import EmoTaGFeatureExtractor
    from emotag_hf.preprocessing.features.av_offset import _embedded_model

    features = EmoTaGFeatureExtractor()(speech, 16000)["input_features"]
    with torch.inference_mode():
        out = _embedded_model().motion(features)
    count = out.jaw_pose.shape[1]
    motion = FlameMotion.zeros(count)
    motion.rotation[:, 1] = 0.2 * torch.sin(torch.arange(count) / 15)
    motion.expression[:], motion.jaw_pose[:] = out.expression[0], out.jaw_pose[0]
    points = torch.full((count, 478, 3), 0.0)
    points[:, :468] = head.landmarks(head(**motion.head_inputs()).vertices) * 1000
    points += 0.7 * torch.randn(points.shape, generator=torch.Generator().manual_seed(0))
    return HeadTrack(
        motion=motion, shape=torch.zeros(head.num_shape), camera=Camera.portrait((512, 512)),
        valid=torch.ones(count, dtype=torch.bool), confidence=torch.ones(count), error=torch.zeros(count),
        held_out_error=torch.zeros(count), landmarks=points, head_sha256=head.sha256,
    )  # fmt: skip


@pytest.mark.parametrize("lag", [-4, 0, 3])
def test_sound_moved_by_hand(track, head, speech, lag):
    """Silence before the sound makes it late: positive. A head that turns and jitters does not disturb."""
    samples = np.pad(speech, (lag * 640, 0)) if lag >= 0 else speech[-lag * 640 :]
    offset = estimate_av_offset(track, head, samples)
    assert offset.frames == pytest.approx(lag, abs=0.5)
    assert offset.reliable


def test_invalid_frames_are_not_looked_at(track, head, speech):
    """A failed fit holds its neighbours' motion, and its landmarks may be anybody's."""
    broken = HeadTrack(**{**vars(track), "valid": track.valid.clone(), "landmarks": track.landmarks.clone()})
    broken.valid[20:40] = False
    broken.landmarks[20:40] = torch.randn(20, 478, 3, generator=torch.Generator().manual_seed(1)) * 500
    offset = estimate_av_offset(broken, head, speech)
    assert offset.frames == pytest.approx(0, abs=0.5)


def test_nothing_to_hear(track, head):
    """Silence and an empty recording are not reliable, and no error."""
    for samples in (np.zeros(16000 * 5, np.float32), np.zeros(0, np.float32)):
        assert not estimate_av_offset(track, head, samples).reliable


def test_wrong_arguments(track, head, speech):
    """Each names what is wrong."""
    slow = HeadTrack(**{**vars(track), "motion": FlameMotion.zeros(len(track), fps=30.0)})
    with pytest.raises(ValueError, match="^track: expected 25 frames"):
        estimate_av_offset(slow, head, speech)
    with pytest.raises(ValueError, match="^samples: expected mono"):
        estimate_av_offset(track, head, speech[:, None])
    encoder = SimpleNamespace(motion=SimpleNamespace(config=SimpleNamespace(frontend="transformers")))
    with pytest.raises(ValueError, match="^model: expected one that reads log-mel"):
        estimate_av_offset(track, head, speech, model=encoder)


@pytest.mark.real_data
def test_real_clip_moved_by_hand(test_data, head):
    """On a real clip, moving the sound by three frames moves the estimate by three frames."""
    from emotag_hf.preprocessing.features.av_offset import predict_mouth
    from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
    from emotag_hf.video.video_reader import read_video

    clip = read_video(test_data / "data" / "clips" / "may_5s_512.mp4")
    seen = measure_mouth(track_landmarks(clip.frames(25), clip.width, clip.height).points.astype(np.float64))
    speech, shape = clip.audio.mono(), torch.zeros(head.num_shape)
    plain = compare_mouths(seen, predict_mouth(speech, head, shape))
    assert plain.reliable and abs(plain.frames) < 3
    for lag in (-3, 3):
        moved = np.pad(speech, (lag * 640, 0)) if lag > 0 else speech[-lag * 640 :]
        offset = compare_mouths(seen, predict_mouth(moved, head, shape))
        assert offset.reliable and offset.frames - plain.frames == pytest.approx(lag, abs=0.3)
