"""Builds the synthetic speech on which the motion networks train. Nothing of it is anyone's recording.

    python conversion_scripts/synthesize_speech/generate.py --hours 5 --out DATA
    python conversion_scripts/synthesize_speech/generate.py --sentences FORTUNES --hours 4 --out NATURAL
    python conversion_scripts/synthesize_speech/generate.py --voices flite --sentences FORTUNES --hours 5 --out HUMAN
    python conversion_scripts/synthesize_speech/generate.py --voices kokoro --pieces PIECES --hours 3 --out KOKORO
    python conversion_scripts/synthesize_speech/generate.py --voices none --hours 0.15 --out NOISE

Writes `train.npz` and `heldout.npz` (other voices, not in the training data; flite has none, nor have noises, clicks
and music): log-mel features float16, targets in motion space, viseme classes and closure masks, clip after clip
with their offsets. Deterministic by `--seed` for one version of espeak-ng and flite. Words are drawn at random, or
sentences of Debian's quotations (/usr/share/games/fortunes) are said.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

if __package__ in (None, ""):  # run as a script
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from synthesize_speech import flite, kokoro
from synthesize_speech.augment import RATE, augment, nonspeech
from synthesize_speech.espeak import RestartingEspeak
from synthesize_speech.sentences import read_sentences
from synthesize_speech.texts import WORDS, sentence
from synthesize_speech.visemes import face_motion, segments, targets_of

from emotag_hf.audio.audio_features import log_mel_features
from emotag_hf.models.lip_closures import VISEMES

VARIANTS = (
    "Alex Alicia Andrea Annie AnxiousAndy Denis Diogo Gene Henrique Hugo Jacky Lee Marco Michael Mike adam anika "
    "antonio aunty belinda benjamin boris caleb david ed edward f1 f2 f3 f5 grandma grandpa gustave iven iven2 john "
    "kaukovalta klatt klatt2 klatt4 linda m1 m2 m3 m4 m6 m7 m8 max michel miguel norbert pablo paul pedro quincy rob "
    "robert sandro shelby steph travis victor whisper zac"
).split()
_LENGTH = 12.0  # s, of utterances that are joined
_GAP = (0.1, 0.5)  # s between them
HELD_OUT_VARIANTS = "f4 m5 Andy klatt3 marcelo steph2".split()
Parts = list[tuple[str, float, float]]  # shape of `visemes`, start and end in seconds
# `say` of a voice: a sentence's samples, their rate in Hz, their parts; None where it could not be said.
Say = Callable[[], tuple[np.ndarray, int, Parts] | None]


@dataclass
class Espeak:
    """Formula voices in many languages; random words, or `sentences` by language."""

    engine: RestartingEspeak
    variants: list[str]
    sentences: dict[str, list[str]] | None = None

    def voice(self, rng: random.Random) -> Say:
        """A random voice that goes on speaking."""
        language = rng.choice(list(self.sentences or WORDS))
        voice = f"{language}+{rng.choice(self.variants)}"
        settings = dict(rate=rng.randint(120, 230), pitch=rng.randint(20, 80), pitch_range=rng.randint(20, 90))

        def say():
            text = rng.choice(self.sentences[language]) if self.sentences else sentence(rng, language)
            said = self.engine.say(text, voice, **settings)
            if said is None or len(said.samples) == 0:
                return None
            return said.samples, said.rate, segments(said.phonemes, len(said.samples) / said.rate)

        return say


@dataclass
class Flite:
    """Voices made of people's recordings, English `sentences` alone."""

    sentences: list[str]

    def voice(self, rng: random.Random) -> Say:
        """A random voice that goes on speaking."""
        name = rng.choices(list(flite.VOICES), [share for _, share in flite.VOICES.values()])[0]
        stretch, pitch = rng.uniform(0.8, 1.25), flite.VOICES[name][0] * rng.uniform(0.85, 1.2)

        def say():
            said = flite.say(rng.choice(self.sentences), name, stretch=stretch, pitch=pitch)
            return (said.samples, said.rate, said.parts) if said.parts else None

        return say


