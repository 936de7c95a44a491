"""Generated head motion, blinks, gaze, brows and breathing: human in rate and size, seeded, the same in any chunks."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from emotag_hf.audio.loudness import loudness_from_samples
from emotag_hf.motion.driving_motion import resample_frames
from emotag_hf.motion.motion_generator import MotionGenerator, generate_upper_face
from emotag_hf.motion.motion_planner import MotionPlanner
from emotag_hf.motion.motion_strengths import MotionStrengths, check_unit_interval
from emotag_hf.motion.speech_listener import STEP, SpeechListener

TIMES = np.arange(1500) / 25  # a minute


def _talk(frames: int, seed: int = 0) -> np.ndarray:
    """The loudness of phrases of 1 to 4 s, syllables at 4 Hz in them, and pauses of 0.3 to 1 s between."""
    rng = np.random.default_rng(seed)
    parts = []
    while sum(map(len, parts)) < frames:
        t = np.arange(rng.integers(25, 100)) / 25
        parts.append(np.clip(0.35 + 0.35 * np.sin(2 * np.pi * 4 * t) + 0.2 * rng.normal(size=len(t)), 0.08, 1))
        parts.append(np.zeros(rng.integers(8, 25)))
    return np.concatenate(parts)[:frames]


def _angles(upper) -> np.ndarray:
    """Pitch, yaw and roll of the head in degrees; rotations of root and neck are about the same axes."""
    return torch.rad2deg(upper.rotation + upper.neck_pose).double().numpy()


def _band(values: np.ndarray, low: float, high: float) -> float:
    """Root mean square between two frequencies."""
    window = np.hanning(len(values))
    power = np.abs(np.fft.rfft((values - values.mean()) * window)) ** 2 * 2 / (window**2).sum() / len(values)
    hz = np.fft.rfftfreq(len(values), 1 / 25)
    return float(np.sqrt(power[(hz >= low) & (hz < high)].sum()))


def _blink_starts(upper) -> np.ndarray:
    shut = upper.eyelids[:, 0].numpy() > 0.5
    return np.flatnonzero(shut[1:] & ~shut[:-1]) + 1


def test_same_seed_same_motion_and_another_seed_another():
    """Reproducible to the bit; the seed matters."""
    a, b, c = (generate_upper_face(TIMES, _talk(1500), seed) for seed in (1, 1, 2))
    for name in vars(a):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert not torch.equal(a.rotation, c.rotation) and not torch.equal(a.eyelids, c.eyelids)


def test_a_longer_recording_starts_with_the_same_frames():
    """What comes later changes nothing, to the bit."""
    whole = generate_upper_face(TIMES, _talk(1500), 3)
    part = generate_upper_face(TIMES[:400], _talk(1500)[:400], 3)
    for name in vars(whole):
        assert torch.equal(getattr(whole, name)[:400], getattr(part, name)), name


@pytest.mark.parametrize("fps", [25, 30, 50])
@pytest.mark.parametrize("chunk", [1, 3, 7, 250])
def test_a_stream_gets_the_bits_of_the_whole(chunk, fps):
    """Loudness in chunks, frames as soon as they can be had: the same as all at once, at any frame rate."""
    loudness = _talk(500, 5)
    whole = MotionGenerator(seed=4)
    whole.hear(loudness)
    times = np.arange(int(whole.heard_until * fps) + 1) / fps
    once, stream, parts, done = whole.at(times), MotionGenerator(seed=4), [], 0
    for first in range(0, len(loudness), chunk):
        stream.hear(loudness[first : first + chunk])
        # A frame between two values of the loudness needs the one after it.
        until = int(np.searchsorted(times, stream.heard_until + 1e-6))
        parts.append(stream.at(times[done:until]))
        done = until
    assert done == len(times)
    for name in vars(once):
        assert torch.equal(getattr(once, name), torch.cat([getattr(p, name) for p in parts])), name


def test_every_frame_rate_shows_the_same_motion():
    """30 frames a second are the same head as 25: where both have a frame it is the same frame."""
    generator = MotionGenerator(seed=2)
    generator.hear(_talk(501))
    slow, fast = generator.at(np.arange(500) / 25), generator.at(np.arange(600) / 30)
    torch.testing.assert_close(slow.rotation[::5], fast.rotation[::6], atol=1e-6, rtol=0)
    torch.testing.assert_close(slow.eyelids[::5], fast.eyelids[::6], atol=1e-4, rtol=0)


def test_blinks_come_at_human_rates_and_shut_the_eyes():
    """Real clips have 29 a minute in speech, half shut for 0.12 s: 15 to 40 over each minute, every blink shut for a
    frame and over within half a second."""
    for seed in range(8):
        upper = generate_upper_face(TIMES, _talk(1500, seed), seed)
        assert 15 <= len(_blink_starts(upper)) <= 40
        lids = upper.eyelids[:, 0].numpy()
        runs = "".join("x" if shut else " " for shut in lids > 0.5).split()
        assert 2 <= np.median([len(run) for run in runs]) <= 5 and max(map(len, runs)) <= 12
        assert (lids > 0.98).sum() >= len(runs)


def test_blinks_prefer_pauses_and_ends_of_phrases():
    """Their share in pauses is above that of the time, as in real clips (1.4 times)."""
    in_pause, quiet = [], []
    for seed in range(8):
        loudness = _talk(1500, seed)
        still = np.convolve(loudness < 0.05, np.ones(5), "same") > 2
        in_pause.append(still[_blink_starts(generate_upper_face(TIMES, loudness, seed))])
        quiet.append(still)
    assert 1.15 < np.concatenate(in_pause).mean() / np.concatenate(quiet).mean() < 2.5


def test_head_moves_as_heads_do():
    """Standard deviation and bands of the spectrum over 6 s, as long as the clips that were measured: within a factor
    of 1.7 of the medians of real clips (docs/motion.md)."""
    real = {"std": (2.3, 1.8, 1.25), (0.5, 1): (0.89, 0.97, 0.51), (1, 2): (0.73, 0.64, 0.4), (2, 4): (0.53, 0.32, 0.2)}
    made = [_angles(generate_upper_face(TIMES, _talk(1500, seed), seed)).reshape(10, 150, 3) for seed in range(6)]
    for axis in range(3):
        for band, expected in real.items():
            windows = np.concatenate(made)[:, :, axis]
            found = np.median([w.std() if band == "std" else _band(w, *band) for w in windows])
            assert expected[axis] / 1.7 < found < expected[axis] * 1.7, (axis, band, found)


def test_head_is_livelier_in_speech_and_calm_but_alive_in_silence():
    """Silence: a few tenths of a degree a second, breath, saccades, blinks; speech: several times that."""
    talk, silence = (generate_upper_face(TIMES, x, 1) for x in (_talk(1500), np.zeros(1500)))
    speeds = [np.linalg.norm(np.diff(_angles(u), axis=0), axis=-1).mean() * 25 for u in (talk, silence)]
    assert 0.3 < speeds[1] < 3 and speeds[0] > 3 * speeds[1]
    assert _angles(silence).std(0).min() > 0.1  # not frozen
    assert 8 <= len(_blink_starts(silence)) <= 30
    steps = silence.eyes_pose[:, :2].diff(dim=0).norm(dim=-1)
    assert (torch.rad2deg(steps) > 1).sum() > 15
    longest = max(map(len, "".join("x" if s else " " for s in np.abs(np.diff(_angles(silence)[:, 0])) < 1e-4).split()))
    assert longest < 10  # frames in which nothing moves


def test_brows_and_nods_answer_stress():
    """Brows rise some times a minute in speech, hardly in silence; nods and lifts of the chin start at stressed
    syllables alone."""
    talk, silence = ([generate_upper_face(TIMES, x, seed) for seed in range(4)] for x in (_talk(1500), np.zeros(1500)))
    raised = [np.mean([(u.expression.max(-1).values > 0.1).float().mean() for u in us]) for us in (talk, silence)]
    assert 0.03 < raised[0] < 0.4 and raised[1] < 0.3 * raised[0]
    plan, listener, stressed = MotionPlanner(0), SpeechListener(), []
    for k, value in enumerate(_talk(1500).tolist()):
        plan.hear(value)
        listener.hear(value)
        stressed += [k * STEP] * listener.stressed
    assert 10 < len(plan.nods.starts) < 60 and set(plan.nods.starts) <= set(stressed)
    assert plan.nods.at(TIMES).max() > 1 and plan.nods.at(TIMES).min() < -1


def test_gaze_stays_with_the_viewer():
    """Saccades about once a second, mostly below 6 degrees; the eyes turn back as the head turns; lids follow down."""
    upper = generate_upper_face(TIMES, _talk(1500), 6)
    head, eyes = _angles(upper), torch.rad2deg(upper.eyes_pose).double().numpy()
    assert np.array_equal(eyes[:, :3], eyes[:, 3:])
    slope = np.polyfit(head[:, 1], eyes[:, 1], 1)[0]
    assert -1.1 < slope < -0.4
    steps = np.linalg.norm(np.diff(eyes[:, :2] + np.array([0.6, 0.75]) * head[:, :2], axis=0), axis=-1)
    assert 40 < (steps > 1).sum() < 150 and np.median(steps[steps > 1]) < 6
    away = np.linalg.norm(eyes[:, :2] + np.array([0.6, 0.75]) * head[:, :2], axis=-1)
    assert np.median(away) < 4 and away.max() < 16
    open_eyes = upper.eyelids[:, 0].numpy() < 0.3
    assert np.corrcoef(eyes[open_eyes, 0], upper.eyelids[open_eyes, 0])[0, 1] > 0.3


@pytest.mark.parametrize("seed", range(3))
def test_ten_minutes_are_quick_and_do_not_drift(seed):
    """Under a second for 15,000 frames, and the tenth minute is as the first; 20 degrees are never left."""
    loudness = _talk(15000, seed)
    generate_upper_face(TIMES, loudness[:1500], seed)
    began = time.perf_counter()
    upper = generate_upper_face(np.arange(15000) / 25, loudness, seed)
    assert time.perf_counter() - began < 3  # 0.2 s alone on one core; machines are shared
    minutes = _angles(upper).reshape(10, 1500, 3)
    assert np.abs(minutes.mean(1)).max() < 3 and np.abs(minutes).max() < 20
    assert 0.5 < minutes[9].std() / minutes[0].std() < 2
    assert upper.translation.abs().max() < 0.03
    blinks = [len(_blink_starts(generate_upper_face(TIMES, loudness[:1500], seed))), len(_blink_starts(upper)) / 10]
    assert 0.6 < blinks[0] / blinks[1] < 1.6


@pytest.mark.parametrize("seed", range(3))
def test_nothing_pops(seed):
    """Bounded speed, acceleration and jerk of the head, at 100 frames a second; real clips: 43 degrees/s at 99 %."""
    generator = MotionGenerator(seed)
    generator.hear(_talk(1501, seed))
    angles = _angles(generator.at(np.arange(6000) / 100))
    speed, bend, jerk = (np.abs(np.diff(angles, n, axis=0)) * 100**n for n in (1, 2, 3))
    assert speed.max() < 110 and bend.max() < 1500 and jerk.max() < 100_000
    lids = generator.at(np.arange(6000) / 100).eyelids.double().numpy()
    assert np.abs(np.diff(lids, axis=0)).max() * 100 < 60  # from open to shut takes more than a frame at 60 fps


def test_off_means_off_and_parts_are_apart():
    """Each strength at 0 stills its part and leaves the others; 2 doubles the head and the brows."""
    usual = generate_upper_face(TIMES, _talk(1500), 0)
    head = generate_upper_face(TIMES, _talk(1500), 0, MotionStrengths(head=0, breathing=0))
    assert head.rotation.abs().max() == head.neck_pose.abs().max() == head.translation.abs().max() == 0
    assert head.eyelids.max() > 0.98 and torch.equal(head.expression, usual.expression)
    gaze = generate_upper_face(TIMES, _talk(1500), 0, MotionStrengths(gaze=0))
    assert gaze.eyes_pose.abs().max() == 0 and torch.equal(gaze.rotation, usual.rotation)
    blinks = generate_upper_face(TIMES, _talk(1500), 0, MotionStrengths(blinks=0))
    assert blinks.eyelids.max() < 0.3 and blinks.action_units.max() < 5 and torch.equal(blinks.rotation, usual.rotation)
    brows = generate_upper_face(TIMES, _talk(1500), 0, MotionStrengths(brows=0))
    assert brows.expression.abs().max() == 0 and torch.equal(brows.eyelids, usual.eyelids)
    still = generate_upper_face(TIMES, _talk(1500), 0, MotionStrengths(breathing=0))
    assert torch.equal(still.rotation, usual.rotation) and not torch.equal(still.translation, usual.translation)
    twice = generate_upper_face(TIMES, _talk(1500), 0, MotionStrengths(head=2, brows=2))
    torch.testing.assert_close(twice.rotation, 2 * usual.rotation)
    torch.testing.assert_close(twice.expression, 2 * usual.expression)
    more = generate_upper_face(TIMES, _talk(1500), 0, MotionStrengths(blinks=2))
    assert len(_blink_starts(more)) > 1.3 * len(_blink_starts(usual))


def test_strength_zero_is_a_still_head_that_blinks():
    """`head_motion=0` stops head, gaze, brows and breath, not the lids."""
    upper = generate_upper_face(TIMES, _talk(1500), 0, strength=0.0)
    for name in ("rotation", "neck_pose", "translation", "eyes_pose", "expression"):
        assert getattr(upper, name).abs().max() == 0, name
    assert upper.eyelids.max() > 0.9


@pytest.mark.parametrize("value", [-0.1, 2.1, float("nan"), "1", None, True])
def test_bad_strengths_are_named(value):
    """One sentence that says what was expected."""
    with pytest.raises(ValueError, match=r"blinks: expected a number in \[0, 2\], got"):
        MotionStrengths(blinks=value)
    with pytest.raises(ValueError, match=r"head_motion: expected a number in \[0, 2\] or MotionStrengths, got"):
        MotionStrengths.of(value)


def test_times_that_were_not_heard_and_bad_loudness_are_named():
    """A stream that asks too early, and loudness that is none."""
    generator = MotionGenerator()
    with pytest.raises(ValueError, match="times: expected rising seconds from 0 to"):
        generator.at(np.array([0.0]))
    generator.hear(np.zeros(11))
    assert generator.heard_until == pytest.approx(0.4)
    for times in ([0.5], [-0.1, 0.2], [0.3, 0.2], [np.nan]):
        with pytest.raises(ValueError, match="times: expected rising seconds from 0 to 0.40"):
            generator.at(np.array(times))
    with pytest.raises(ValueError, match="loudness: expected finite numbers"):
        generator.hear(np.array([0.1, np.nan]))
    with pytest.raises(ValueError, match="loudness: expected one number for each"):
        generate_upper_face(TIMES, np.zeros(3), 0)


def test_no_frames_and_one_frame():
    """The ends of the range."""
    assert generate_upper_face(TIMES[:0], np.zeros(0), 0).expression.shape == (0, 50)
    assert generate_upper_face(TIMES[:1], np.zeros(1), 0).rotation.shape == (1, 3)


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
