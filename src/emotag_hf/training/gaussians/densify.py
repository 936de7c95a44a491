"""Densification: Gaussians are added where the picture pulls at them and taken where they show nothing (METHOD 5).

In, step by step: what `rasterize` says about the Gaussians it drew, after the backward pass. Out: the same
`RiggedGaussians`, resized now and then with binding and optimiser in step, and a report for whoever keeps more numbers
per Gaussian (an average of the weights, say). A strategy in gsplat's manner, two hooks around `backward()`:

    picture, alpha, meta = rasterize(..., absgrad=True)
    strategy.before_backward(meta)
    loss.backward()
    optimizer.step()
    report = strategy.after_backward(step, gaussians, optimizer, meta)

A pass makes new parameter objects: whoever holds a list of them (to clip gradients, say) reads it again. Differences
from the rule of 3DGS, each measured on held-out frames of the synthetic person: the two children lie opposite each
other within one standard deviation, both start with empty moments, a cloned pair is moved apart too and shares its
parent's opacity. There is no reset of opacities: Gaussians on a surface breed no floaters, and a fit of a thousand
steps would not heal from it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.modeling_gaussians import RiggedGaussians
from ...rendering.torch_reference import quaternions_to_matrices

logger = logging.getLogger(__name__)

_SHRINK = 1.6  # how much smaller the children of a split are (3DGS)
_STATE = ("gradient", "views", "protected", "generator")


@dataclass(frozen=True)
class DensifyOptions:
    """Numbers of the densification.

    Args:
        start_step: the first pass comes after this step, counted from 0.
        stop_step: no pass from this step on; the rest of the training settles what has grown.
        every: steps from one pass to the next, and over how many the gradients are averaged. METHOD 5 has 100.
        grow_grad2d: a Gaussian grows where the loss falls by more than this per half picture (width and height taken as
            2) that it moves, averaged over the pictures it shows in. Meant for a loss that averages over pixels and for
            `absgrad=True`; signed gradients cancel and want about a quarter. A full picture gives about the same at any
            size; a crop of half its width gives twice as much.
        grow_scale3d: metres; a growing Gaussian with a larger standard deviation is split, a smaller one cloned.
        prune_opacity: what is more transparent goes; in [0, 1). The rasteriser draws nothing below 1/255.
        prune_scale3d: metres; what is larger and does not want to be split goes.
        max_gaussians: the total never grows above this; the highest gradients come first.
        seed: of the places of children.

    Raises:
        ValueError: naming the option that is out of range.
    """

    start_step: int = 100
    stop_step: int = 600
    every: int = 100
    grow_grad2d: float = 0.0006
    grow_scale3d: float = 0.0015
    prune_opacity: float = 0.01
    prune_scale3d: float = 0.04
    max_gaussians: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("start_step", 0), ("stop_step", 0), ("every", 1), ("max_gaussians", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected {least} or more, got {getattr(self, name)}.")
        for name in ("grow_grad2d", "grow_scale3d", "prune_scale3d"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)}.")
        if not 0 <= self.prune_opacity < 1:
            raise ValueError(f"prune_opacity: expected 0 to below 1, got {self.prune_opacity}.")


@dataclass(frozen=True, eq=False)
class DensifyReport:
    """What a pass has done.

    Attributes:
        cloned, split, pruned: how many of the old Gaussians; the first two add one each.
        order: `[M]` which old Gaussian each of the new set comes from, as `RiggedGaussians.resize` returns it. Other
            numbers per Gaussian follow by `numbers[order]`.
        children: `[M]` True for both halves of each clone or split, whose values are new.
    """

    cloned: int
    split: int
    pruned: int
    order: Tensor
    children: Tensor


class DensifyStrategy:
    """Clones, splits and prunes rigged Gaussians.

    Args:
        options: its numbers.
        triangle_sizes: `[F]` metres, the size k_f of every triangle of the person's head at rest (`triangle_frames`):
            scales are local, and what is small or large is judged in the world.
        protected: `[N]` True for Gaussians to leave alone (teeth and eyes, say): neither grown nor pruned. The mask
            moves along when the set changes. None protects nothing.

    A set that somebody else resizes has to be told: `strategy.follow(gaussians.resize(index, optimizer))`.
    """

    def __init__(self, options: DensifyOptions, triangle_sizes: Tensor, protected: Tensor | None = None):
        if triangle_sizes.ndim != 1:
            raise ValueError(
                f"triangle_sizes: expected a tensor of shape (F,), got {tuple(triangle_sizes.shape)}; "
                "take the third result of triangle_frames for one head, without its last dimension."
            )
        if protected is not None and (protected.ndim != 1 or protected.dtype != torch.bool):
            raise ValueError(
                f"protected: expected a bool tensor of shape (N,), got {protected.dtype} {tuple(protected.shape)}."
            )
        self.options = options
        self.triangle_sizes = triangle_sizes.detach()
        # One entry per Gaussian, or none before the first step: summed gradients, pictures it showed in, protection.
        self._gradient, self._views = torch.zeros(0), torch.zeros(0)
        self._protected = torch.zeros(0, dtype=torch.bool) if protected is None else protected.clone()
        self._generator = torch.Generator().manual_seed(options.seed)

    def before_backward(self, meta: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Before `loss.backward()`: asks torch to keep the gradient of the projected centres.

        Args:
            meta: what `rasterize` returned, or a list of them where a step draws several pictures.
        """
        for drawn in _listed(meta):
            if drawn["means2d"].requires_grad:
                drawn["means2d"].retain_grad()

    def after_backward(
        self,
        step: int,
        gaussians: RiggedGaussians,
        optimizer: torch.optim.Optimizer | None,
        meta: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    ) -> DensifyReport | None:
        """After `optimizer.step()`: adds to the sums, and every so often grows and prunes.

        Args:
            step: number of the step, from 0.
            gaussians: the set that was drawn; resized in place.
            optimizer: of its parameters; None if there is none to keep in step.
            meta: as in `before_backward`.

        Returns:
            What was done, or None where the set is as it was.

        Raises:
            ValueError: `meta` has no gradient, or the set was resized without `follow`.
        """
        options = self.options
        if not options.start_step - options.every < step < options.stop_step:
            return None
        self._expect(gaussians)
        self._accumulate(_listed(meta), gaussians.num_gaussians)
        if step < options.start_step or (step - options.start_step) % options.every:
            return None
        report = self._densify(gaussians, optimizer)
        self._gradient.zero_()
        self._views.zero_()
        if report is not None:
            logger.debug(
                "Step %d: %d Gaussians cloned, %d split, %d pruned; %d in all.",
                step, report.cloned, report.split, report.pruned, gaussians.num_gaussians,
            )  # fmt: skip
        return report

    def prune_unseen(
        self, gaussians: RiggedGaussians, optimizer: torch.optim.Optimizer | None, seen: Tensor
    ) -> DensifyReport | None:
        """Takes away what no training picture ever showed; protected ones stay.

        Only for an avatar that will never be seen from elsewhere: a prior's Gaussians at the side of a head are better
        than a hole.

        Args:
            gaussians: resized in place. optimizer: as in `after_backward`.
            seen: `[N]` bool. A radius above 0 is not enough for it, what lies behind others has one too; a gradient of
                the projected centre that is not 0 is.

        Returns:
            What was done, or None where nothing goes.
        """
        self._expect(gaussians)
        if seen.shape != self._protected.shape or seen.dtype != torch.bool:
            raise ValueError(
                f"seen: expected a bool tensor of shape ({gaussians.num_gaussians},), "
                f"got {seen.dtype} {tuple(seen.shape)}."
            )
        prune, nothing = ~(seen | self._protected), torch.zeros_like(seen)
        if prune.all():
            raise ValueError("seen: expected at least one Gaussian that a picture showed, got none; nothing was drawn.")
        return self._rebuild(gaussians, optimizer, prune, nothing, nothing)

    def follow(self, order: Tensor) -> None:
        """Moves sums and protection along with a set that the caller resized.

        Args:
            order: `[M]` what `RiggedGaussians.resize` returned. A copy has its original's sums and protection.
        """
        for name in ("_gradient", "_views", "_protected"):
            values = getattr(self, name)
            if len(values):
                setattr(self, name, values[order.to(values.device)])

    def state_dict(self) -> dict[str, Tensor]:
        """For an exact resume, all tensors: `gradient [N]`, `views [N]`, `protected [N]` (empty before the first step)
        and the state of the random generator."""
        state = self._generator.get_state()
        return {"gradient": self._gradient.clone(), "views": self._views.clone(), "protected": self._protected.clone(),
                "generator": state}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on where `state_dict` was taken; options and triangle sizes are the caller's.

        Raises:
            ValueError: the keys are others, or the lengths disagree.
        """
        if set(state) != set(_STATE):
            raise ValueError(f"state: expected the keys {', '.join(_STATE)}, got {', '.join(sorted(state))}.")
        if len(state["gradient"]) != len(state["views"]) or len(state["gradient"]) not in (0, len(state["protected"])):
            raise ValueError(
                f"state: expected gradient, views and protected of one length, got {len(state['gradient'])}, "
                f"{len(state['views'])} and {len(state['protected'])}; the checkpoint is damaged."
            )
        self._gradient, self._views, self._protected = (state[name].clone() for name in _STATE[:3])
        self._generator.set_state(state["generator"].cpu())

    def _expect(self, gaussians: RiggedGaussians) -> None:
        """Fills what is empty before the first step, and refuses a set that is not the one counted."""
        count, device = gaussians.num_gaussians, gaussians.means.device
        for name in ("_gradient", "_views", "_protected"):
            values = getattr(self, name)
            if len(values) not in (0, count):
                raise ValueError(
                    f"gaussians: expected the {len(values)} that the strategy keeps count of, got {count}; "
                    "give follow() what RiggedGaussians.resize returned."
                )
            setattr(self, name, values.to(device) if len(values) else values.new_zeros(count, device=device))
        self.triangle_sizes = self.triangle_sizes.to(device)

    def _accumulate(self, metas: Sequence[Mapping[str, Any]], count: int) -> None:
        # A loss that averages over pictures makes each one's gradient smaller by their number.
        pictures = sum(len(drawn["means2d"]) for drawn in metas)
        for drawn in metas:
            centres = drawn["means2d"]
            gradient = centres.absgrad if hasattr(centres, "absgrad") else centres.grad
            if gradient is None:
                raise ValueError(
                    "meta: expected a gradient of means2d, got none; call before_backward(meta) and backward() first."
                )
            if gradient.shape[1] != count:
                raise ValueError(f"meta: expected the {count} Gaussians of the set, got {gradient.shape[1]} drawn.")
            half = gradient.new_tensor([drawn["width"] / 2, drawn["height"] / 2])
            pull = (gradient * half * pictures).norm(dim=-1)
            self._gradient += pull.sum(0)
            # Only pictures that show it count: what is hidden most of the time (teeth) is judged by the others.
            self._views += (pull > 0).sum(0)

    @torch.no_grad()
    def _densify(self, gaussians: RiggedGaussians, optimizer: torch.optim.Optimizer | None) -> DensifyReport | None:
        options = self.options
        pull = self._gradient / self._views.clamp_min(1)
        size = gaussians.log_scales.exp().amax(1) * self.triangle_sizes[gaussians.binding]
        transparent = gaussians.opacity_logits.sigmoid() < options.prune_opacity
        wanted = ~self._protected & ~transparent & (pull > options.grow_grad2d)
        prune = ~self._protected & ~wanted & (transparent | (size > options.prune_scale3d))
        if prune.all():
            logger.warning("Every Gaussian is transparent or too large: none is pruned. Is the learning rate too high?")
            prune = torch.zeros_like(prune)
        room = max(0, options.max_gaussians - gaussians.num_gaussians + int(prune.sum()))
        ranked = torch.where(wanted, pull, -1.0).sort(descending=True, stable=True).indices
        grow = torch.zeros_like(wanted)
        grow[ranked[: min(room, int(wanted.sum()))]] = True
        return self._rebuild(gaussians, optimizer, prune, grow, grow & (size > options.grow_scale3d))

    @torch.no_grad()
    def _rebuild(
        self,
        gaussians: RiggedGaussians,
        optimizer: torch.optim.Optimizer | None,
        prune: Tensor,
        grow: Tensor,
        split: Tensor,
    ) -> DensifyReport | None:
        """One `resize`, and new values for the children; masks `[N]` of the old set, `split` within `grow`."""
        if not (prune | grow).any():
            return None
        order = gaussians.resize(torch.cat([(~prune).nonzero()[:, 0], grow.nonzero()[:, 0]]), optimizer)
        self.follow(order)
        children = grow[order]
        if children.any():
            offsets = torch.zeros(len(grow), 3, device=order.device)
            offsets[grow] = _in_unit_ball(int(grow.sum()), self._generator).to(order.device)
            # Opposite places: the middle of the two stays where the parent was.
            offsets = torch.where(_second(order)[:, None], -offsets[order], offsets[order])[children]
            turn = quaternions_to_matrices(gaussians.quats[children])
            reach = gaussians.log_scales[children].exp()
            gaussians.means[children] += (turn @ (reach * offsets)[..., None]).squeeze(-1)
            gaussians.log_scales[split[order]] -= math.log(_SHRINK)
            # Two clones cover what one did: together they have its opacity.
            cloned = (grow & ~split)[order]
            gaussians.opacity_logits[cloned] = _shared_opacity(gaussians.opacity_logits[cloned])
            if optimizer is not None:
                _forget(optimizer, gaussians, children)
        return DensifyReport(int((grow & ~split).sum()), int(split.sum()), int(prune.sum()), order, children)


def _listed(meta: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return [meta] if isinstance(meta, Mapping) else meta


def _in_unit_ball(count: int, generator: torch.Generator) -> Tensor:
    """`[count, 3]` even in the ball; drawn on the CPU, so that every device gets the same."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return direction * torch.rand(count, 1, generator=generator) ** (1 / 3)


def _shared_opacity(logits: Tensor) -> Tensor:
    """The logit of 1 - sqrt(1 - opacity), finite however opaque."""
    log_light = 0.5 * torch.nn.functional.logsigmoid(-logits)
    return torch.log(-torch.expm1(log_light)) - log_light


def _second(order: Tensor) -> Tensor:
    """True where a value occurred earlier in `order [M]`."""
    places = torch.arange(len(order), device=order.device)
    first = torch.full((int(order.max()) + 1,), len(order), device=order.device)
    first = first.scatter_reduce(0, order, places, "amin")
    return places != first[order]


def _forget(optimizer: torch.optim.Optimizer, gaussians: RiggedGaussians, children: Tensor) -> None:
    """Empties the children's moments: `resize` keeps the parent's for one of them, but neither is the parent."""
    for parameter in gaussians.parameters():
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value[children] = 0


__all__ = ["DensifyOptions", "DensifyReport", "DensifyStrategy"]
