"""The doctor's checks of the sound and of lip sync.

In: `Evidence`. Out: `Check`s. Every threshold is a constant with its reason beside it.
"""

from __future__ import annotations

import numpy as np

from ...audio.audio_io import SILENCE, AudioClip
from ...constants import MOTION_FPS, SAMPLE_RATE
from .evidence import Evidence
from .report import GREEN, GREY, YELLOW, Check, graded, percent

# Signal-to-noise ratio in dB, between the 90th and 10th percentile of loudness. In a quiet room it is 35 or more; at 15
# soft consonants are no louder than the noise.
GOOD_SNR = 18.0
MAX_CLIPPED = 0.01  # share of clipped 20 ms blocks; the motion network confuses clipping with s and f
FLAT = 3  # consecutive samples at the peak level that count as clipped
MIN_SPEECH = 0.30  # least share of the time with a voice; the network learns nothing from pauses
MAX_LENGTHS = 0.5  # seconds: largest difference in length between sound and picture
GOOD_OFFSET = 2.5  # frames (100 ms): viewers notice sound that is 45 ms early or 125 ms late (ITU-R BT.1359)
# If a clip has this many seconds of face and the offset's confidence is below the second number, the sound probably
# does not belong to it: so it is in nine of ten clips with foreign sound, and in one of twenty with their own.
TELLING, DOUBTFUL = 8.0, 0.6
SOFT = 0.1  # of full scale: channels with a lower peak are not clipped
_BLOCK = SAMPLE_RATE // 50


def is_audible(audio: AudioClip | None) -> bool:
    """Whether there is sound that is not silence."""
    return audio is not None and float(np.abs(audio.samples).max(initial=0.0)) >= SILENCE


def check_sound(e: Evidence) -> Check:
    if e.audio is None:
        finding = e.audio_problem or "There is no sound."
        advice = "Without sound only the appearance is learned, not how this person speaks. Record with a microphone."
        return Check("sound", "sound", None, "", YELLOW, finding, advice)
    if not is_audible(e.audio):
        return Check("sound", "sound", 0.0, "", YELLOW, "The sound track is silent.", "Check the microphone.")
    share = float(voiced_blocks(levels(e.audio.mono())).mean())
    if share < MIN_SPEECH:
        finding = f"There is a voice or another sound in only {percent(share)} of the time."
        return Check("sound", "sound", share, "share", YELLOW, finding, "Record more talking, and trim long pauses.")
    return Check("sound", "sound", share, "share", GREEN, f"There is a voice or sound in {percent(share)} of the time.")


def check_noise(e: Evidence) -> Check:
    value = signal_to_noise(levels(e.audio.mono()))
    if value >= GOOD_SNR:
        return Check("noise", "sound", value, "dB", GREEN, f"The voice is {value:.0f} dB louder than the background.")
    return Check(
        "noise", "sound", value, "dB", YELLOW, f"The voice is only {value:.0f} dB louder than the background.",
        "Record in a quiet room, close to the microphone, without music; or leave a pause, to measure the noise.",
    )  # fmt: skip


def check_clipping(e: Evidence) -> Check:
    share = clipped_share(e.audio)
    if share <= MAX_CLIPPED:
        return Check("clipping", "sound", share, "share", GREEN, "The recording is not too loud.")
    return Check(
        "clipping", "sound", share, "share", YELLOW,
        f"The recording is too loud: in {percent(share)} of the time its peaks are cut off.",
        "Lower the level of the microphone, or speak from farther away.",
    )  # fmt: skip


def check_sound_length(e: Evidence) -> Check | None:
    if e.audio_duration is None:
        return None
    difference = e.audio_duration - e.duration
    if abs(difference) <= MAX_LENGTHS:
        return Check("sound length", "sound", difference, "s", GREEN, "Sound and picture have the same length.")
    which, what = ("longer", "its end is not used") if difference > 0 else ("shorter", "the rest is treated as silence")
    return Check(
        "sound length", "sound", difference, "s", YELLOW,
        f"The sound is {abs(difference):.1f} s {which} than the picture; {what}.",
        "Check that this is the right sound; export sound and picture together.",
    )  # fmt: skip


def check_offset(e: Evidence) -> Check | None:
    offset = e.offset
    if offset is None:
        return None
    sure = f"(confidence {offset.confidence:.2f})"
    seconds = float(np.isfinite(e.mouth[:, 0]).sum()) / MOTION_FPS
    if not offset.reliable:
        if seconds < TELLING or offset.confidence >= DOUBTFUL:
            finding = f"The offset between sound and lips could not be measured {sure}."
            return Check("lip sync", "sound", offset.frames, "frames", GREY, finding)
        return Check(
            "lip sync", "sound", offset.frames, "frames", YELLOW,
            f"The sound does not seem to belong to these lips, or the lips are not visible enough {sure}.",
            "Use the clip's own sound, not a dubbed voice, music or another recording.",
        )  # fmt: skip
    milliseconds = abs(1000 * offset.seconds)
    light = graded(abs(offset.frames), GOOD_OFFSET, np.inf)
    order = "after" if offset.frames > 0 else "before"
    if light == GREEN:
        return Check("lip sync", "sound", offset.frames, "frames", GREEN, f"Sound and lips are in sync {sure}.")
    return Check(
        "lip sync", "sound", offset.frames, "frames", light,
        f"The sound comes {milliseconds:.0f} ms {order} the picture {sure}.",
        f"The offset is stored with the clip, so that training can compensate it. To correct the file, move the sound "
        f"{'forward' if offset.frames > 0 else 'back'} by {milliseconds:.0f} ms, so that it comes "
        f"{'earlier' if offset.frames > 0 else 'later'}.",
    )  # fmt: skip


def levels(samples: np.ndarray) -> np.ndarray:
    """Loudness of every 20 ms of mono 16 kHz samples in dBFS, not below -90."""
    count = max(1, len(samples) // _BLOCK)
    padded = np.pad(samples, (0, max(0, count * _BLOCK - len(samples))))
    blocks = padded[: count * _BLOCK].reshape(count, _BLOCK).astype(np.float64)
    blocks = blocks - blocks.mean(1, keepdims=True)  # removes the DC offset
    return 10 * np.log10((blocks * blocks).mean(1) + 1e-9)


def signal_to_noise(level: np.ndarray) -> float:
    """dB between the 90th and 10th percentile of `level`. Without pauses the latter is speech, and this is too low."""
    quiet, loud = np.percentile(level, (10, 90))
    return float(loud - quiet)


def voiced_blocks(level: np.ndarray) -> np.ndarray:
    """Blocks at most 30 dB below the loud ones, and nearer to them than to the background noise."""
    quiet, loud = np.percentile(level, (5, 95))
    return level > max(loud - 30, (loud + quiet) / 2 if loud - quiet > 6 else -np.inf)


def clipped_share(audio: AudioClip) -> float:
    """Share of 20 ms blocks in which a channel stays at its peak level or exceeds full scale."""
    block, worst = max(1, audio.sampling_rate // 50), 0.0
    for channel in audio.samples.T:
        size = np.abs(channel)
        peak = size.max(initial=0.0)
        if peak < SOFT:
            continue
        flat = size >= 0.999 * peak
        for _ in range(FLAT - 1):
            flat = flat[:-1] & (size[len(size) - len(flat) + 1 :] >= 0.999 * peak)
        tops = np.concatenate([np.flatnonzero(flat), np.flatnonzero(size >= 0.999)])
        worst = max(worst, len(np.unique(tops // block)) * block / len(size))
    return worst


SOUND_CHECKS = (check_noise, check_clipping, check_sound_length, check_offset)  # only with audible sound
