"""Forced alignment of EMO-DB's recordings, whose sentences are known, in the format of synthetic speech.

    python conversion_scripts/synthesize_speech/align.py EMODB -o transcribed.npz

EMO-DB's file names give which of ten German sentences is spoken. espeak-ng gives its phonemes and typical durations,
the viseme head of a motion network their positions (a semi-Markov Viterbi search, 100 steps per second). The utterances
of an actor are then joined, five per recording, also augmented with other rooms and microphones. Accurate to a few
hundredths of a second at best: good enough for training, not for evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

if __package__ in (None, ""):  # run as a script
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from synthesize_speech.augment import RATE, augment
from synthesize_speech.espeak import Espeak
from synthesize_speech.generate import Parts, Recordings
from synthesize_speech.visemes import lead, segments, viseme_of

from emotag_hf.audio.audio_features import log_mel_features
from emotag_hf.audio.audio_io import read_audio
from emotag_hf.models.lip_closures import VISEMES
from emotag_hf.training.pretraining.pretrain import load_motion

# The third to fifth letter of a file's name -> what is said (Burkhardt et al., 2005).
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
STEPS = 100  # a second
_SHORTEST, _LONGEST, _PAUSE = 2, 40, 150  # steps of a sound, and of a silence
_UNEVEN = 0.55  # spread of the logarithm of a sound's length
_HESITATE = 1.0  # what a silence costs that espeak-ng would not make, in nats
_PRIOR = 0.7  # weight of the viseme prior that is subtracted
_QUIET = 1e-3  # of full scale
_TOGETHER = 5  # utterances of a recording


@torch.no_grad()
def posteriors(network, features: torch.Tensor) -> np.ndarray:
    """Features `[Tf, 82]` -> log-probabilities of the visemes `[Tf // 4 * 4, 17]`: four times, a step further each."""
    count = len(features) // 4
    found = np.zeros((count * 4, len(VISEMES)), np.float32)
    for shift in range(4):
        moved = torch.cat([features[shift:], features.new_zeros(shift, features.shape[1])])
        logits = network.base(network.audio_net(moved[None]))[1]
        found[shift::4] = logits[0, :count].log_softmax(-1).numpy()
    return found


def align(heard: np.ndarray, expected: Parts) -> Parts:
    """Aligns the phonemes of `expected`; those cut off at the end are missing.

    Args:
        heard: scaled log-likelihoods `[T, 17]`, `STEPS` a second. expected: shapes and about how long they last.

    Returns:
        `(shape, start, end)` in seconds, as seen: the mouth is ahead of the sound.
    """
    count, before = len(heard), np.concatenate([np.zeros((1, heard.shape[1])), np.cumsum(heard, 0)])
    times = np.arange(count + 1)
    score = np.full((len(expected) + 1, count + 1), -np.inf)
    length = np.zeros(score.shape, int)
    score[0, 0] = 0.0
    for j, (shape, start, end) in enumerate(expected, 1):
        silent, viseme = shape == "sil", VISEMES.index(viseme_of(shape))
        steps = np.arange(0 if silent else _SHORTEST, (_PAUSE if silent else _LONGEST) + 1)
        usual = max(3.0, (end - start) * STEPS)
        cost = _HESITATE * (steps > 0) if silent else (np.log(steps / usual) / _UNEVEN) ** 2 / 2
        first = times[:, None] - steps
        begun = np.maximum(first, 0)
        total = score[j - 1][begun] - cost + before[times, viseme][:, None] - before[begun, viseme]
        total[first < 0] = -np.inf
        best = total.argmax(1)
        score[j], length[j] = total[times, best], steps[best]
    j, t, found = int(score[1:, count].argmax()) + 1, count, []
    while j > 0:
        found.append((expected[j - 1][0], (t - length[j, t]) / STEPS, t / STEPS))
        t, j = t - length[j, t], j - 1
    return [part for part in found[::-1] if part[2] > part[1]]


def heard_parts(seen: Parts, seconds: float) -> Parts:
    """Visible mouth shapes -> the times of their sounds, within `seconds`."""
    late = [(shape, start + lead(shape), end + lead(shape)) for shape, start, end in seen]
    return [(shape, start, min(end, seconds)) for shape, start, end in late if start < seconds]


def transcribe(folder: Path, network) -> dict[str, tuple[np.ndarray, Parts]]:
    """File's name -> its sound without the silence at its end, and what is said when."""
    paths = sorted(folder.glob("*.flac")) + sorted(folder.glob("*.wav"))
    sounds = {path.stem: read_audio(path) for path in paths if path.stem[2:5] in SENTENCES}
    if not sounds:
        raise SystemExit(f"no recordings of EMO-DB in {folder}")
    engine = Espeak()
    spoken = {code: engine.say(text, "de", rate=160) for code, text in SENTENCES.items()}
    expected = {code: segments(s.phonemes, len(s.samples) / s.rate) for code, s in spoken.items()}
    logs = {n: posteriors(network, torch.from_numpy(log_mel_features(sound))) for n, sound in sounds.items()}
    usual = np.log(np.exp(np.concatenate(list(logs.values()))).mean(0) + 1e-3)
    found = {}
    for name, sound in sounds.items():
        last = int(np.flatnonzero(np.abs(sound) > _QUIET)[-1])
        sound = sound[: last + RATE // 10]
        end = last * STEPS // RATE + 12
        seen = align(logs[name][:end] - _PRIOR * usual, expected[name[2:5]])
        found[name] = sound, heard_parts(seen, len(sound) / RATE)
    return found


def join(utterances: dict[str, tuple[np.ndarray, Parts]], copies: int, seed: int) -> Recordings:
    """Recordings of `_TOGETHER` utterances of one actor, `copies` times over; all but the first are roughened."""
    rng, made = np.random.default_rng(seed), Recordings()
    for copy in range(copies):
        for actor in sorted({name[:2] for name in utterances}):
            names = [name for name in sorted(utterances) if name[:2] == actor]
            rng.shuffle(names)
            for first in range(0, len(names), _TOGETHER):
                pieces, parts, pauses, clock = [], [], [], 0
                for name in names[first : first + _TOGETHER]:
                    gap = int(rng.uniform(0.05, 0.6) * RATE)
                    sound, said = utterances[name]
                    pauses.append((clock, clock + gap))
                    clock += gap
                    parts.append(("sil", (clock - gap) / RATE, clock / RATE))
                    parts += [(s, clock / RATE + a, clock / RATE + b) for s, a, b in said]
                    pieces += [np.zeros(gap, np.float32), sound]
                    clock += len(sound)
                sound = np.concatenate(pieces)
                made.add(augment(rng, sound, pauses) if copy else sound, parts, int(actor))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("emodb", type=Path, help="folder of EMO-DB's recordings")
    parser.add_argument("--network", help="folder of a pretraining (default: the embedded open one)")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network = load_motion(arguments.network)
    made = join(transcribe(arguments.emodb, network), arguments.copies, arguments.seed)
    np.savez(arguments.out, **made.arrays())
    print(f"{made.seconds / 60:.0f} minutes of {len(set(made.columns['speakers']))} actors", flush=True)


if __name__ == "__main__":
    main()
