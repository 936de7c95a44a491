"""Makes formant-synthesised speech sound like recordings: rooms, microphones, noise, breath, hum and level."""

from __future__ import annotations

import numpy as np

RATE = 16_000


def coloured_noise(rng: np.random.Generator, count: int, slope: float) -> np.ndarray:
    """`[n]` noise of unit RMS whose power falls with frequency to the `slope` (0 white, 1 pink, 2 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(count).astype(np.float32))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 30.0)
    noise = np.fft.irfft(spectrum * frequency ** (-slope / 2), count)
    return (noise / (noise.std() + 1e-12)).astype(np.float32)


def _filter(rng: np.random.Generator, sound: np.ndarray) -> np.ndarray:
    """A random smooth equaliser, sometimes a telephone-like low-pass, sometimes a room."""
    count = len(sound) + RATE // 2
    frequency = np.fft.rfftfreq(count, 1 / RATE)
    knots = np.linspace(0, np.log2(8000 / 60), 8)
    gains = rng.normal(0, 4.0, 8) + rng.normal(0, 1.5) * np.linspace(-2, 2, 8)
    decibels = np.interp(np.log2(np.maximum(frequency, 60) / 60), knots, gains)
    if rng.random() < 0.25:
        decibels = decibels - np.maximum(0, frequency - rng.uniform(3000, 7000)) / 1000 * rng.uniform(8, 30)
    if rng.random() < 0.3:
        decibels = decibels - np.maximum(0, rng.uniform(80, 250) - frequency) / 10
    response = 10 ** (decibels / 20)
    if rng.random() < 0.5:
        tail = int(rng.uniform(0.08, 0.4) * RATE)
        room = rng.standard_normal(tail) * np.exp(-6.9 * np.arange(tail) / tail)
        room *= rng.uniform(0.05, 0.45) / np.sqrt(np.sum(room**2))
        room[0] = 1.0
        response = response * np.fft.rfft(room, count)
    return np.fft.irfft(np.fft.rfft(sound, count) * response, count)[: len(sound)].astype(np.float32)


def _breaths_and_hum(rng: np.random.Generator, sound: np.ndarray, level: float, pauses) -> None:
    """Adds, in place, breath noise inside pauses (start, end in samples) and a mains-like hum."""
    for start, end in pauses:
        if end - start > RATE // 3 and rng.random() < 0.4:
            length = int(rng.uniform(0.15, 0.4) * RATE)
            begin = rng.integers(start, max(start + 1, end - length))
            piece = sound[begin : min(end, begin + length)]
            shape = np.sin(np.pi * np.arange(len(piece)) / max(1, len(piece))) ** 2
            piece += (coloured_noise(rng, len(piece), 0.5) * shape * level * rng.uniform(0.02, 0.12)).astype(np.float32)
    if rng.random() < 0.2:
        time = np.arange(len(sound)) / RATE
        base = rng.choice((50.0, 60.0, 100.0, 120.0, 180.0))
        hum = sum(np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6)) / k for k in (1, 2, 3))
        sound += (hum * level * rng.uniform(0.005, 0.05)).astype(np.float32)


def augment(rng: np.random.Generator, sound: np.ndarray, pauses: list[tuple[int, int]], babble=None) -> np.ndarray:
    """`[n]` clean 16 kHz speech -> `[n]` a plausible recording of it, never clipped."""
    level = float(np.sqrt(np.mean(sound**2)) + 1e-6)
    if rng.random() < 0.9:
        sound = _filter(rng, sound)
        sound *= level / (np.sqrt(np.mean(sound**2)) + 1e-9)
    else:
        sound = sound.copy()
    _breaths_and_hum(rng, sound, level, pauses)
    if rng.random() < 0.85:
        decibels = rng.uniform(12, 50)
        sound += coloured_noise(rng, len(sound), rng.uniform(0, 2)) * level * 10 ** (-decibels / 20)
    if babble is not None and rng.random() < 0.15:
        other = np.resize(babble, len(sound))
        sound += other / (other.std() + 1e-6) * level * 10 ** (-rng.uniform(14, 30) / 20)
    if rng.random() < 0.3:  # compression, as loud recordings have it
        sound = np.tanh(sound / level * 0.6) * level / 0.6
    # A slow drift of the distance to the microphone.
    drift = np.interp(np.arange(len(sound)), np.linspace(0, len(sound), 6), rng.normal(0, 2.0, 6))
    sound = sound * 10 ** ((drift + rng.uniform(-42, -14)) / 20) / level
    return np.clip(sound, -1, 1).astype(np.float32)


def nonspeech(rng: np.random.Generator, count: int) -> np.ndarray:
    """`[n]` sound during which a mouth stays shut: silence, noise, hum, clicks, music."""
    kind = rng.integers(6)
    sound = np.zeros(count, np.float32)
    if kind >= 1:
        sound += coloured_noise(rng, count, rng.uniform(0, 2)) * 10 ** (rng.uniform(-75, -38) / 20)
    if kind == 2:
        _breaths_and_hum(rng, sound, 0.1, [(0, count)])
    if kind == 3:
        for position in rng.integers(0, count, max(1, count // 8000)):
            click = np.exp(-np.arange(400) / rng.uniform(10, 80)) * rng.standard_normal(400)
            piece = sound[position : position + 400]
            piece += (click[: len(piece)] * 10 ** (rng.uniform(-50, -25) / 20)).astype(np.float32)
    if kind == 4:
        sound += _loud_clicks(rng, count)
    if kind == 5:
        sound += _music(rng, count)
    return sound.clip(-1, 1)


def _loud_clicks(rng: np.random.Generator, count: int) -> np.ndarray:
    """Bursts of noise in a rhythm, each like the release of a t."""
    every, length = int(RATE / rng.uniform(1.5, 12)), int(rng.uniform(8, 200))
    at = np.arange(count) + (rng.normal(0, 0.1 * every, count // every + 1).repeat(every)[:count]).astype(int)
    burst = (at % every < length) * rng.standard_normal(count)
    return (burst * 10 ** (rng.uniform(-35, 0) / 20)).clip(-1, 1).astype(np.float32)


def _music(rng: np.random.Generator, count: int) -> np.ndarray:
    """Chords of one to four notes with overtones that change with a beat."""
    every, time = int(RATE * rng.uniform(0.12, 1.0)), np.arange(count) / RATE
    beat = (np.arange(count) // every) % 16
    fall = np.exp(-(np.arange(count) % every) / RATE * rng.uniform(0, 8))
    out = np.zeros(count)
    for _ in range(rng.integers(1, 5)):
        notes = 220 * 2 ** (rng.integers(-24, 25, 16) / 12)
        phase = 2 * np.pi * np.cumsum(notes[beat]) / RATE
        out += sum(np.sin(k * phase) / k**2 for k in range(1, rng.integers(2, 6)))
    out *= fall * (1 + 0.3 * np.sin(2 * np.pi * rng.uniform(0, 6) * time))
    return (out / (np.abs(out).max() + 1e-9) * 10 ** (rng.uniform(-30, -2) / 20)).astype(np.float32)