@dataclass
class Kokoro:
    """What Kokoro's voices said (`kokoro.py`): the sentences of each."""

    said: dict[str, list[kokoro.Said]]

    @classmethod
    def read(cls, folder: Path, name: str) -> Kokoro:
        found: dict[str, list[kokoro.Said]] = defaultdict(list)
        for voice, said in kokoro.read_pieces(folder, name):
            found[voice].append(said)
        return cls(found)

    def voice(self, rng: random.Random) -> Say:
        """A random voice, the more often the more it said, that goes on speaking."""
        voices = list(self.said)
        sentences = self.said[rng.choices(voices, [len(self.said[v]) for v in voices])[0]]

        def say():
            one = rng.choice(sentences)
            return one.samples, RATE, one.parts

        return say

    def once(self, seed: int) -> Recordings:
        """Every sentence once, as it was said."""
        made, rng = Recordings(), np.random.default_rng(seed)
        for number, voice in enumerate(sorted(self.said)):
            for sound, parts in join([(one.samples, one.parts) for one in self.said[voice]], rng):
                made.add(sound, parts, number)
        return made


Speaker = Espeak | Flite | Kokoro


def speak_clip(speaker: Speaker, rng: random.Random, seconds: float):
    """One voice speaking several sentences: `(samples [n] at 16 kHz, parts, pauses)`.

    The sound is played up to 20 % faster or slower than it was made, which moves pitch and formants together, as the
    size of a head does; the phoneme times move with it.
    """
    say = speaker.voice(rng)
    speed = Fraction(rng.choice((16, 17, 18, 19, 20, 20, 21, 22, 23)), 20)
    pieces, parts, pauses, clock = [], [], [], 0
    while clock < seconds * RATE:
        gap = int(rng.choice((0.05, 0.2, 0.4, 0.8, 1.5)) * rng.uniform(0.7, 1.3) * RATE)
        pieces.append(np.zeros(gap, np.float32))
        pauses.append((clock, clock + gap))
        parts.append(("sil", clock / RATE, (clock + gap) / RATE))
        clock += gap
        said = say()
        if said is None:
            continue
        samples, rate, spoken = said
        ratio = Fraction(RATE, rate) / speed
        sound = resample_poly(samples, ratio.numerator, ratio.denominator).astype(np.float32)
        parts += [(s, clock / RATE + a / float(speed), clock / RATE + b / float(speed)) for s, a, b in spoken]
        pieces.append(sound)
        clock += len(sound)
    return np.concatenate(pieces), parts, pauses


def joined(parts: Parts, seconds: float) -> Parts:
    """The parts that begin within `seconds`, each from the end of the one before; silences in a row are one."""
    found: list[list] = [["sil", 0.0, 0.0]]
    for shape, _, end in parts:
        end = min(end, seconds)
        if shape == found[-1][0] == "sil":
            found[-1][2] = max(end, found[-1][2])
        elif end > found[-1][2]:
            found.append([shape, found[-1][2], end])
    if found[-1][2] < seconds:
        found.append(["sil", found[-1][2], seconds])
    return [tuple(part) for part in found if part[2] > part[1]]


def join(
    utterances: Sequence[tuple[np.ndarray, Parts]], rng: np.random.Generator
) -> Iterable[tuple[np.ndarray, Parts]]:
    """Utterances of one speaker, one after another with pauses, in recordings of some `_LENGTH` seconds."""
    pieces, parts, clock = [], [], 0.0
    for sound, said in utterances:
        gap = np.zeros(int(rng.uniform(*_GAP) * RATE), np.float32)
        begin = clock + len(gap) / RATE
        parts += [("sil", clock, begin), *((shape, begin + a, begin + b) for shape, a, b in said)]
        pieces += [gap, sound]
        clock = begin + len(sound) / RATE
        if clock > _LENGTH:
            yield np.concatenate(pieces), parts
            pieces, parts, clock = [], [], 0.0
    if pieces:
        yield np.concatenate(pieces), parts


