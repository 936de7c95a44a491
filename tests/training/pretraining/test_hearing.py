"""Training on what an ear heard: hidden states instead of features, from tracked clips to a network that speaks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from toy_speech import SMALL, toy_clip

from emotag_hf.audio.audio_features import log_mel_features
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.ear import Ear
from emotag_hf.models.ear_asset import ear_sha256, load_ear, save_ear
from emotag_hf.training.pretraining.hearing import heard_clips
from emotag_hf.training.pretraining.motion_data import from_tracked, load_tracked
from emotag_hf.training.pretraining.motion_scores import score_clips
from emotag_hf.training.pretraining.pretrain import Pretrainer, load_motion
from emotag_hf.training.pretraining.pretrain_arguments import PretrainArguments

PEOPLE = [toy_clip(i) for i in range(5)]


@pytest.fixture(scope="module")
def ear_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ear") / "ear.safetensors"
    save_ear(Ear(1), path)
    return path


def test_clips_are_heard_once_for_each_look_ahead(ear_file):
    """Two tokens a frame; other look-aheads and augmentation give other tokens; the rest of the clip stays."""
    ear = load_ear(str(ear_file))
    heard = heard_clips(PEOPLE[:2], ear, (0.16, "full"), augmented=1)
    assert [clip.name for clip in heard] == ["toy_0"] * 3 + ["toy_1"] * 3
    for clip, source in zip(heard[::3], PEOPLE):
        assert clip.sound.shape == (2 * len(source), 512) and clip.rate == 50 and clip.face is source.face
    near, full, changed = (clip.sound.float() for clip in heard[:3])
    assert (near - full).abs().max() > 1e-3 and (changed - near).abs().max() > 1e-2
    assert torch.equal(heard_clips(PEOPLE[:1], ear, (0.16,), augmented=1)[1].sound, changed.half())


def test_a_network_learns_from_what_was_heard(ear_file, tmp_path):
    """For people whom it has not heard, from features, at each look-ahead; the ear stays as it was."""
    config = EmoTaGMotionConfig(
        **SMALL, frontend="whisper_blocks", audio_encoder=str(ear_file), audio_encoder_sha256=ear_sha256(ear_file)
    )
    arguments = PretrainArguments(
        steps=60, batch_size=4, window=60, learning_rate=5e-3, augment=0.0, stretch=0.0, check_every=30, save_every=60
    )
    heard = heard_clips(PEOPLE[:4], load_ear(str(ear_file)), augmented=0)
    person = Pretrainer(heard, (), (), arguments, config=config)
    before = score_clips(person.averaged, PEOPLE[4:], person.lips).mean()["opening"]
    person.run(tmp_path)
    network = load_motion(tmp_path)
    assert not [name for name in network.state_dict() if ".ear." in name]
    for look_ahead in (0.16, "full"):
        after = score_clips(network, PEOPLE[4:], person.lips, look_ahead=look_ahead).mean()["opening"]
        assert after > max(0.5, before + 0.2), (before, after)


def test_a_network_may_hear_while_it_learns(ear_file):
    """From features, with a look-ahead that changes from step to step and is the same after resuming."""
    config = EmoTaGMotionConfig(**SMALL, frontend="whisper_blocks", audio_encoder=str(ear_file))
    arguments = PretrainArguments(steps=2, batch_size=2, window=30, stretch=0.0, check_every=1, save_every=2)
    person, other = (Pretrainer(PEOPLE[:2], (), (), arguments, config=config) for _ in range(2))
    assert person.batches.batch(0).sound.shape[1] >= (30 + 25) * 4
    chosen = [person._look_ahead() for person.step in range(20)]
    person.step = 0
    assert len(set(chosen)) > 3
    assert person.take_step()["lips"] == pytest.approx(other.take_step()["lips"])


def test_tracked_clips(tmp_path):
    """A file of `track_talkers` becomes a clip with its sound in step; others are refused in one sentence."""
    rng, frames = np.random.default_rng(0), 40
    samples = (rng.normal(size=frames * 640) * 3000).astype(np.int16)
    parts = {
        "samples": samples, "face": rng.normal(size=(frames, 53)).astype(np.float32),
        "valid": np.arange(frames) != 3, "action_units": np.zeros((frames, 14), np.float32),
        "emotion": np.zeros((frames, 7), np.float32), "identity": np.zeros(512, np.float32),
    }  # fmt: skip
    save_file(parts, tmp_path / "ann_1.safetensors")
    clip = from_tracked(tmp_path / "ann_1.safetensors", "ann", lag=1.5)
    assert (clip.name, clip.person, clip.rate, len(clip), clip.lag) == ("ann_1", "ann", 100, frames, 1.5)
    assert torch.equal(clip.sound[:-6], torch.from_numpy(log_mel_features(samples.astype(np.float32) / 32767))[6:])
    assert clip.valid.sum() == frames - 1
    assert [c.person for c in load_tracked(tmp_path)] == ["ann_1"]
    assert load_tracked(tmp_path, {"ann_1": "ann"}, {"ann_1": 2.0})[0].lag == 2.0
    with pytest.raises(FileNotFoundError, match="expected tracked clips"):
        load_tracked(tmp_path, lags={})
    (tmp_path / "bob.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="expected a tracked clip in .*bob"):
        load_tracked(tmp_path)
