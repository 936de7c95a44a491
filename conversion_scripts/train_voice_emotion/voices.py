"""Training data of the Voice Listener: acted utterances of EMO-DB and talking people, both augmented with other
microphones.

In: a folder of EMO-DB, processed clips. Out: `Heard`: the statistics of a `VoiceListener` five times per second, with
labels. Acted utterances of a speaker are joined to longer recordings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emotag_hf.audio.audio_features import FRAME_RATE, log_mel_features
from emotag_hf.audio.audio_io import read_audio
from emotag_hf.constants import EMOTIONS, SAMPLE_RATE
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.voice_listener import VoiceListener

# The sixth letter of a file's name (German words). L, boredom, is none of the seven and is left out.
LETTERS = {"W": "angry", "E": "disgust", "A": "fear", "F": "happy", "T": "sad", "N": "neutral"}
FPS, EVERY = 25, 5  # of five frames one is kept
UNKNOWN = -1  # no label: the second after a change, and people without a label
_CHANGE = 1.5  # s


@dataclass(frozen=True)
class Utterance:
    """Sound `[n]` at 16 kHz of one speaker; `label` in the order of `EMOTIONS`, or UNKNOWN."""

    name: str
    speaker: str
    label: int
    samples: np.ndarray


@dataclass
class Heard:
    """One recording: statistics and trust `[T, S]`, labels `[T]`; `acted` or talked."""

    name: str
    speaker: str
    statistics: Tensor
    trust: Tensor
    labels: Tensor
    acted: bool


def read_emodb(folder: Path) -> list[Utterance]:
    """The utterances of a folder of EMO-DB but the bored ones, without the silence at their ends."""
    found = []
    for path in sorted(folder.glob("*.flac")) + sorted(folder.glob("*.wav")):
        if path.stem[5:6] in LETTERS:
            samples = read_audio(path)
            loud = np.flatnonzero(np.abs(samples) > 1e-3)
            label = EMOTIONS.index(LETTERS[path.stem[5]])
            found.append(Utterance(path.stem, path.stem[:2], label, samples[: loud[-1] + 1]))
    if not found:
        raise SystemExit(f"no recordings of EMO-DB in {folder}")
    return found


def read_talkers(folder: Path, persons: dict[str, str]) -> list[Utterance]:
    """The sound of processed clips, and who speaks; a clip that is not in `persons` counts as another person."""
    paths = sorted(folder.glob("*/audio.flac"))
    names = [path.parent.name for path in paths]
    return [Utterance(n, persons.get(n, n), UNKNOWN, read_audio(p)) for n, p in zip(names, paths, strict=True)]


def hear(samples: np.ndarray, fps: int = FPS) -> tuple[Tensor, Tensor]:
    """Sound -> statistics and trust `[T, S]`, one row a video frame."""
    listener = VoiceListener(EmoTaGMotionConfig(listener_dim=1, fps=fps))
    features = log_mel_features(samples)
    features = np.pad(features, ((0, -len(features) % (FRAME_RATE // fps)), (0, 0)))
    with torch.inference_mode():
        statistics, trust = listener.statistics(torch.from_numpy(features)[None], listener.init_state())
    return statistics[0].clone(), trust[0].clone()


def as_recorded(utterance: Utterance) -> Heard:
    """The utterance as it is, every frame of it."""
    statistics, trust = hear(utterance.samples)
    labels = torch.full((len(statistics),), utterance.label)
    return Heard(utterance.name, utterance.speaker, statistics, trust, labels, utterance.label != UNKNOWN)


def end_of(heard: Heard) -> Heard:
    """The later half of a recording, where the statistics have enough data."""
    keep = slice(len(heard.labels) // 2, None, 3)
    return replace(heard, statistics=heard.statistics[keep], trust=heard.trust[keep], labels=heard.labels[keep])


def joined(utterances: list[Utterance], rng: np.random.Generator, switches: float = 0.25) -> Heard:
    """One to four utterances of one speaker, of one emotion or (a share) of several, recorded elsewhere."""
    first = utterances[int(rng.integers(len(utterances)))]
    others = utterances if rng.random() < switches else [u for u in utterances if u.label == first.label]
    chosen = [first] + [others[int(rng.integers(len(others)))] for _ in range(rng.integers(0, 4))]
    parts, labels, speed = [], [], rng.uniform(0.93, 1.07)
    for number, utterance in enumerate(chosen):
        pause = np.zeros(int(rng.uniform(0.05, 0.5) * SAMPLE_RATE), np.float32)
        places = np.arange(0, len(utterance.samples) - 1, speed)
        sound = np.interp(places, np.arange(len(utterance.samples)), utterance.samples).astype(np.float32)
        parts += [pause, sound]
        label = np.full(len(pause) + len(sound), utterance.label)
        if number and chosen[number - 1].label != utterance.label:
            label[: int(_CHANGE * SAMPLE_RATE)] = UNKNOWN
        labels.append(label)
    return _elsewhere(np.concatenate(parts), np.concatenate(labels), first, rng)


def excerpt(talker: Utterance, rng: np.random.Generator, seconds: float = 10.0) -> Heard:
    """Up to `seconds` of talking people, augmented."""
    count = min(len(talker.samples), int(seconds * SAMPLE_RATE))
    start = int(rng.integers(0, len(talker.samples) - count + 1))
    samples = talker.samples[start : start + count]
    return _elsewhere(samples, np.full(count, talker.label), talker, rng)


def _elsewhere(samples: np.ndarray, labels: np.ndarray, who: Utterance, rng: np.random.Generator) -> Heard:
    if rng.random() < 0.5:  # trained on augmented voices alone, accuracy on clean ones is a tenth lower
        samples = disturb(samples, rng)
    statistics, trust = hear(samples * np.float32(10 ** (rng.uniform(-14, 6) / 20)))
    labels = labels[np.minimum(np.arange(len(statistics)) * (SAMPLE_RATE // FPS), len(labels) - 1)]
    keep = slice(int(rng.integers(EVERY)), None, EVERY)
    return Heard(
        who.name, who.speaker, statistics[keep], trust[keep], torch.from_numpy(labels[keep].copy()),
        who.label != UNKNOWN,
    )  # fmt: skip


def disturb(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another microphone, room, distance and noise."""
    count = len(samples)
    spectrum = np.fft.rfft(samples)
    hz = np.linspace(0, SAMPLE_RATE / 2, len(spectrum))
    octave = np.log2(np.maximum(hz, 60) / 60) / 7  # 0 at 60 Hz, 1 at 7.7 kHz
    knots = rng.normal(0, 2.0, 6)
    gain_db = np.interp(octave, np.linspace(0, 1, 6), knots) + rng.normal(0, 2.0) * (octave - 0.5) * 2
    if rng.random() < 0.15:  # a telephone, a bad codec
        gain_db = gain_db - 40 * np.clip((hz - rng.uniform(3200, 7000)) / 600, 0, 1)
    if rng.random() < 0.2:
        gain_db = gain_db - 30 * np.clip((rng.uniform(80, 250) - hz) / 80, 0, 1)
    sound = np.fft.irfft(spectrum * 10 ** (gain_db / 20), count)
    if rng.random() < 0.25:
        length = int(rng.uniform(0.1, 0.5) * SAMPLE_RATE)
        tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
        size = count + length
        echo = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size), size)[:count]
        sound = sound + echo * rng.uniform(0.1, 0.6) * sound.std() / (echo.std() + 1e-9)
    level = np.sqrt(np.mean(sound**2)) + 1e-9
    noise = rng.standard_normal(count)
    if rng.random() < 0.5:
        noise = np.fft.irfft(np.fft.rfft(noise) / np.sqrt(np.maximum(hz, 50) / 50), count)
    sound = sound / level + noise / noise.std() * 10 ** (-rng.uniform(15, 55) / 20)
    return (sound * level).astype(np.float32)
