"""The loss terms of the motion network (METHOD 4 and 5).

In: motions and logits with their targets; for pretraining a network and a `MotionBatch`. Out: scalars to minimise. All
windows have equal weight, so that the gradient of a batch is the mean over its windows for any number of processes.

Differences from the paper: lip errors are in millimetres, without a person's constant offset (the neutral face cannot
be inferred from sound); the Base is trained on sound alone, the full motion with action units on the tracked face.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...constants import EMOTIONS, EXPRESSION_NAMES
from ...models.lip_closures import VISEMES
from ...models.modeling_motion import GatedResidualMotionNetwork
from ...motion.emotion_prototypes import action_unit_prototypes
from ..gaussians.losses import check_same_shape, mean_of_valid
from .lip_space import LipSpace
from .motion_data import MotionBatch

KL_WEIGHT, SCORE_WEIGHT = 0.01, 0.1  # of semantic guidance [code]

_EXPRESSION = len(EXPRESSION_NAMES)
_NEUTRAL = EMOTIONS.index("neutral")
_SILENCE, _CLOSING = VISEMES.index("sil"), VISEMES.index("pp")
_PAUSE = 8  # frames of silence to either side
_PARTED, _APART = 0.15, 0.3  # relative to a window's widest opening: not shut, open
_LEAST_GAP = 2.2  # mm, of lips that are seen to be open
_AROUND = 2  # frames around p, b, m in which lips may be shut
_FEW = 25  # minimum number of frames for a correlation
_BEND = 2.0  # mm from which the lip error is linear (Huber)
_USUAL, _LEAST = 4.0, 1.5  # mm, spread of the lip opening: typical of speech; lower bound
# Directions that speech moves; the others are left to the Residual and to generated motion (brows, gaze).
SPOKEN = tuple(i for i, n in enumerate(EXPRESSION_NAMES) if n.startswith(("mouth", "jaw", "tongue", "cheekPuff")))
# `close_lips` presses them together: landmarks do not show how firmly.
_TRACKED = tuple(i for i in SPOKEN if not EXPRESSION_NAMES[i].startswith("mouthPress"))


@dataclass(frozen=True)
class MotionWeights:
    """Weights of the terms; each term is a mean over frames."""

    lips: float = 1.0
    rest: float = 0.1  # weight of a window's constant error of the lips: a person's own rest cannot be heard
    velocity: float = 0.5
    correlation: float = 0.5
    width: float = 0.5  # factor on the correlation and the spread of the width, beside those of the opening
    spread: float = 0.2
    motion: float = 0.1  # MSE of expression and jaw, METHOD 5
    spoken: float = 2.0  # the same for the Base and the directions that speech moves
    quiet: float = 1.0  # penalty on the Base in directions that speech does not move
    parted: float = 0.0  # mm by which lips are nearly shut where tracked ones are not, or in sounds other than p, b, m
    silence: float = 0.2  # mm of lip gap in silence of synthetic speech
    table: float = 1.0  # factor on these terms for synthetic speech (lips of a viseme table); 0 with people
    visemes: float = 0.15
    seen: float = 0.3  # where tracked lips are open, p, b and m are not heard
    kl: float = KL_WEIGHT
    score: float = SCORE_WEIGHT
    made_up: float = 0.2  # semantic guidance on synthetic action units


def motion_loss(
    expression: Tensor,
    jaw_pose: Tensor,
    target_expression: Tensor,
    target_jaw_pose: Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """MSE(expression) + MSE(jaw) against the tracked head (METHOD 5, weight 0.1 to 1).

    Args:
        expression, target_expression: `[..., 50]` coefficients.
        jaw_pose, target_jaw_pose: `[..., 3]` axis-angle.
        valid: `[...]` bool, the frames that are used; all by default. The loss is 0 if there is none.

    Raises:
        ValueError: shapes differ.
    """
    check_same_shape("target_expression", target_expression, expression.shape)
    check_same_shape("target_jaw_pose", target_jaw_pose, jaw_pose.shape)
    return mean_of_valid(motion_errors(expression, jaw_pose, target_expression, target_jaw_pose), valid)


def motion_errors(expression: Tensor, jaw_pose: Tensor, target_expression: Tensor, target_jaw_pose: Tensor) -> Tensor:
    """`motion_loss` of each frame, `[...]`."""
    face = (expression - target_expression).square().mean(-1)
    return face + (jaw_pose - target_jaw_pose).square().mean(-1)


def semantic_guidance(
    emotion_logits: Tensor, gate: Tensor, teacher_probs: Tensor, valid: Tensor | None = None
) -> dict[str, Tensor]:
    """Supervision of logits and gate by the emotion teacher (METHOD 4).

    Args:
        emotion_logits: `[..., 7]`, z_e in the order of `EMOTIONS`.
        gate: `[..., 1]` in [0, 1], g.
        teacher_probs: `[..., 7]`, p, summing to 1; a constant.
        valid: `[...]` bool, the frames that are used; all by default. Both terms are 0 if there is none.

    Returns:
        `kl`: mean KL(p || softmax(z_e)) in nats; `score`: mean |g - e| with the emotion score e = 1 - p(neutral).

    Raises:
        ValueError: shapes differ.
    """
    check_same_shape("emotion_logits", emotion_logits, (*gate.shape[:-1], len(EMOTIONS)))
    check_same_shape("teacher_probs", teacher_probs, emotion_logits.shape)
    kl, score = guidance_errors(emotion_logits, gate, teacher_probs)
    return {"kl": mean_of_valid(kl, valid), "score": mean_of_valid(score, valid)}


def guidance_errors(emotion_logits: Tensor, gate: Tensor, teacher_probs: Tensor) -> tuple[Tensor, Tensor]:
    """`kl` and `score` of `semantic_guidance` of each frame, `[...]` each."""
    p = teacher_probs.detach()
    kl = F.kl_div(emotion_logits.log_softmax(-1), p, reduction="none").sum(-1)  # 0 log 0 is 0 here
    return kl, (gate[..., 0] - (1 - p[..., _NEUTRAL])).abs()


def motion_terms(
    network: GatedResidualMotionNetwork,
    batch: MotionBatch,
    lips: LipSpace,
    weights: MotionWeights,
    driven: float,
    known: Tensor,
    generator: torch.Generator,
    look_ahead: float | str | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of one batch.

    Args:
        driven: in [0, 1], progress of the curriculum: the weight of the motion with action units (METHOD 5).
        known: `[B]` bool, windows for which the network gets the identity.
        generator: random generator of the synthetic action units.
        look_ahead: with which the sound is heard; see `GatedResidualMotionNetwork.init_state`.

    Returns:
        name -> scalar; their sum is the loss.
    """
    count = batch.face.shape[1]
    audio = network.audio_net(batch.sound, look_ahead)[:, :count]
    identity = batch.identity * known[:, None]
    raw, logits = network.base(audio, identity)
    # Only the viseme head is trained on p, b and m; else the Base would reduce the opening in other sounds, too.
    base = network.close_lips(raw, raw, logits.detach())
    expression, jaw = base[..., :_EXPRESSION], base[..., _EXPRESSION : batch.face.shape[-1]]
    valid = batch.valid.float()
    drawn = lips.points(expression, jaw)
    terms = _lip_terms(drawn, batch, lips, weights, valid)

    difference = (expression - batch.face[..., :_EXPRESSION]).square()
    wrong = difference[..., _TRACKED].mean(-1)
    wrong = wrong + (jaw - batch.face[..., _EXPRESSION:]).square().mean(-1)
    taught = torch.where(batch.real, 1.0, weights.table)[:, None]
    terms["spoken"] = weights.spoken * _mean(wrong, valid, taught)
    unspoken = [i for i in range(_EXPRESSION) if i not in _TRACKED]
    terms["quiet"] = weights.quiet * _mean(expression[..., unspoken].square().mean(-1), valid)

    pause = _inside(batch.visemes == _SILENCE) & batch.valid
    gap = lips.opening(drawn)
    terms["silence"] = weights.silence * _mean(F.relu(gap), pause.float())
    terms["visemes"] = weights.visemes * _visemes(logits, batch)

    real = valid * batch.real[:, None]
    share, reach = _share(batch, lips)
    other = -torch.log1p(-logits.softmax(-1)[..., _CLOSING].clamp(max=0.999))
    terms["seen"] = weights.seen * _mean(other * (share > _APART), real)
    missing = torch.where(batch.real[:, None], _PARTED * reach, _LEAST_GAP) - gap
    parted = torch.where(batch.real[:, None], share > _PARTED, _speaking(batch))
    terms["parted"] = weights.parted * _mean(F.relu(missing), valid * parted)
    whole = network._decode(audio, 0, batch.units, identity, None, None)
    face, jaw = batch.face.split((_EXPRESSION, batch.face.shape[-1] - _EXPRESSION), -1)
    terms["motion"] = driven * weights.motion * _mean(motion_errors(whole.expression, whole.jaw_pose, face, jaw), real)
    kl, score = guidance_errors(whole.emotion_logits, whole.gate, batch.emotion)
    terms["guidance"] = driven * _mean(weights.kl * kl + weights.score * score, real)
    terms["made_up"] = weights.made_up * _made_up(network, audio.detach(), generator)
    return terms


