"""Scores a motion network on unseen people, and estimates the delay of their sound.

In: a network and `MotionClip`s. Out: per clip the correlation of the lips' opening, width and jaw, their spread, R^2;
and the lag at which a clip's sound fits best. Input is the sound alone: no action units, and no identity unless
requested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...constants import EXPRESSION_NAMES
from ...models.modeling_motion import GatedResidualMotionNetwork
from .lip_space import LipSpace
from .motion_data import MotionClip, in_step
from .motion_losses import SPOKEN

_EXPRESSION = len(EXPRESSION_NAMES)
_MAX_LAG = 6  # frames either way
_MOST_GAIN = 1.6
_LEAST_REACH = 3.0  # mm, lower bound of the range of the lip gap
_AROUND = 2  # frames around a closure in which lips may be shut, too
_A_LITTLE = 0.1  # rad
_USUAL_LAG = 2.0  # frames, spread over clips
_LOOK = 4.0  # frames after which lip positions are nearly independent
MEASURES = ("opening", "width", "jaw")


@dataclass(frozen=True)
class MotionScores:
    """Scores of n clips.

    Attributes:
        names, persons: of the clips. r: measure -> `[n]` Pearson's r. spread: measure -> `[n]` predicted by true
            standard deviation. r2: measure -> `[n]`, 1 - error / variance, the constant included.
    """

    names: tuple[str, ...]
    persons: tuple[str, ...]
    r: dict[str, np.ndarray]
    spread: dict[str, np.ndarray]
    r2: dict[str, np.ndarray]

    def mean(self) -> dict[str, float]:
        """Means over the clips: `opening`, `width`, `jaw` are correlations; also `opening_spread` and `opening_r2`."""
        found = {name: float(np.mean(values)) for name, values in self.r.items()}
        return found | {
            "opening_spread": float(np.mean(self.spread["opening"])),
            "opening_r2": float(np.mean(self.r2["opening"])),
        }

    def by_person(self, measure: str = "opening") -> dict[str, float]:
        """The mean correlation of each person's clips."""
        return {
            person: float(np.mean(self.r[measure][[person == p for p in self.persons]]))
            for person in sorted(set(self.persons))
        }

    def interval(self, measure: str = "opening", draws: int = 4000) -> tuple[float, float]:
        """95 % interval of the mean correlation over persons, by bootstrap."""
        by_person = list(self.by_person(measure).values())
        rng = np.random.default_rng(0)
        means = np.asarray(by_person)[rng.integers(len(by_person), size=(draws, len(by_person)))].mean(1)
        return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))

    @classmethod
    def joined(cls, parts: Sequence[MotionScores]) -> MotionScores:
        """Joins the scores of all parts."""
        join = lambda name: {m: np.concatenate([getattr(p, name)[m] for p in parts]) for m in MEASURES}  # noqa: E731
        names, persons = (sum((getattr(p, n) for p in parts), ()) for n in ("names", "persons"))
        return cls(names, persons, join("r"), join("spread"), join("r2"))


def score_clips(
    network: GatedResidualMotionNetwork,
    clips: Sequence[MotionClip],
    lips: LipSpace,
    identity: bool = False,
    look_ahead: float | str | None = None,
) -> MotionScores:
    """Predicts the motion for each clip's sound and compares it with its track.

    Args:
        identity: whether the network gets the clip's identity embedding.
        look_ahead: as in `GatedResidualMotionNetwork.init_state`.
    """
    return score_curves([lip_curves(network, clip, lips, identity, look_ahead) for clip in clips], clips, lips)


def score_curves(curves: Sequence[dict[str, np.ndarray]], clips: Sequence[MotionClip], lips: LipSpace) -> MotionScores:
    """Scores given curves, one dict of `MEASURES` per clip."""
    rows = [_compare(found, true_curves(clip, lips), clip) for found, clip in zip(curves, clips, strict=True)]
    collect = lambda i: {m: np.array([row[i][m] for row in rows]) for m in MEASURES}  # noqa: E731
    return MotionScores(
        tuple(c.name for c in clips), tuple(c.person for c in clips), collect(0), collect(1), collect(2)
    )