class Recordings:
    """Recordings as they are collected; `arrays` is what a file of them holds."""

    def __init__(self):
        self.columns = {name: [] for name in ("features", "targets", "visemes", "closures", "lengths", "speakers")}
        self.seconds = 0.0

    def add(self, sound: np.ndarray, parts: Parts, speaker: int = 0) -> None:
        """`[n]` samples at 16 kHz and what is spoken when; a part of a frame at the end is dropped."""
        sound = sound[: len(sound) // 640 * 640]
        seconds = len(sound) / RATE
        target, names, closed = targets_of(joined(parts, seconds), seconds)
        row = (log_mel_features(sound).astype(np.float16), target.astype(np.float16),
               np.array([VISEMES.index(n) for n in names], np.int8), closed, len(target), speaker)  # fmt: skip
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)
        self.seconds += seconds

    def arrays(self) -> dict[str, np.ndarray]:
        whole = {
            name: np.array(values) if name in ("lengths", "speakers") else np.concatenate(values)
            for name, values in self.columns.items()
        }
        return whole | {"face": face_motion(whole["targets"])}


def build(hours: float, speaker: Speaker | None, seed: int, log) -> dict[str, np.ndarray]:
    """Clips of about twelve seconds until `hours` are full; one in twelve is no speech at all, or every one."""
    rng, noise = random.Random(seed), np.random.default_rng(seed)
    made, babble, started = Recordings(), None, time.monotonic()
    while made.seconds < hours * 3600:
        if speaker is None or rng.random() < 1 / 12:
            made.add(nonspeech(noise, int(rng.uniform(3, 10) * RATE)), [])
        else:
            clean, parts, pauses = speak_clip(speaker, rng, rng.uniform(6, 14))
            made.add(augment(noise, clean, pauses, babble), parts)
            babble = clean
        if len(made.columns["lengths"]) % 100 == 0:
            rate = made.seconds / (time.monotonic() - started)
            log(f"{made.seconds / 3600:.2f} h of {hours:.2f} h, {rate:.0f} x real time")
    return made.arrays()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--voices", choices=("espeak", "flite", "kokoro", "none"), default="espeak")
    parser.add_argument("--sentences", type=Path, help="folder of Debian's fortunes, to say what people wrote")
    parser.add_argument("--pieces", type=Path, help="folder of kokoro.py, for --voices kokoro")
    parser.add_argument("--hours", type=float, default=5.0)
    parser.add_argument("--heldout-hours", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.voices == "flite" and arguments.sentences is None:
        parser.error("--voices flite says English sentences: name their folder with --sentences")
    if arguments.voices == "kokoro" and arguments.pieces is None:
        parser.error("--voices kokoro reads what kokoro.py made: name the folder with --pieces")
    arguments.out.mkdir(parents=True, exist_ok=True)
    sentences = read_sentences(arguments.sentences) if arguments.sentences else None
    if arguments.voices == "none":
        sets = [("train", arguments.hours, None, arguments.seed)]
    elif arguments.voices == "flite":
        sets = [("train", arguments.hours, Flite(sentences["en-us"]), arguments.seed)]
    elif arguments.voices == "kokoro":
        heldout = Kokoro.read(arguments.pieces, "heldout").once(arguments.seed)
        np.savez(arguments.out / "heldout.npz", **heldout.arrays())
        sets = [("train", arguments.hours, Kokoro.read(arguments.pieces, "train"), arguments.seed)]
    else:
        engine = RestartingEspeak()
        sets = [
            ("heldout", arguments.heldout_hours, Espeak(engine, HELD_OUT_VARIANTS, sentences), arguments.seed + 1),
            ("train", arguments.hours, Espeak(engine, VARIANTS, sentences), arguments.seed),
        ]
    for name, hours, speaker, seed in sets:
        data = build(hours, speaker, seed, lambda line, name=name: print(name, line, flush=True))
        np.savez(arguments.out / f"{name}.npz", **data)


if __name__ == "__main__":
    main()
