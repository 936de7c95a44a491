"""Builds the synthetic speech set on which `train_motion_open.py` trains. Nothing of it is anyone's recording.

    python conversion_scripts/synthesize_speech/generate.py --hours 5 --out /tmp/synthetic_speech

Writes `train.npz` and `heldout.npz` (other voice variants, never heard in training): log-mel features float16, targets
in motion space, viseme classes and closure masks, clip after clip with their offsets. Deterministic by `--seed` for one
version of espeak-ng.
"""

from __future__ import annotations

import argparse
import random
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

if __package__ in (None, ""):  # run as a script
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from synthesize_speech.augment import RATE, augment, nonspeech
from synthesize_speech.espeak import RestartingEspeak
from synthesize_speech.texts import WORDS, sentence
from synthesize_speech.visemes import face_motion, targets

from emotag_hf.audio_features import log_mel_features
from emotag_hf.modeling_motion import VISEMES

VARIANTS = (
    "Alex Alicia Andrea Annie AnxiousAndy Denis Diogo Gene Henrique Hugo Jacky Lee Marco Michael Mike adam anika "
    "antonio aunty belinda benjamin boris caleb david ed edward f1 f2 f3 f5 grandma grandpa gustave iven iven2 john "
    "kaukovalta klatt klatt2 klatt4 linda m1 m2 m3 m4 m6 m7 m8 max michel miguel norbert pablo paul pedro quincy rob "
    "robert sandro shelby steph travis victor whisper zac"
).split()
HELD_OUT_VARIANTS = "f4 m5 Andy klatt3 marcelo steph2".split()


def speak_clip(engine: RestartingEspeak, rng: random.Random, variants: list[str], seconds: float):
    """One voice speaking several sentences: `(samples [n] at 16 kHz, phonemes, pauses)`.

    The sound is played up to 15 % faster or slower than it was made, which moves pitch and formants together, as the
    size of a head does; the phoneme times move with it.
    """
    voice = f"{rng.choice(list(WORDS))}+{rng.choice(variants)}"
    settings = dict(rate=rng.randint(120, 230), pitch=rng.randint(20, 80), pitch_range=rng.randint(20, 90))
    speed = Fraction(rng.choice((16, 17, 18, 19, 20, 20, 21, 22, 23)), 20)
    pieces, phonemes, pauses, clock = [], [], [], 0
    while clock < seconds * RATE:
        gap = int(rng.choice((0.05, 0.2, 0.4, 0.8, 1.5)) * rng.uniform(0.7, 1.3) * RATE)
        pieces.append(np.zeros(gap, np.float32))
        pauses.append((clock, clock + gap))
        clock += gap
        said = engine.say(sentence(rng, voice.split("+")[0]), voice, **settings)
        if said is None or len(said.samples) == 0:
            continue
        ratio = Fraction(RATE, said.rate) / speed
        sound = resample_poly(said.samples, ratio.numerator, ratio.denominator).astype(np.float32)
        phonemes += [(s, clock / RATE + t / float(speed)) for s, t in said.phonemes]
        phonemes.append(("", (clock + len(sound)) / RATE))
        pieces.append(sound)
        clock += len(sound)
    return np.concatenate(pieces), phonemes, pauses


def build(hours: float, variants: list[str], seed: int, engine: RestartingEspeak, log) -> dict[str, np.ndarray]:
    """Clips of about twelve seconds until `hours` are full; one in twelve is no speech at all."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    features, values, classes, closures, lengths, total, babble = [], [], [], [], [], 0.0, None
    started = time.monotonic()
    while total < hours * 3600:
        if rng.random() < 1 / 12:
            sound, phonemes = nonspeech(noise, int(rng.uniform(3, 10) * RATE)), []
        else:
            clean, phonemes, pauses = speak_clip(engine, rng, variants, rng.uniform(6, 14))
            sound = augment(noise, clean, pauses, babble)
            babble = clean
        sound = sound[: len(sound) // 640 * 640]
        seconds = len(sound) / RATE
        target, names, closed = targets([p for p in phonemes if p[1] < seconds], seconds)
        features.append(log_mel_features(sound).astype(np.float16))
        values.append(target.astype(np.float16))
        classes.append(np.array([VISEMES.index(n) for n in names], np.int8))
        closures.append(closed)
        lengths.append(len(target))
        total += seconds
        if len(lengths) % 100 == 0:
            log(f"{total / 3600:.2f} h of {hours:.2f} h, {total / (time.monotonic() - started):.0f} x real time")
    return {
        "features": np.concatenate(features), "targets": np.concatenate(values), "visemes": np.concatenate(classes),
        "closures": np.concatenate(closures), "lengths": np.array(lengths),
        "face": face_motion(np.concatenate(values)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--hours", type=float, default=5.0)
    parser.add_argument("--heldout-hours", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    engine = RestartingEspeak()
    for name, hours, variants, seed in (
        ("heldout", arguments.heldout_hours, HELD_OUT_VARIANTS, arguments.seed + 1),
        ("train", arguments.hours, VARIANTS, arguments.seed),
    ):
        data = build(hours, variants, seed, engine, lambda line, name=name: print(name, line, flush=True))
        np.savez(arguments.out / f"{name}.npz", **data)


if __name__ == "__main__":
    main()
