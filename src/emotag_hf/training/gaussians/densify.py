"""Densification: Gaussians with large image gradients are cloned or split, invisible ones pruned (METHOD 5).

In, at each step: `rasterize`'s meta data after the backward pass. Out: the same `RiggedGaussians`, resized from time to
time together with binding and optimiser, and a report for other per-Gaussian state, such as averaged weights. A
strategy in gsplat's manner, two hooks around `backward()`:

    picture, alpha, meta = rasterize(..., absgrad=True)
    strategy.before_backward(meta)
    loss.backward()
    optimizer.step()
    report = strategy.after_backward(step, gaussians, optimizer, meta)

A pass makes new parameter objects: lists of parameters (to clip gradients, say) have to be made again. Differences from
the rule of 3DGS, each measured on held-out frames of the synthetic person: the two children are at opposite places
within one standard deviation, both start with zero moments, clones are moved apart as well and share their parent's
opacity. Opacities are not reset: Gaussians on a surface make no floaters, and a thousand steps would not recover from
it.
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

_SHRINK = 1.6  # factor by which the children of a split are smaller (3DGS)
_STATE = ("gradient", "views", "protected", "generator")


@dataclass(frozen=True)
class DensifyOptions:
    """Options of the densification.

    Args:
        start_step: the first pass comes after this step, counted from 0.
        stop_step: no pass from this step on.
        every: steps from one pass to the next, and over how many the gradients are averaged. METHOD 5 has 100.
        grow_grad2d: gradient threshold for growing: change of the loss per motion of the 2D centre, in units where the
            image is 2 wide and high, averaged over the images that show it. For a loss that averages over pixels and
            `absgrad=True`; signed gradients need about a quarter. Independent of the image size; a crop of half the
            width gives twice as much.
        grow_scale3d: metres; a growing Gaussian with a larger standard deviation is split, a smaller one cloned.
        prune_opacity: Gaussians with a lower opacity are pruned; in [0, 1). The rasteriser skips those below 1/255.
        prune_scale3d: metres; larger Gaussians are pruned unless they are split.
        max_gaussians: upper limit of their number; the highest gradients are preferred.
        seed: of the random positions of children.

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
    """Report of a pass.

    Attributes:
        cloned, split, pruned: numbers of old Gaussians; each clone and split adds one.
        order: `[M]` index of the old Gaussian for each new one, as `RiggedGaussians.resize` returns it. Reorder other
            per-Gaussian state by `values[order]`.
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
            needed because scales are local, but thresholds are in metres.
        protected: `[N]` True for Gaussians that are neither grown nor pruned (teeth and eyes, say). The mask is updated
            when the set changes. None protects nothing.

    After resizing the set elsewhere, call `strategy.follow(gaussians.resize(index, optimizer))`.
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
        # Per Gaussian (empty before the first step): summed gradients, number of images that showed it, protection.
        self._gradient, self._views = torch.zeros(0), torch.zeros(0)
        self._protected = torch.zeros(0, dtype=torch.bool) if protected is None else protected.clone()
        self._generator = torch.Generator().manual_seed(options.seed)

    def before_backward(self, meta: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Call before `loss.backward()`: keeps the gradient of the projected centres.

        Args:
            meta: as returned by `rasterize`, or a list of them if a step renders several images.
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
        """Call after `optimizer.step()`: accumulates gradients, and grows and prunes at the given interval.

        Args:
            step: number of the step, from 0.
            gaussians: the set that was rendered; resized in place.
            optimizer: of its parameters, updated with them; or None.
            meta: as in `before_backward`.

        Returns:
            The report, or None if the set is unchanged.

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
        """Prunes Gaussians that no training image showed, except protected ones.

        Only for avatars that are never seen from other directions: unseen Gaussians of the prior are better than holes.

        Args:
            gaussians: resized in place. optimizer: as in `after_backward`.
            seen: `[N]` bool: whether the projected centre had a non-zero gradient. (A radius above 0 is not enough:
                hidden Gaussians have one.)

        Returns:
            The report, or None if nothing was pruned.
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
        """Updates sums and protection after the caller resized the set.

        Args:
            order: `[M]`, the result of `RiggedGaussians.resize`. Copies get the sums and protection of their original.
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
        """Restores the result of `state_dict`; options and triangle sizes must be the same.

        Raises:
            ValueError: other keys, or lengths that differ.
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
        """Initialises the sums before the first step, and checks the number of Gaussians."""
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
        # Compensates for a loss that averages over images.
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
            # Averaged over images that show it, because some parts (teeth) are mostly hidden.
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
            # Opposite offsets: the mean of the two stays at the parent.
            offsets = torch.where(_second(order)[:, None], -offsets[order], offsets[order])[children]
            turn = quaternions_to_matrices(gaussians.quats[children])
            reach = gaussians.log_scales[children].exp()
            gaussians.means[children] += (turn @ (reach * offsets)[..., None]).squeeze(-1)
            gaussians.log_scales[split[order]] -= math.log(_SHRINK)
            # Together the two clones have the parent's opacity.
            cloned = (grow & ~split)[order]
            gaussians.opacity_logits[cloned] = _shared_opacity(gaussians.opacity_logits[cloned])
            if optimizer is not None:
                _forget(optimizer, gaussians, children)
        return DensifyReport(int((grow & ~split).sum()), int(split.sum()), int(prune.sum()), order, children)


def _listed(meta: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return [meta] if isinstance(meta, Mapping) else meta


def _in_unit_ball(count: int, generator: torch.Generator) -> Tensor:
    """`[count, 3]` uniform in the unit ball; drawn on the CPU, so that it is the same on every device."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    return direction * torch.rand(count, 1, generator=generator) ** (1 / 3)


def _shared_opacity(logits: Tensor) -> Tensor:
    """The logit of 1 - sqrt(1 - opacity), always finite."""
    log_light = 0.5 * torch.nn.functional.logsigmoid(-logits)
    return torch.log(-torch.expm1(log_light)) - log_light


def _second(order: Tensor) -> Tensor:
    """True where a value occurred earlier in `order [M]`."""
    places = torch.arange(len(order), device=order.device)
    first = torch.full((int(order.max()) + 1,), len(order), device=order.device)
    first = first.scatter_reduce(0, order, places, "amin")
    return places != first[order]


def _forget(optimizer: torch.optim.Optimizer, gaussians: RiggedGaussians, children: Tensor) -> None:
    """Sets the children's moments to zero: `resize` keeps the parent's for one of them."""
    for parameter in gaussians.parameters():
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value[children] = 0


__all__ = ["DensifyOptions", "DensifyReport", "DensifyStrategy"]
