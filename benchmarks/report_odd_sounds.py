"""Mouth motion for sounds that are not clean speech: silence, noise, music, two voices, a whisper, a telephone.

    python benchmarks/report_odd_sounds.py [speech.wav ...] [--model DIR]

For each recording (default: the package's sample) and modified versions of it: the gap between the lips in millimetres,
mean and 98th percentile, and chatter, its mean change from frame to frame; for the same speech the correlation with the
clean recording. Sounds without speech come first and do not depend on a recording; of these also the share of frames in
which the lips are over 0.5 mm apart, in the first second of sound and after it.
"""

from __future__ import annotations

import argparse

import numpy as np

from emotag_hf import EmoTaGPipeline, sample_path
from emotag_hf.audio.audio_io import load_audio
from emotag_hf.constants import MOTION_FPS
from emotag_hf.training.pretraining.lip_space import LipSpace

RATE = 16_000
SECONDS = 6


def without_speech() -> dict[str, np.ndarray]:
    """Name -> samples at 16 kHz."""
    rng, t = np.random.default_rng(0), np.arange(SECONDS * RATE) / RATE
    white = rng.standard_normal(len(t))
    brown = np.cumsum(white) / 60
    chords = [(220, 277, 330), (196, 247, 294), (175, 220, 262), (165, 208, 247)]
    beat = (t * 2).astype(int) % len(chords)
    music = sum(
        np.sin(2 * np.pi * np.array([c[i] for c in chords])[beat] * t * h) / h for i in range(3) for h in (1, 2, 3)
    )
    clicks = (np.arange(len(t)) % (RATE // 8) < 40) * white
    hum = sum(np.sin(2 * np.pi * 50 * k * t) / k for k in (1, 2, 3, 5))
    rooms = {f"a room of {db} dBFS": 10 ** (db / 20) * white for db in (-70, -60, -50, -45)}
    late = {f"{name}, after 2 s of zeros": x * (t > 2) for name, x in list(rooms.items())[1::2]}
    return {
        "near silence": 1e-5 * white,  # a recording of zeros idles without being heard
        **rooms,
        **late,
        "gated room": 10 ** (-50 / 20) * white * (t % 1.6 > 0.8),
        "hum of 50 Hz": 0.02 * hum,
        "a fan": 0.02 * (brown - brown.mean()) + 0.005 * white,
        "white noise": 0.1 * white,
        "rumble": 0.05 * (brown - brown.mean()),
        "a tone of 440 Hz": 0.3 * np.sin(2 * np.pi * 440 * t),
        "chords with a beat": 0.1 * music * (0.3 + 0.7 * np.exp(-6 * (t * 2 % 1))),
        "clicks": 0.5 * clicks,
    }


def of_speech(x: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> a modified version of the same speech."""
    rng = np.random.default_rng(1)
    spectrum, hz = np.fft.rfft(x), np.fft.rfftfreq(len(x), 1 / RATE)
    phone = np.fft.irfft(spectrum * ((hz > 300) & (hz < 3400)), len(x))
    other = np.roll(x[::-1], RATE // 3)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, (256, 256)), 512)[::256][: len(x) // 256]
    window = np.hanning(512)
    whisper = np.zeros(len(x) + 512)
    for i, frame in enumerate(frames):  # the voice's envelope on noise: no pitch
        shaped = np.abs(np.fft.rfft(frame * window)) * np.exp(2j * np.pi * rng.random(257))
        whisper[i * 256 : i * 256 + 512] += np.fft.irfft(shaped) * window
    noise = rng.standard_normal(len(x)) * x.std()
    return {
        "clean": x,
        "a telephone (8 kHz)": phone,
        "whispered": whisper[256 : len(x) + 256],
        "shouted (clipped)": np.clip(x * 12, -0.9, 0.9),
        "at a hundredth of the level": x / 100,
        "noise, 10 dB below": x + noise * 10 ** (-10 / 20),
        "noise, as loud": x + noise,
        "a second voice, 6 dB below": x + 0.5 * other,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("speech", nargs="*")
    parser.add_argument("--model", help="folder or name of a model")
    args = parser.parse_args()
    pipeline = EmoTaGPipeline.from_pretrained(args.model)
    pipeline.set_progress_bar_config(disable=True)
    lips = LipSpace(pipeline.model.head)

    def gap(samples: np.ndarray) -> np.ndarray:
        sound = {"array": samples.astype(np.float32), "sampling_rate": RATE}
        motion = pipeline(sound, emotion="neutral", head_motion=0, output_type="motion").motion
        return lips.opening(lips.points(motion.expression, motion.jaw_pose)).clamp_min(0).numpy()

    def row(name: str, found: np.ndarray, r: float | None = None, begins: int = 0) -> None:
        apart, first = found > 0.5, slice(begins, begins + MOTION_FPS)
        more = f"  apart: first {apart[first].mean():4.0%}, later {apart[begins + MOTION_FPS :].mean():4.0%}"
        more = more if r is None else f"  r {r:.2f}"
        chatter = np.abs(np.diff(found)).mean()
        print(
            f"{name:32s} mean {found.mean():4.1f}  widest {np.quantile(found, 0.98):4.1f}  chatter {chatter:4.2f}{more}"
        )

    for name, samples in without_speech().items():
        row(name, gap(samples), begins=int(np.argmax(samples != 0)) * MOTION_FPS // RATE)
    for path in args.speech or [sample_path()]:
        print(path)
        clean = None
        for name, samples in of_speech(load_audio(path).mono(RATE)[: 20 * RATE].astype(np.float64)).items():
            found = gap(samples)
            clean = found if clean is None else clean
            row(name, found, float(np.corrcoef(clean, found)[0, 1]))


if __name__ == "__main__":
    main()
