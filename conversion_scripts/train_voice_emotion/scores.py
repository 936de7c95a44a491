"""Scores of a Voice Listener: balanced accuracy with interval, confusion matrix, gate.

In: listeners and voices that they were not trained on. Out: dicts of plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from voices import Heard

from emotag_hf.constants import EMOTIONS
from emotag_hf.models.voice_listener import VoiceListener

NEUTRAL = EMOTIONS.index("neutral")


@dataclass(frozen=True)
class Guess:
    """One recording: z_e as probabilities `[T, 7]`, g `[T]`, and the weights that the network shows `[T, 7]`."""

    name: str
    speaker: str
    label: int
    probabilities: np.ndarray
    gate: np.ndarray
    shown: np.ndarray


@torch.inference_mode()
def guesses(listener: VoiceListener, recordings: Sequence[Heard]) -> list[Guess]:
    found = []
    for heard in recordings:
        logits, gate = listener.read(heard.statistics, heard.trust)
        p = logits.softmax(-1)
        shown = listener.follow((gate * p)[None], listener.init_state())[0]
        label = int(heard.labels[-1])
        found.append(Guess(heard.name, heard.speaker, label, p.numpy(), gate[:, 0].numpy(), shown.numpy()))
    return found


def agreement(rows: Sequence[tuple[str, int, int]], seed: int = 0, draws: int = 2000) -> dict:
    """Of `(speaker, label, guess)`: balanced accuracy, its 95 % interval over speakers, the table in shares."""
    size = len(EMOTIONS)
    speakers = sorted({row[0] for row in rows})
    tables = np.zeros((len(speakers), size, size))
    for speaker, label, guess in rows:
        tables[speakers.index(speaker), label, guess] += 1

    def balanced(table: np.ndarray) -> float:
        there = table.sum(1) > 0
        return float((np.diag(table)[there] / table.sum(1)[there]).mean())

    rng = np.random.default_rng(seed)
    drawn = [balanced(tables[rng.integers(0, len(speakers), len(speakers))].sum(0)) for _ in range(draws)]
    table = tables.sum(0)
    return {
        "balanced_accuracy": round(balanced(table), 3),
        "interval": np.percentile(drawn, [2.5, 97.5]).round(3).tolist(),
        "accuracy": round(float(np.trace(table) / table.sum()), 3),
        "table": {
            EMOTIONS[i]: {EMOTIONS[j]: round(table[i, j] / table[i].sum(), 2) for j in range(size) if table[i, j]}
            for i in range(size) if table[i].any()
        },
    }  # fmt: skip


def of_acted(read: Sequence[Guess], seed: int) -> dict:
    """At the end of each utterance, two seconds at most."""
    gate = np.array([guess.gate[-1] for guess in read])
    calm = np.array([guess.label == NEUTRAL for guess in read])
    sure = float(np.mean([guess.probabilities[-1].max() for guess in read]))
    found = agreement([(g.speaker, g.label, int(g.probabilities[-1].argmax())) for g in read], seed)
    above = (gate[~calm][:, None] > gate[calm]).mean() + 0.5 * (gate[~calm][:, None] == gate[calm]).mean()
    return found | {
        "mean_probability_of_the_guess": round(sure, 3),
        "gate_of_emotions": round(float(gate[~calm].mean()), 3),
        "gate_of_neutral": round(float(gate[calm].mean()), 3),
        "gate_area_under_curve": round(float(above), 3),
        "largest_change_a_second": round(float(max(np.abs(np.diff(g.shown, axis=0)).max() * 25 for g in read)), 3),
    }


def of_talkers(read: Sequence[Guess], left_out: tuple[str, ...]) -> dict:
    """Per clip the mean gate, the mean emotion and its share of time; and over the people who are taken to be calm."""
    clips = {}
    for guess in sorted(read, key=lambda g: g.name):
        mean = guess.probabilities.mean(0)
        clips[guess.name] = {
            "gate": round(float(guess.gate.mean()), 2),
            "emotion": EMOTIONS[int(mean.argmax())],
            "probability": round(float(mean.max()), 2),
        }
    calm = [g for g in read if not (left_out and g.speaker.startswith(left_out))]
    if not calm:
        return {"clips": clips}
    gates = [float(g.gate.mean()) for g in calm]
    shares = np.mean([np.bincount(g.probabilities.argmax(1), minlength=7) / len(g.gate) for g in calm], 0)
    return {
        "gate_mean": round(float(np.mean(gates)), 3),
        "gate_quantiles": np.percentile(gates, [0, 25, 50, 75, 100]).round(2).tolist(),
        "share_of_time": dict(zip(EMOTIONS, shares.round(3).tolist(), strict=True)),
        "clips": clips,
    }