def phoneme_terms(
    network: GatedResidualMotionNetwork,
    batch: MotionBatch,
    weights: MotionWeights,
    look_ahead: float | str | None = None,
) -> dict[str, Tensor]:
    """The one term of `motion_terms` that speech without lips has."""
    audio = network.audio_net(batch.sound, look_ahead)[:, : batch.face.shape[1]]
    return {"visemes": weights.visemes * _visemes(network.base(audio)[1], batch)}


def _visemes(logits: Tensor, batch: MotionBatch) -> Tensor:
    """Cross-entropy of the visemes where they are known."""
    known = batch.valid & (batch.visemes >= 0) & ~batch.real[:, None]
    heard = batch.visemes.clamp_min(0)
    cross = F.cross_entropy(logits.flatten(0, 1), heard.flatten(), label_smoothing=0.05, reduction="none")
    return _mean(cross.view_as(heard), known.float())


def _speaking(batch: MotionBatch) -> Tensor:
    """`[B, T]` bool: frames in whose sound lips are open, away from p, b and m."""
    near = F.max_pool1d((batch.closed | (batch.visemes == _CLOSING)).float()[:, None], 2 * _AROUND + 1, 1, _AROUND)
    return (batch.visemes > _SILENCE) & (near[:, 0] < 0.5)


