"""Trains a `VoiceListener` with METHOD 4's guidance: L_KL on its logits, L_score on its gate.

In: statistics of voices (`Heard`), with labels. Out: a trained listener. Differences from the paper: labels instead of
a teacher's probabilities, softened; the score's error is squared, because with binary labels the absolute error learns
the majority, not the probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from voices import FPS, Heard

from emotag_hf.constants import EMOTIONS
from emotag_hf.models.configuration_emotag import EmoTaGMotionConfig
from emotag_hf.models.voice_listener import VoiceListener

NEUTRAL = EMOTIONS.index("neutral")
ACTED = tuple(i for i, name in enumerate(EMOTIONS) if name != "surprise")  # EMO-DB has none


@dataclass(frozen=True)
class Lesson:
    """Every number of the training.

    `members` small networks learn apart and are then laid side by side as one: its output is the mean of theirs.
    `smooth` is the share of a label that is spread over all seven; surprise, which is not in the data, gets no more
    than that. `talk` is the weight of people who talk, against 1 for all acted voices; they are taken for `calm`
    neutral.
    """

    hidden: int = 24
    members: int = 4
    steps: int = 500
    batch: int = 192
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    dropout: float = 0.1
    smooth: float = 0.06
    talk: float = 0.2
    calm: float = 0.8
    kl: float = 1.0
    score: float = 2.0
    seed: int = 0


def teach(acted: Sequence[Heard], talkers: Sequence[Heard], lesson: Lesson) -> VoiceListener:
    """A listener that is trained on these voices only."""
    recordings = [*acted, *talkers]
    statistics, trust, labels = (
        torch.cat([getattr(h, n) for h in recordings]) for n in ("statistics", "trust", "labels")
    )
    is_acted = torch.cat([torch.full((len(h.labels),), h.acted) for h in recordings])
    kept = (labels >= 0) | ~is_acted
    statistics, trust, labels, is_acted = statistics[kept], trust[kept], labels[kept], is_acted[kept]
    labels = torch.where(is_acted, labels, NEUTRAL)

    listener = VoiceListener(EmoTaGMotionConfig(listener_dim=lesson.hidden * lesson.members, fps=FPS))
    listener.center = statistics[is_acted].mean(0)
    listener.scale = statistics[is_acted].std(0) + 1e-3
    inputs = listener.known(statistics, trust)
    sharp = torch.where(is_acted, 1 - lesson.smooth, lesson.calm)[:, None]
    targets = F.one_hot(labels, len(EMOTIONS)) * sharp + (1 - sharp) / len(EMOTIONS)
    weights = torch.zeros(len(labels))
    for label in ACTED:
        of_it = is_acted & (labels == label)
        weights[of_it] = 1 / len(ACTED) / of_it.sum().clamp_min(1)
    weights[~is_acted] = lesson.talk / (~is_acted).sum().clamp_min(1)
    _fit(listener, inputs, targets, weights / weights.sum(), lesson)
    return listener.eval()


def _fit(listener: VoiceListener, inputs: Tensor, targets: Tensor, weights: Tensor, lesson: Lesson) -> None:
    random = torch.Generator().manual_seed(lesson.seed)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    width, members, hidden = inputs.shape[1], lesson.members, lesson.hidden
    one = (draw(members, width, hidden) * width**-0.5).requires_grad_()
    two = (draw(members, hidden, len(EMOTIONS) + 1) * 0.3 * hidden**-0.5).requires_grad_()
    bias_one = torch.zeros(members, 1, hidden, requires_grad=True)
    bias_two = torch.zeros(members, 1, len(EMOTIONS) + 1, requires_grad=True)
    optimizer = torch.optim.AdamW(
        [one, two, bias_one, bias_two], lr=lesson.learning_rate, weight_decay=lesson.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lesson.learning_rate, lesson.steps)
    for _ in range(lesson.steps):
        index = torch.multinomial(weights, members * lesson.batch, True, generator=random)
        x = inputs[index].unflatten(0, (members, lesson.batch))
        x = F.gelu(torch.baddbmm(bias_one, x, one))
        dropped = torch.rand(x.shape, generator=random) < lesson.dropout
        x = x.masked_fill(dropped, 0) / (1 - lesson.dropout)
        out = torch.baddbmm(bias_two, x, two).flatten(0, 1)
        p = targets[index]
        kl = F.kl_div(out[:, :-1].log_softmax(-1), p, reduction="batchmean")
        score = (torch.sigmoid(out[:, -1]) - (1 - p[:, NEUTRAL])).square().mean()
        optimizer.zero_grad()
        (members * (lesson.kl * kl + lesson.score * score)).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        listener.hidden.weight.copy_(one.transpose(1, 2).flatten(0, 1))
        listener.hidden.bias.copy_(bias_one.flatten())
        listener.out.weight.copy_(two.flatten(0, 1).T / members)
        listener.out.bias.copy_(bias_two.mean(0)[0])


def teach_linear(acted: Sequence[Heard], decay: float = 0.02) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The baseline, logistic regression on the statistics at each utterance's end: weights, bias, center, scale."""
    statistics = torch.stack([h.statistics[-1] for h in acted])
    labels = torch.stack([h.labels[-1] for h in acted])
    center, scale = statistics.mean(0), statistics.std(0) + 1e-3
    inputs = (statistics - center) / scale
    share = (1 / torch.bincount(labels, minlength=len(EMOTIONS)).clamp_min(1))[labels]
    weight = torch.zeros(inputs.shape[1], len(EMOTIONS), requires_grad=True)
    bias = torch.zeros(len(EMOTIONS), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60)

    def closure():
        optimizer.zero_grad()
        errors = F.cross_entropy(inputs @ weight + bias, labels, reduction="none")
        loss = (errors * share / share.sum()).sum() + decay * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach(), center, scale
