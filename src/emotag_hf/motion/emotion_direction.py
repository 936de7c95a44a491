"""The `emotion=` and `intensity=` arguments as curves over time: z_e, the gate g, and action units (METHOD 4 and 6).

In: `emotion=` in any of its forms (nothing, a name, a mixture, valence and arousal, action units, keyframes, JSON) and
`intensity=`. Out: `EmotionCurves` at any times, a function of time alone, so that streams and recordings get the same
values. The forms, with examples: docs/emotion.md.

z_e and g are the paper's controls. Action units are finer than seven classes: they are added to the Base's motion, with
the gate at 0.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..constants import ACTION_UNITS, EMOTIONS
from .emotion_prototypes import emotion_mixture

ONSET = 0.4  # s of the fade-in at the start, and the shortest transition from one span to the next
AUTO = "auto"
_KEYS = ("time", "until", "emotion", "intensity")

# Valence and arousal of the classes: Russell and Mehrabian, "Evidence for a three-factor theory of emotions" (1977),
# means of pleasure and arousal, whose third factor, dominance, distinguishes anger from fear.
CIRCUMPLEX = {
    "angry": (-0.51, 0.59), "disgust": (-0.60, 0.35), "fear": (-0.64, 0.60), "happy": (0.81, 0.51),
    "sad": (-0.63, -0.27), "surprise": (0.40, 0.67),
}  # fmt: skip
_BLEND = 0.15  # width of the Gaussian weights that mix neighbouring classes, in valence and arousal
_REACH = math.radians(40)  # angle around the circle within which a class has weight


@dataclass
class EmotionCurves:
    """Emotion at T times; float32.

    Args:
        probabilities: `[T, 7]` in the order of `EMOTIONS`, rows of sum 1: softmax(z_e).
        gate: `[T, 1]` in [0, 1], g of the requested emotion.
        voice: `[T, 1]` in [0, 1], weight of the network's own z_e ("auto").
        heard: `[T, 1]` in [0, `voice`], the factor on the network's own gate.
        units: `[T, 14]` action units to add, 0..5, in the order of `ACTION_UNITS`.
    """

    probabilities: torch.Tensor
    gate: torch.Tensor
    voice: torch.Tensor
    heard: torch.Tensor
    units: torch.Tensor

    def with_voice(self, logits: torch.Tensor, gate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(probabilities [T, 7], gate [T, 1])` with the network's own z_e `[T, 7]` and g `[T, 1]` where it decides.

        g * p is mixed, so that the face is the mixture of the two faces.
        """
        heard, strength = logits.softmax(-1), self.heard * gate
        mixed = self.voice * heard + (1 - self.voice) * self.probabilities
        return _divide(strength * heard + self.gate * self.probabilities, strength + self.gate, mixed)


class EmotionDirection:
    """A parsed and checked emotion; `at(times)` gives the curves.

    Args:
        emotion: None or `"auto"` (the network reads the voice), one of `EMOTIONS`, a mixture
            `{"happy": 0.7, "surprise": 0.3}`, `{"valence": v, "arousal": a}` in [-1, 1], action units
            `{"AU12": 3, "AU04": 2}` in 0..5, keyframes `[{"time": 0.0, "emotion": ..., "intensity": ..., "until": ...},
            ...]`, or any of these as JSON text or the path of a `.json` file.
        intensity: in [0, 1], multiplies all of it.

    Raises:
        ValueError: anything else, in one sentence. FileNotFoundError: there is no such file.

    `description` is the same as plain JSON values, None for "auto".
    """

    def __init__(self, emotion: Any = None, intensity: float = 1.0):
        emotion = _read(emotion)
        self.intensity = _number(intensity, "intensity", 0, 1)
        self.last_time = 0.0  # time of the last keyframe, s
        if isinstance(emotion, (list, tuple)):
            keyframes = [_Keyframe.read(entry, f"emotion: keyframe {n}") for n, entry in enumerate(emotion, 1)]
            _check_order(keyframes)
            self.last_time = max(k.time if k.until is None else k.until for k in keyframes)
            self.description = [keyframe.description() for keyframe in keyframes]
        else:
            keyframes = [_Keyframe(0.0, None, 1.0, _Asked(emotion, "emotion"))]
            self.description = keyframes[0].asked.description
        self._knots, self._table = _knots(keyframes)

    def check_end(self, duration: float) -> None:
        """Raises ValueError if a keyframe is later than `duration` seconds, the end of the sound."""
        if self.last_time > duration + 1e-6:
            raise ValueError(
                f"emotion: expected keyframes within the sound, which ends at {duration:.2f} s, got one at "
                f"{self.last_time:g} s; leave it out, or speak a longer recording."
            )

    def at(self, times: np.ndarray | Sequence[float]) -> EmotionCurves:
        """The curves at `times` `[T]`, seconds from the start of the sound.

        Between keyframes values follow a smoothstep; before the first and after the last they are constant. A requested
        emotion fades in over the first `ONSET` seconds.
        """
        times = np.asarray(times, np.float64)
        after = np.clip(np.searchsorted(self._knots, times, side="right"), 1, max(1, len(self._knots) - 1))
        low, high = after - 1, np.minimum(after, len(self._knots) - 1)
        span = np.maximum(self._knots[high] - self._knots[low], 1e-9)
        share = _ease((times - self._knots[low]) / span)[:, None]
        values = self._table[low] * (1 - share) + self._table[high] * share
        onset = _ease(times / ONSET)[:, None] * self.intensity
        values = torch.from_numpy(values.astype(np.float32))
        onset = torch.from_numpy(onset.astype(np.float32))
        voice, heard, gate, weights, probabilities, units = values.split((1, 1, 1, 7, 7, 14), -1)
        probabilities, gate = _divide(weights, gate, probabilities)
        return EmotionCurves(probabilities, gate * onset, voice, heard * self.intensity, units * onset)


