"""Kokoro-82M (Apache-2.0): natural speech in eight languages, with the time of every phoneme.

In: a folder with `kokoro.onnx` (inputs tokens, style, speed; outputs the sound and, per token, its length in steps of
25 ms), `vocab.json` (symbol -> token) and `voices/*.bin`; sentences. Out: pieces, files of over a minute of speech
each, so that what was interrupted goes on where it was. Needs onnxruntime and the Debian package `espeak-ng`, whose
phonemes Kokoro reads. It speaks about 1.5 times as fast as real time on one core.

    python conversion_scripts/synthesize_speech/kokoro.py KOKORO --sentences FORTUNES --hours 2 -o PIECES

`generate.py --voices kokoro --pieces PIECES` makes training data of the pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

if __package__ in (None, ""):  # run as a script
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from synthesize_speech.augment import RATE
from synthesize_speech.sentences import read_sentences
from synthesize_speech.texts import sentence
from synthesize_speech.visemes import sound_parts

# First letter of a voice's name -> espeak-ng's voice that gives its phonemes, the language of its sentences.
LANGUAGES = {
    "a": ("en-us", "en-us"), "b": ("en-gb", "en"), "e": ("es", "es"), "f": ("fr-fr", "fr"), "i": ("it", "it"),
    "j": ("ja", "ja"), "p": ("pt-br", "pt-br"), "z": ("cmn-latn-pinyin", "cmn-latn-pinyin"),
}  # fmt: skip
# Never in training, nor in a mixture: what lips do is measured with them.
HELD_OUT = ("af_sarah", "am_puck", "bf_lily", "bm_fable", "em_alex", "if_sara", "pm_alex", "zf_xiaoyi")
_OWN_RATE = 24_000  # Hz, of what Kokoro says
_PIECE = 20  # sentences
_STEP = 0.025  # s
_LATE = 0.06  # s by which Kokoro's times are late, by forced alignment (pocketsphinx, 1,300 phonemes of nine voices)
_BREATH = 0.1  # shorter gaps between words are part of the sound before, s
_LETTERS = 400  # tokens that Kokoro reads at once (510 at most)

# espeak-ng's IPA (ties as ^) -> the symbols that Kokoro learned, in this order.
_DIPHTHONGS = (
    ("a^ɪ", "I"), ("a^ʊ", "W"), ("e^ɪ", "A"), ("ɔ^ɪ", "Y"), ("d^ʒ", "ʤ"), ("t^ʃ", "ʧ"), ("t^s", "ʦ"), ("d^z", "ʣ"),
    ("t^ɕ", "ʨ"), ("ts.", "ꭧ"), ("s.", "ʂ"),
)  # fmt: skip
_ENGLISH = (("ə^l", "ᵊl"), ("ɚ", "əɹ"), ("r", "ɹ"), ("x", "k"), ("ɐ", "ə"), ("ʔ", "t"), ("e^ə", "ɛː"))
_SYMBOLS = {
    "en-us": (*_ENGLISH, ("o^ʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɾ", "T"), ("ː", "")),
    "en-gb": (*_ENGLISH, ("ə^ʊ", "Q")),
    "cmn-latn-pinyin": (("5", "→"), ("ɜ", "↗"), ("2", "↓"), ("1", "↘")),
}
# Kokoro's symbols that are more than one sound -> IPA.
_SOUNDS = {
    "A": "eɪ", "I": "aɪ", "W": "aʊ", "O": "oʊ", "Q": "əʊ", "Y": "ɔɪ", "ʤ": "dʒ", "ʧ": "tʃ", "ʦ": "ts", "ʣ": "dz",
    "ʨ": "tɕ", "ꭧ": "tʂ", "T": "ɾ", "ᵊ": "ə", "S": "s",
}  # fmt: skip
_STRESS, _LONGER = "ˈˌ", "ːʰʲ→↗↓↘\u0303"  # parts of the sound after, and of the one before


def phonemes(text: str, voice: str) -> str:
    """What is said in Kokoro's symbols, punctuation kept. `voice`: espeak-ng's."""
    said = []
    for piece in re.findall(r"[^,.;:!?…]+[,.;:!?…]*", text):
        words = piece.rstrip(",.;:!?… ")
        command = ["espeak-ng", "-q", "--ipa", "--tie=^", "-v", voice, "--", words]
        ipa = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        ipa = re.sub(r"\(.*?\)", "", " ".join(ipa.split()))  # marks of a change of language
        for symbols, ours in (*_DIPHTHONGS, *_SYMBOLS.get(voice, ())):
            ipa = ipa.replace(symbols, ours)
        said.append(ipa.replace("^", "") + piece.rstrip()[len(words.rstrip()) :][:1])
    return " ".join(said).strip()


def parts_of(symbols: str, steps: np.ndarray, seconds: float) -> list[tuple[str, float, float]]:
    """`(shape of visemes, start, end)` in seconds over the whole sentence of so many.

    Args:
        symbols: what was said. steps: `[len(symbols) + 2]` length of each symbol in steps of 25 ms, with the silences
            before and after.
    """
    ends = np.maximum(np.cumsum(steps) * _STEP - _LATE, 0.0)
    sounds: list[list] = [["", 0.0, float(ends[0])]]
    for symbol, begun, end in zip(symbols, ends[:-2], ends[1:-1], strict=True):
        if symbol in _STRESS:
            continue
        sound = _SOUNDS.get(symbol, symbol) if symbol.isalpha() and symbol not in _LONGER else ""
        if sound or (symbol not in _LONGER and end - begun >= _BREATH):
            sounds.append([sound, sounds[-1][2], float(end)])
        else:
            sounds[-1][2] = float(end)
    sounds.append(["", sounds[-1][2], seconds])
    return [part for sound, start, end in sounds for part in sound_parts(sound, start, end)]


@dataclass
class Said:
    """`samples` float32 `[n]` at `RATE`; the `text` in Kokoro's `symbols`; `steps`: how long each lasts, with the
    silences around them."""

    samples: np.ndarray
    text: str
    symbols: str
    steps: np.ndarray

    @property
    def parts(self) -> list[tuple[str, float, float]]:
        """`(shape of visemes, start, end)` in seconds."""
        return parts_of(self.symbols, self.steps, len(self.samples) / RATE)


class Kokoro:
    """The voices of a folder, mixed or alone."""

    def __init__(self, folder: Path, threads: int = 1):
        try:
            import onnxruntime
        except ImportError as error:
            raise SystemExit("Kokoro needs onnxruntime: pip install onnxruntime") from error
        missing = [name for name in ("kokoro.onnx", "vocab.json", "voices") if not (folder / name).exists()]
        if missing:
            raise SystemExit(f"{folder}: expected kokoro.onnx, vocab.json and voices/, {', '.join(missing)} is missing")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(folder / "kokoro.onnx"), options)
        if len(self._session.get_outputs()) < 2:
            raise SystemExit(f"{folder}/kokoro.onnx: expected a second output, each token's length; it has one output")
        self._tokens: dict[str, int] = json.loads((folder / "vocab.json").read_text("utf-8"))
        self.styles = {
            path.stem: np.fromfile(path, np.float32).reshape(-1, 256)
            for path in sorted((folder / "voices").glob("*.bin"))
        }

    def say(self, text: str, style: np.ndarray, voice: str, speed: float = 1.0) -> Said | None:
        """None where there is nothing to say, or too much. `voice`: espeak-ng's; `style` `[510, 256]`."""
        symbols = "".join(s for s in phonemes(text, voice) if s in self._tokens)
        if not 3 <= len(symbols) <= _LETTERS:
            return None
        tokens = np.array([[0, *(self._tokens[s] for s in symbols), 0]], np.int64)
        sound, steps = self._session.run(
            None, {"tokens": tokens, "style": style[len(symbols) - 1][None], "speed": np.array([speed], np.float32)}
        )
        sound = resample_poly(sound.ravel(), RATE, _OWN_RATE).astype(np.float32)
        return Said(sound, text, symbols, np.round(steps.ravel()).astype(np.int16))

    def draw(self, rng: random.Random, held_out: bool) -> tuple[str, np.ndarray, str]:
        """A random voice, half the time a mixture of two: `(name, style, first letter)`."""
        languages = sorted({n[0] for n in self.styles if n[0] in LANGUAGES and (n in HELD_OUT) == held_out})
        letter = rng.choice(languages + [n for n in "aab" if n in languages])  # English three times as often
        names = [n for n in self.styles if n[0] == letter and (n in HELD_OUT) == held_out]
        first, second = rng.choice(names), rng.choice(names)
        if held_out or first == second or rng.random() < 0.5:
            return first, self.styles[first], letter
        share = rng.uniform(0.25, 0.75)
        return f"{first}+{second}", share * self.styles[first] + (1 - share) * self.styles[second], letter


