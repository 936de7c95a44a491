"""Generated head motion, blinks and gaze: seeded, prefix-stable, of human size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotag_hf.constants import EMOTIONS
from emotag_hf.motion_controls import (
    check_unit_interval,
    emotion_curve,
    generate_upper_face,
    loudness_from_samples,
    resample_frames,
)

TIMES = np.arange(1500) / 25  # a minute


def _loudness(n):
    return np.clip(np.sin(np.arange(n) * 0.7) * np.sin(np.arange(n) * 0.05), 0, 1)


def test_same_seed_same_motion_and_another_seed_another():
    """Reproducible to the bit; the seed matters."""
    a, b, c = (generate_upper_face(TIMES, _loudness(1500), seed) for seed in (1, 1, 2))
    for name in vars(a):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert not torch.equal(a.rotation, c.rotation) and not torch.equal(a.eyelids, c.eyelids)


def test_a_longer_recording_starts_with_the_same_frames():
    """What a stream generates frame by frame is what the whole recording gets."""
    whole = generate_upper_face(TIMES, _loudness(1500), 3)
    part = generate_upper_face(TIMES[:400], _loudness(1500)[:400], 3)
    for name in vars(whole):
        torch.testing.assert_close(getattr(whole, name)[:400], getattr(part, name), atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_blinks_come_at_human_rates_and_shut_the_eyes(seed):
    """8 to 30 blinks a minute, each fully shut for at least a frame and over within half a second."""
    shut = generate_upper_face(TIMES, _loudness(1500), seed).eyelids[:, 0] > 0.9
    starts = (shut[1:] & ~shut[:-1]).sum().item()
    assert 8 <= starts <= 30
    longest = max(len(run) for run in "".join("x" if s else " " for s in shut).split())
    assert longest <= 8


@pytest.mark.parametrize("seed", range(5))
def test_head_moves_a_few_degrees_smoothly_and_does_not_drift(seed):
    """Neither frozen nor drunk: 0.5 to 12 degrees, under 40 degrees a second, the same in the tenth minute."""
    for start in (0, 540):
        upper = generate_upper_face(TIMES + start, _loudness(1500), seed)
        angle = torch.rad2deg(upper.rotation + upper.neck_pose)
        assert 0.5 < angle.abs().max() < 12
        assert (angle.diff(dim=0).abs() * 25).max() < 40
        assert upper.translation.abs().max() < 0.02


def test_strength_zero_is_a_still_head_that_blinks():
    """`head_motion=0` stops head, gaze and brows, not the lids."""
    upper = generate_upper_face(TIMES, _loudness(1500), 0, strength=0.0)
    assert upper.rotation.abs().max() == 0 and upper.eyes_pose.abs().max() == 0 and upper.expression.abs().max() == 0
    assert upper.eyelids.max() > 0.9


def test_emotion_sets_in_smoothly_and_stays():
    """The gate rises from 0 to the intensity within half a second, without a jump."""
    probs, gate = emotion_curve("Happy", 0.7, 100, 25)
    assert probs[:, EMOTIONS.index("happy")].eq(1).all() and probs.sum(-1).eq(1).all()
    assert gate[0] == 0 and gate[-1] == pytest.approx(0.7) and gate.diff(dim=0).max() < 0.15
    assert emotion_curve(None, 1.0, 10, 25) == (None, None)
    with pytest.raises(ValueError, match="emotion: expected one of angry, disgust.*'joyful'"):
        emotion_curve("joyful", 1.0, 10, 25)


@pytest.mark.parametrize("value", [-0.1, 1.2, float("nan"), "0.5", None, True])
def test_intensity_outside_the_unit_interval_is_named(value):
    """One clear sentence for a bad intensity."""
    with pytest.raises(ValueError, match=r"intensity: expected a number in \[0, 1\]"):
        check_unit_interval("intensity", value)


def test_loudness_follows_speech_and_ignores_gain():
    """A quiet recording moves the head as a loud one does; silence does not."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=32000) * np.repeat([0.0, 0.2], 16000)
    times = np.arange(50) / 25
    loud, quiet = (loudness_from_samples(samples * gain, 16000, times) for gain in (1.0, 0.5))
    assert loud[:24].max() < 0.01 and loud[30:].min() > 0.4
    np.testing.assert_allclose(loud, quiet, atol=1e-3)


def test_resampling_keeps_values_and_holds_the_end():
    """Linear between frames, the last value afterwards."""
    values = torch.tensor([[0.0], [1.0], [4.0]])
    out = resample_frames(values, 25, np.array([0, 0.02, 0.04, 0.06, 0.08, 0.2]))
    torch.testing.assert_close(out[:, 0], torch.tensor([0, 0.5, 1, 2.5, 4, 4]))
