"""flite: English voices built from recordings, with the time of every phoneme.

Needs the Debian package `flite` (CMU, free licence). espeak-ng's voices are synthesised by formulas; a network trained
on them alone detects a p in every third frame of real speech. flite's are statistics of three people's recordings and
one set of diphones.
"""

from __future__ import annotations

import subprocess
import tempfile
import wave
from dataclasses import dataclass

import numpy as np

from .visemes import sound_parts

# Voice -> mean pitch in Hz, and how often it is drawn.
VOICES = {"slt": (170, 2), "rms": (100, 2), "awb": (120, 2), "kal16": (100, 1)}
IPA = {
    "aa": "a", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "ay": "aɪ", "b": "b", "ch": "tʃ", "d": "d",
    "dh": "ð", "eh": "ɛ", "er": "ɜ", "ey": "eɪ", "f": "f", "g": "g", "hh": "h", "ih": "ɪ", "iy": "i", "jh": "dʒ",
    "k": "k", "l": "l", "m": "m", "n": "n", "ng": "ŋ", "ow": "oʊ", "oy": "ɔɪ", "p": "p", "r": "ɹ", "s": "s", "sh": "ʃ",
    "t": "t", "th": "θ", "uh": "ʊ", "uw": "u", "v": "v", "w": "w", "y": "j", "z": "z", "zh": "ʒ", "pau": "",
}  # fmt: skip


@dataclass
class Spoken:
    """`samples` float32 in [-1, 1] at `rate` Hz; `parts`: (shape of `visemes`, start, end) in seconds."""

    samples: np.ndarray
    rate: int
    parts: list[tuple[str, float, float]]


def say(text: str, voice: str, *, stretch: float = 1.0, pitch: float = 120.0) -> Spoken:
    """Speaks `text`: `stretch` times as slowly, at a mean of `pitch` Hz.

    Raises:
        RuntimeError: flite is not installed, or could not.
    """
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        settings = ["--setf", f"duration_stretch={stretch:.2f}", "--setf", f"int_f0_target_mean={pitch:.0f}"]
        command = ["flite", "-voice", voice, *settings, "-psdur", "-t", text, "-o", file.name]
        try:
            times = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        except FileNotFoundError as error:
            raise RuntimeError("flite was not found; on Debian: `apt-get install flite`.") from error
        except subprocess.SubprocessError as error:
            raise RuntimeError(f"flite could not say {text!r} ({error}).") from error
        with wave.open(file.name) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16).astype(np.float32) / 32768
            rate = sound.getframerate()
    return Spoken(samples, rate, parts_of(times))


def parts_of(times: str) -> list[tuple[str, float, float]]:
    """What flite prints, `pau:0.216 b:0.247 ...` (phoneme and end in seconds), as parts of shapes."""
    parts, start = [], 0.0
    for item in times.split():
        name, end = item.rsplit(":", 1)
        parts += sound_parts(IPA[name], start, float(end), "pbm")  # a long m opens into what follows
        start = float(end)
    return parts