@torch.no_grad()
def lip_curves(
    network: GatedResidualMotionNetwork,
    clip: MotionClip,
    lips: LipSpace,
    identity: bool = False,
    look_ahead: float | str | None = None,
) -> dict[str, np.ndarray]:
    """Opening and width in mm and the jaw in rad, `[T]` each, predicted by the network for the clip's sound."""
    was_training = network.training
    network.eval()
    sound = clip.sound[None].float().to(next(network.parameters()).device)
    known = clip.identity[None].to(sound) if identity else None
    out = network(sound, identity_embedding=known, look_ahead=look_ahead)
    network.train(was_training)
    count = len(clip)
    expression, jaw = out.expression[0, :count].cpu(), out.jaw_pose[0, :count].cpu()
    return _curves(expression, jaw, lips)


def true_curves(clip: MotionClip, lips: LipSpace) -> dict[str, np.ndarray]:
    """The same curves of the tracked face."""
    return _curves(clip.face[:, :_EXPRESSION].float(), clip.face[:, _EXPRESSION:].float(), lips)


def find_lag(network: GatedResidualMotionNetwork, clip: MotionClip, lips: LipSpace) -> float:
    """The remaining delay of the clip's sound in frames, after the shift already applied.

    The maximum a posteriori lag: the prior has a spread of `_USUAL_LAG` frames, the likelihood depends on r and on the
    number of independent frames, so clips of a second or two move from 0 only for a much better fit. The network must
    not have been trained on the person, because it reproduces delays of its training data.
    """
    true, frames = true_curves(clip, lips), int(clip.valid.sum())
    scores = []
    for lag in range(-_MAX_LAG, _MAX_LAG + 1):
        r = _compare(lip_curves(network, in_step(clip, clip.lag + lag), lips), true, clip)[0]
        fit = (max(r["opening"], 0.0) + 0.5 * max(r["width"], 0.0)) / 1.5
        scores.append(lag_evidence(fit, frames, clip.lag + lag, _USUAL_LAG))
    return float(np.argmax(scores) - _MAX_LAG)


def lag_evidence(r: float, frames: int, lag: float, usual: float) -> float:
    """The logarithm, up to a constant, of the posterior of a lag in frames at which `frames` frames correlate by `r`.

    Lags have a normal prior of spread `usual`; positions of lips `_LOOK` frames apart are nearly independent.
    """
    likelihood = -frames / _LOOK / 2 * math.log(1 - min(max(r, 0.0), 0.99) ** 2)
    return likelihood - (lag / usual) ** 2 / 2


@torch.no_grad()
def restore_spread(network: GatedResidualMotionNetwork, clips: Sequence[MotionClip], lips: LipSpace) -> float:
    """Makes the spread of the opening that of people, in the median over clips. Uncertain predictions regress to the
    mean, and a loss that rewards correlation alone may open the mouth too far. Returns the factor on the motion of
    speech.

    Scaled about zero, so that a closed mouth stays closed.
    """
    gain = 1 / np.median(score_clips(network, clips, lips).spread["opening"])
    gain = float(np.clip(gain, 1 / _MOST_GAIN, _MOST_GAIN))
    rows = [*SPOKEN, *range(_EXPRESSION, _EXPRESSION + 3)]
    network.base_motion.weight[rows] *= gain
    network.base_motion.bias[rows] *= gain
    return gain