def valence_arousal_mixture(valence: float, arousal: float) -> list[float]:
    """Probabilities of the seven classes for a point of the circumplex (valence and arousal).

    Nearer classes (`CIRCUMPLEX`) have more weight. The strength grows from 0 at the origin, which is neutral, to 1 at
    the distance of the class. Regions without a class, above all low arousal (calm, sleepy), give neutral.

    Args:
        valence, arousal: in [-1, 1].

    Returns:
        7 numbers of sum 1 in the order of `EMOTIONS`.
    """
    radius, angle = math.hypot(valence, arousal), math.atan2(arousal, valence)
    places = list(CIRCUMPLEX.values())
    square = [(valence - v) ** 2 + (arousal - a) ** 2 for v, a in places]
    near = [math.exp((min(square) - s) / (2 * _BLEND**2)) for s in square]
    shares = [n / sum(near) for n in near]
    turns = [abs((angle - math.atan2(a, v) + math.pi) % (2 * math.pi) - math.pi) for v, a in places]
    full = sum(share * math.hypot(v, a) for share, (v, a) in zip(shares, places, strict=True))
    turn = sum(share * t for share, t in zip(shares, turns, strict=True))
    strength = float(_ease(radius / full)) * math.exp(-0.5 * (turn / _REACH) ** 2)
    mixture = {name: strength * share for name, share in zip(CIRCUMPLEX, shares, strict=True)}
    return emotion_mixture(mixture)


class _Asked:
    """One moment's emotion: `voice` (bool), `probabilities` (7), `units` (14), `description` (plain JSON)."""

    def __init__(self, emotion: Any, where: str):
        self.voice, self.probabilities, self.units = False, emotion_mixture("neutral"), [0.0] * len(ACTION_UNITS)
        self.description: Any = None
        if emotion is None or (isinstance(emotion, str) and emotion.strip().lower() == AUTO):
            self.voice = True
        elif isinstance(emotion, str) and emotion.strip().lower() in EMOTIONS:
            self.description = emotion.strip().lower()
            self.probabilities = emotion_mixture(self.description)
        elif isinstance(emotion, Mapping) and emotion:
            self._read_numbers(emotion, where)
        else:
            raise ValueError(
                f"{where}: expected one of {', '.join(EMOTIONS)}, auto, a dict of weights, of valence and arousal or "
                f"of action units, or (not within keyframes) keyframes, JSON or a .json file; got {emotion!r}."
            )

    def _read_numbers(self, emotion: Mapping, where: str) -> None:
        names = [_name(key) for key in emotion]
        if len(set(names)) < len(names):
            raise ValueError(f"{where}: expected each name once, got {', '.join(map(str, emotion))}.")
        values = dict(zip(names, emotion.values(), strict=True))
        if set(names) <= set(EMOTIONS):
            values = {name: _number(value, f"{where}: {name}", 0, 1e6) for name, value in values.items()}
            self.probabilities = emotion_mixture(values)
        elif set(names) == {"valence", "arousal"}:
            values = {name: _number(value, f"{where}: {name}", -1, 1) for name, value in values.items()}
            self.probabilities = valence_arousal_mixture(values["valence"], values["arousal"])
        elif set(names) <= set(ACTION_UNITS):
            values = {name: _number(value, f"{where}: {name}", 0, 5) for name, value in values.items()}
            self.units = [values.get(unit, 0.0) for unit in ACTION_UNITS]
        else:
            raise ValueError(
                f"{where}: expected the names of emotions ({', '.join(EMOTIONS)}), valence and arousal, or action "
                f"units ({', '.join(ACTION_UNITS)}), one kind at a time; got {', '.join(map(str, emotion))}."
            )
        self.description = values