def make_piece(kokoro: Kokoro, sentences: dict[str, list[str]], seed: int, held_out: bool) -> dict[str, np.ndarray]:
    """`_PIECE` sentences, each by another voice, end to end."""
    rng = random.Random(seed)
    said: list[Said] = []
    voices: list[str] = []
    while len(said) < _PIECE:
        name, style, letter = kokoro.draw(rng, held_out)
        voice, language = LANGUAGES[letter]
        known = sentences.get(language)
        text = rng.choice(known) if known and rng.random() < 0.85 else sentence(rng, language)
        heard = kokoro.say(text, style, voice, rng.uniform(0.8, 1.25))
        if heard is not None:
            said.append(heard)
            voices.append(name)
    return {
        "samples": (np.concatenate([one.samples for one in said]).clip(-1, 1) * 32767).astype(np.int16),
        "lengths": np.array([len(one.samples) for one in said]),
        "voices": np.array(voices),
        "texts": np.array([one.text for one in said]),
        "symbols": np.array([one.symbols for one in said]),
        "steps": np.concatenate([one.steps for one in said]),
    }


def read_pieces(folder: Path, name: str):
    """`(voice, what it said)` of each sentence of the pieces of `name` ("train", "heldout").

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted(folder.glob(f"{name}-*.npz"))
    if not paths:
        raise FileNotFoundError(f"{folder}: expected pieces {name}-*.npz of synthesize_speech/kokoro.py, found none")
    for path in paths:
        with np.load(path) as file:
            piece = dict(file)
        sounds = np.split(piece["samples"], np.cumsum(piece["lengths"])[:-1])
        steps = np.split(piece["steps"], np.cumsum([len(s) + 2 for s in piece["symbols"]])[:-1])
        texts, symbols = piece["texts"].tolist(), piece["symbols"].tolist()
        for voice, sound, *said in zip(piece["voices"].tolist(), sounds, texts, symbols, steps, strict=True):
            yield voice, Said(sound.astype(np.float32) / 32767, *said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kokoro", type=Path, help="folder of the model")
    parser.add_argument("--sentences", type=Path, help="folder of Debian's fortunes (default: words, at random)")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--heldout-hours", type=float, default=0.35)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    kokoro = Kokoro(arguments.kokoro)
    sentences = read_sentences(arguments.sentences) if arguments.sentences else {}
    arguments.out.mkdir(parents=True, exist_ok=True)
    # Held-out voices say sentences that training does not.
    kept = {language: lines[::10] for language, lines in sentences.items()}
    taught = {language: [line for i, line in enumerate(lines) if i % 10] for language, lines in sentences.items()}
    sets = [("heldout", arguments.heldout_hours, kept, 500_000), ("train", arguments.hours, taught, 0)]
    for name, hours, lines, offset in sets:
        seconds, index, started, made = 0.0, 0, time.monotonic(), 0.0
        while seconds < hours * 3600:
            path = arguments.out / f"{name}-{index:04d}.npz"
            if not path.exists():
                piece = make_piece(kokoro, lines, arguments.seed + offset + index, name == "heldout")
                partial = path.with_suffix(".partial")
                with partial.open("wb") as file:
                    np.savez_compressed(file, **piece)
                os.replace(partial, path)
                made += len(piece["samples"]) / RATE
            with np.load(path) as file:
                seconds += float(file["lengths"].sum()) / RATE
            index += 1
            speed = made / max(1e-9, time.monotonic() - started)
            left = (hours * 3600 - seconds) / speed / 60 if made else 0
            print(f"{name}: {seconds / 60:.1f} of {hours * 60:.0f} min, {left:.0f} min to go", flush=True)


if __name__ == "__main__":
    main()