@torch.no_grad()
def restore_opening(network: GatedResidualMotionNetwork, clips: Sequence[MotionClip], lips: LipSpace) -> float:
    """Shifts the jaw so that the mean opening equals that of the clips; returns the shift in radians.

    The mean opening of a person cannot be inferred from sound and is learned slowly; silence and closures bias it
    downwards.
    """
    missing = []
    for clip in clips:
        found, true = lip_curves(network, clip, lips)["opening"], true_curves(clip, lips)["opening"]
        valid = clip.valid.numpy()
        missing.append(float((true - found)[valid].mean()))
    jaw = torch.zeros(3)
    jaw[0] = _A_LITTLE
    per_radian = float(lips.opening(lips.points(torch.zeros(_EXPRESSION), jaw))) / _A_LITTLE
    moved = float(np.median(missing)) / per_radian
    network.base_motion.bias[_EXPRESSION] += moved
    return moved


def closures(network: GatedResidualMotionNetwork, clips: Sequence[MotionClip], lips: LipSpace) -> dict[str, float]:
    """How well lips close on p, b, m of synthetic speech, whose phoneme times are known.

    Returns:
        `shut`: share of the closures with a gap below a tenth of the speaker's range within one frame; `elsewhere`:
        share of the frames that are closed although they are neither silent nor within two frames of a closure;
        `silence`: mean gap in pauses, relative to that range.
    """
    found = closure_rows([lip_curves(network, clip, lips)["opening"] for clip in clips], clips)
    return {name: float(np.mean(values)) for name, values in found.items() if len(values)}


def closure_rows(gaps: Sequence[np.ndarray], clips: Sequence[MotionClip]) -> dict[str, np.ndarray]:
    """What `closures` averages, of openings `[T]` in mm: a row for each closure (`shut`, bool), for each frame away
    from closures (`elsewhere`, bool), for each silent frame (`silence`, relative to the speaker's range)."""
    rows: dict[str, list] = {"shut": [], "elsewhere": [], "silence": []}
    for gap, clip in zip(gaps, clips, strict=True):
        closed, quiet = clip.closed.numpy()[: len(gap)], clip.visemes.numpy()[: len(gap)] == 0
        reach = max(float(np.quantile(gap, 0.98)), _LEAST_REACH)
        low = gap < 0.1 * reach
        rows["shut"] += _widened(low, 1)[closed].tolist()
        rows["elsewhere"] += low[~_widened(closed, _AROUND) & ~quiet].tolist()
        rows["silence"] += (gap[quiet] / reach).tolist()
    return {name: np.array(values) for name, values in rows.items()}


def _widened(frames: np.ndarray, count: int) -> np.ndarray:
    """`[T]` bool: frames that are at most `count` from one of `frames`."""
    return np.convolve(frames, np.ones(2 * count + 1), "same") > 0.5


def _curves(expression, jaw, lips: LipSpace) -> dict[str, np.ndarray]:
    points = lips.points(expression, jaw)
    return {
        "opening": lips.opening(points).clamp_min(0).numpy(),
        "width": lips.width(points).numpy(),
        "jaw": jaw[:, 0].numpy(),
    }


def _compare(found: dict[str, np.ndarray], true: dict[str, np.ndarray], clip: MotionClip):
    """Pearson's r, spread and R^2 of curves over the clip's valid frames, each a dict by `MEASURES`."""
    valid = clip.valid.numpy()
    count = min(len(valid), len(found["jaw"]))
    valid = valid[:count]
    r, spread, r2 = {}, {}, {}
    for name in MEASURES:
        a, b = found[name][:count][valid], true[name][:count][valid]
        sa, sb = float(a.std()), float(b.std())
        r[name] = float(np.mean((a - a.mean()) * (b - b.mean())) / (sa * sb)) if sa > 1e-6 and sb > 1e-6 else 0.0
        spread[name] = sa / max(sb, 1e-6)
        r2[name] = 1 - float(np.mean((a - b) ** 2)) / max(sb**2, 1e-9)
    return r, spread, r2


__all__ = [
    "MEASURES", "MotionScores", "closure_rows", "closures", "find_lag", "lag_evidence", "lip_curves", "restore_opening",
    "restore_spread", "score_clips", "score_curves", "true_curves",
]  # fmt: skip