@dataclass
class _Keyframe:
    time: float
    until: float | None
    intensity: float
    asked: _Asked

    @classmethod
    def read(cls, entry: Any, where: str) -> _Keyframe:
        if not isinstance(entry, Mapping) or not {"time", "emotion"} <= set(entry):
            raise ValueError(f'{where}: expected a dict such as {{"time": 1.5, "emotion": "happy"}}, got {entry!r}.')
        if unknown := [str(key) for key in entry if key not in _KEYS]:
            raise ValueError(f"{where}: expected nothing but {', '.join(_KEYS)}, got {', '.join(unknown)}.")
        time = _number(entry["time"], f"{where}: time", 0, math.inf)
        until = entry.get("until")
        if until is not None:
            until = _number(until, f"{where}: until", 0, math.inf)
            if until <= time:
                raise ValueError(f"{where}: expected until after its time, {time:g} s, got {until:g} s.")
        intensity = _number(entry.get("intensity", 1.0), f"{where}: intensity", 0, 1)
        return cls(time, until, intensity, _Asked(entry["emotion"], f"{where}: emotion"))

    def description(self) -> dict[str, Any]:
        said = {"time": self.time, "until": self.until, "emotion": self.asked.description or AUTO}
        said["intensity"] = None if self.intensity == 1 else self.intensity
        return {key: value for key, value in said.items() if value is not None}

    def row(self) -> list[float]:
        """The interpolated values: voice, heard, gate, gate * probabilities, probabilities, units.

        The gate times the probabilities, because that is what the face shows: half of the way between a faint smile
        and full anger is half of each face.
        """
        asked = self.asked
        by_class = not asked.voice and not any(asked.units)
        gate = self.intensity if by_class else 0.0
        units = [self.intensity * unit for unit in asked.units]
        voice = [float(asked.voice), asked.voice * self.intensity]
        return [*voice, gate, *(gate * p for p in asked.probabilities), *asked.probabilities, *units]


def _check_order(keyframes: list[_Keyframe]) -> None:
    if not keyframes:
        raise ValueError("emotion: expected at least one keyframe, got an empty list; None reads the voice.")
    for n, (one, two) in enumerate(zip(keyframes, keyframes[1:], strict=False), 1):
        if two.time <= one.time:
            raise ValueError(
                f"emotion: expected keyframes in the order of time, each time once, got {two.time:g} s (keyframe "
                f"{n + 1}) after {one.time:g} s (keyframe {n})."
            )
        if one.until is not None and one.until > two.time:
            raise ValueError(
                f"emotion: expected spans that do not overlap, got keyframe {n} until {one.until:g} s and keyframe "
                f"{n + 1} from {two.time:g} s; a mixture shows two emotions at once."
            )


def _knots(keyframes: list[_Keyframe]) -> tuple[np.ndarray, np.ndarray]:
    """Times `[K]`, strictly increasing, and rows `[K, 31]`: one for each keyframe, and one for the end of its span if
    it has one."""
    times, rows = [], []
    for n, keyframe in enumerate(keyframes):
        times.append(keyframe.time)
        rows.append(keyframe.row())
        if keyframe.until is not None and n + 1 < len(keyframes):
            # Adjacent spans leave no time for a transition, so the first one is shortened.
            end = min(keyframe.until, keyframes[n + 1].time - ONSET)
            if end > keyframe.time:
                times.append(end)
                rows.append(rows[-1])
    return np.array(times), np.array(rows)


def _read(emotion: Any) -> Any:
    """Reads JSON from a text or a file; any other value is returned unchanged."""
    if isinstance(emotion, os.PathLike) or (isinstance(emotion, str) and emotion.strip().lower().endswith(".json")):
        path = Path(os.fspath(emotion).strip())
        if not path.is_file():
            raise FileNotFoundError(f"emotion: expected a JSON file, but there is no file {path}.")
        return _parse(path.read_bytes(), f"the file {path}")
    if isinstance(emotion, str) and emotion.strip()[:1] in ("{", "[", '"'):
        return _parse(emotion, "a text")
    return emotion


def _parse(text: str | bytes, source: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:  # broken JSON, or bytes that are no text
        raise ValueError(f"emotion: expected JSON, but {source} cannot be read as such: {error}.") from error


def _name(key: Any) -> Any:
    """The canonical name: lower case, AU4 as AU04; unknown names are returned unchanged."""
    if not isinstance(key, str):
        return key
    unit = re.fullmatch(r"au0?(\d{1,2})", key.strip().lower())
    return f"AU{int(unit[1]):02d}" if unit else key.strip().lower()


def _number(value: Any, name: str, low: float, high: float) -> float:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        limits = f"a number in [{low:g}, {high:g}]" if high < 1e6 else f"a finite number of {low:g} or more"
        raise ValueError(f"{name}: expected {limits}, got {value!r}.")
    return float(value)


def _divide(weights: torch.Tensor, gate: torch.Tensor, otherwise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`weights [T, 7] / gate [T, 1]`, and `otherwise` where the gate is 0; and the gate."""
    shut = gate < 1e-6
    return torch.where(shut, otherwise, weights / torch.where(shut, torch.ones_like(gate), gate)), gate


def _ease(x: np.ndarray | float) -> np.ndarray:
    """0 to 1 with slope 0 at both ends."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


__all__ = ["CIRCUMPLEX", "ONSET", "EmotionCurves", "EmotionDirection", "valence_arousal_mixture"]
