"""Forced alignment of English recordings whose words are known, in the format of synthetic speech.

    python conversion_scripts/synthesize_speech/align.py RECORDINGS TEXTS.json -o ALIGNED

TEXTS.json is `{"name": "what is said"}` or `{"name": {"text": "what is said", "speaker": "ann"}}`, the name without the
suffix. pocketsphinx (BSD, its English model is in the wheel) finds the phonemes. Recordings of a speaker are joined to
some twelve seconds. One speaker in ten goes into `heldout.npz`, all others into `train.npz`;
`phones.json` has the phonemes of each recording, for `benchmarks/report_closures.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

if __package__ in (None, ""):  # run as a script
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from synthesize_speech.augment import RATE, augment
from synthesize_speech.flite import IPA
from synthesize_speech.generate import Parts, Recordings, join
from synthesize_speech.visemes import sound_parts

from emotag_hf.audio.audio_io import read_audio

_AROUND = 0.25  # s
_SUFFIXES = (".wav", ".flac", ".opus", ".ogg", ".mp3", ".m4a", ".mp4")


class Aligner:
    """pocketsphinx with its English model."""

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise SystemExit("the aligner needs pocketsphinx: pip install pocketsphinx") from error
        self._decoder = Decoder(samprate=float(RATE), loglevel="FATAL")

    def phones(self, samples: np.ndarray, text: str) -> list[tuple[str, float, float]] | None:
        """`(ARPAbet phoneme without stress, or "SIL", start, end)` in seconds, or None where the words do not fit.

        Args:
            samples: float `[n]` at 16 kHz. text: words that its dictionary has; others make it None.
        """
        words = re.sub(r"[^a-z' ]", " ", text.lower().replace("’", "'")).split()
        if not words or any(self._decoder.lookup_word(word) is None for word in words):
            return None
        # Without silence around it, the last word of a recording that is cut closely is often not found.
        padded = np.pad(samples.clip(-1, 1), round(_AROUND * RATE))
        pcm = (padded * 32767).astype(np.int16).tobytes()
        try:
            self._decoder.set_align_text(" ".join(words))
            self._run(pcm)
            self._decoder.set_alignment()
            self._run(pcm)
        except RuntimeError:  # no path through the words
            return None
        found = self._decoder.get_alignment()
        if found is None:
            return None
        seconds = len(samples) / RATE
        times = [(p.name, p.start / 100 - _AROUND, (p.start + p.duration) / 100 - _AROUND) for w in found for p in w]
        return [(name, max(0.0, start), min(seconds, end)) for name, start, end in times if 0 < end and start < seconds]

    def _run(self, pcm: bytes) -> None:
        self._decoder.start_utt()
        try:
            self._decoder.process_raw(pcm, full_utt=True)
        finally:
            self._decoder.end_utt()


def parts_of(phones: list[tuple[str, float, float]], seconds: float) -> Parts:
    """Phonemes -> parts of mouth shapes over the whole recording; "SIL" is one of them."""
    sounds = [("" if name == "SIL" else IPA[name.lower()], start, end) for name, start, end in phones]
    return [part for sound in [*sounds, ("", sounds[-1][2], seconds)] for part in sound_parts(*sound)]


def read_texts(path: Path) -> dict[str, tuple[str, str]]:
    """Name of a recording -> its text and speaker; recordings without text are left out."""
    found = {}
    for name, facts in json.loads(path.read_text("utf-8")).items():
        facts = facts if isinstance(facts, dict) else {"text": facts}
        if facts.get("text"):
            found[name] = facts["text"], str(facts.get("speaker", path.stem))
    return found


def held_out(speaker: str) -> bool:
    """Whether a speaker is one of the tenth that teaches nothing."""
    return int(hashlib.sha256(speaker.encode()).hexdigest(), 16) % 10 == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recordings", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    paths = {p.stem: p for p in sorted(arguments.recordings.iterdir()) if p.suffix in _SUFFIXES}
    aligner, speakers, found, lost = Aligner(), defaultdict(list), {}, 0
    for name, (text, speaker) in tqdm(read_texts(arguments.texts).items(), "aligning", unit="recording"):
        if name in paths:
            sound = read_audio(paths[name])
            phones = aligner.phones(sound, text)
            if phones:
                found[name] = phones
                speakers[speaker].append((sound, parts_of(phones, len(sound) / RATE)))
            else:
                lost += 1
    if not speakers:
        parser.error(f"no recording in {arguments.recordings} that {arguments.texts} names could be aligned")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "phones.json").write_text(json.dumps(found) + "\n", "utf-8")
    rng = np.random.default_rng(arguments.seed)
    made = {"train": Recordings(), "heldout": Recordings()}
    for number, speaker in enumerate(sorted(speakers)):
        for sound, parts in join(speakers[speaker], rng):
            pauses = [(int(a * RATE), int(b * RATE)) for shape, a, b in parts if shape == "sil"]
            changed = augment(rng, sound, pauses) if rng.random() < 0.5 else sound
            made["heldout" if held_out(speaker) else "train"].add(changed, parts, number)
    for name, recordings in made.items():
        if recordings.seconds:
            np.savez(arguments.out / f"{name}.npz", **recordings.arrays())
        print(f"{name}: {recordings.seconds / 60:.0f} minutes, {len(set(recordings.columns['speakers']))} speakers")
    print(f"{lost} recordings could not be aligned")


if __name__ == "__main__":
    main()