def _inside(silent: Tensor) -> Tensor:
    """`[B, T]` bool: frames in the middle of a pause; at its edges mouths may be open."""
    wide = F.pad(silent.float()[:, None], (_PAUSE, _PAUSE), value=1.0)
    return -F.max_pool1d(-wide, 2 * _PAUSE + 1, 1)[:, 0] > 0.5


def _share(batch: MotionBatch, lips: LipSpace) -> tuple[Tensor, Tensor]:
    """Tracked opening `[B, T]` relative to the window's widest, which is the second, `[B, 1]` in mm."""
    true = lips.opening(lips.points(batch.face[..., :_EXPRESSION], batch.face[..., _EXPRESSION:]))
    reach = true.masked_fill(~batch.valid, -torch.inf).amax(1, keepdim=True).clamp_min(_LEAST)
    return true / reach, reach


def _lip_terms(drawn: Tensor, batch: MotionBatch, lips: LipSpace, weights: MotionWeights, valid: Tensor):
    """Lips of the Base, `drawn` `[B, T, P, 3]`, against the tracked ones, in millimetres."""
    true = lips.points(batch.face[..., :_EXPRESSION], batch.face[..., _EXPRESSION:])
    error = drawn - true
    share = valid / valid.sum(1, keepdim=True).clamp_min(1)
    constant = (error * share[..., None, None]).sum(1, keepdim=True)
    # For synthetic speech the constant is right; for a person it depends on their neutral face, which cannot be
    # inferred.
    kept = torch.where(batch.real, weights.rest, 1.0)[:, None, None, None]
    error = error - (1 - kept) * constant
    # Normalised, so that people who open the mouth more do not dominate.
    width = _spread(lips.opening(true), share)
    scale = torch.where(batch.real, _USUAL / width.clamp_min(_LEAST), 1.0)[:, None, None, None]
    error = error * scale
    flat = F.smooth_l1_loss(error, torch.zeros_like(error), beta=_BEND, reduction="none").mean((-1, -2))
    taught = torch.where(batch.real, 1.0, weights.table)
    terms = {"lips": weights.lips * _mean(flat, valid, taught[:, None])}
    both = valid[:, 1:] * valid[:, :-1]
    jump = (((drawn[:, 1:] - drawn[:, :-1]) - (true[:, 1:] - true[:, :-1])) * scale).abs().mean((-1, -2))
    terms["velocity"] = weights.velocity * _mean(jump, both, taught[:, None])
    enough = (valid.sum(1) >= _FEW) * taught
    alike, spread = 0.0, 0.0
    for measure, share_ in ((lips.opening, 1.0), (lips.width, weights.width)):
        r, ratio = _agreement(measure(drawn), measure(true), valid)
        alike = alike + share_ * (1 - r)
        spread = spread + share_ * (1 - ratio).clamp_min(0)
    terms["correlation"] = weights.correlation * (alike * enough).mean()
    terms["spread"] = weights.spread * (spread * enough).mean()
    return terms


def _spread(values: Tensor, share: Tensor) -> Tensor:
    """Weighted standard deviation of `[B, T]`, `[B]`."""
    mean = (values * share).sum(1, keepdim=True)
    return ((values - mean).square() * share).sum(1).sqrt()


def _agreement(a: Tensor, b: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Pearson's r and the ratio of the spreads of `[B, T]` over the valid frames, `[B]` each."""
    share = valid / valid.sum(1, keepdim=True).clamp_min(1)
    a = a - (a * share).sum(1, keepdim=True)
    b = b - (b * share).sum(1, keepdim=True)
    va, vb = (a * a * share).sum(1) + 1e-2, (b * b * share).sum(1) + 1e-2
    return (a * b * share).sum(1) / (va * vb).sqrt(), (va / vb).sqrt()


def _made_up(network: GatedResidualMotionNetwork, audio: Tensor, generator: torch.Generator) -> Tensor:
    """EMO Encoder and Gate on synthetic action units: prototypes at random intensity, with noise, blinks and random
    units."""
    audio = audio[:, :: max(1, audio.shape[1] // 8)]
    shape = audio.shape[:2]
    draw = lambda *more: torch.rand(*shape, *more, generator=generator).to(audio)  # noqa: E731
    label = torch.randint(len(EMOTIONS), shape, generator=generator).to(audio.device)
    strength = draw(1) * (label != _NEUTRAL)[..., None]
    units = action_unit_prototypes().to(audio)[label] * strength * (0.8 + 0.4 * draw(1))
    units = units + 0.4 * draw(units.shape[-1]) * (draw(1) < 0.7)
    units = torch.cat([units[..., :-1], 5 * draw(1) * (draw(1) < 0.2)], -1)  # AU45, the blink, is of no emotion
    soft = F.one_hot(label, len(EMOTIONS)) * strength
    soft[..., _NEUTRAL] = 1 - strength[..., 0]
    out = network._decode(audio, 0, units.clamp(0, 5), None, None, None)
    kl = -(soft * out.emotion_logits.log_softmax(-1)).sum(-1).mean()
    return kl + 3 * (out.gate - strength).abs().mean()


def _mean(values: Tensor, weight: Tensor, share: Tensor | float = 1.0) -> Tensor:
    """Mean over the frames `[B, T]` of each window, then over the windows, each by its share `[B, 1]`."""
    return ((values * share * weight).sum(1) / weight.sum(1).clamp_min(1)).mean()


__all__ = [
    "KL_WEIGHT", "SCORE_WEIGHT", "SPOKEN", "MotionWeights", "guidance_errors", "motion_errors", "motion_loss",
    "motion_terms", "phoneme_terms", "semantic_guidance",
]  # fmt: skip
