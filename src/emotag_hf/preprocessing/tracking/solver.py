"""Robust least squares of a head's landmarks against landmarks in the picture (METHOD 2's parameters).

In: landmarks `[T,L,2]` in pixels, a camera, a `LandmarkModel`. Out: rotation, translation, jaw, eyelids and expression
of every frame, one identity for all of them. Gauss-Newton with iteratively reweighted residuals. Frames are independent
given the identity, so the normal equations consist of a small dense block per frame and a shared block (an arrowhead
matrix), and the cost per frame does not depend on the length of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...rendering.cameras import Camera
from ...utils.rotations import rotation_matrix
from .landmark_model import LandmarkModel

_CONTACT_DISTANCE = 0.5  # landmarks nearer than this touch, in standard deviations of the landmark noise
ROTATION, TRANSLATION, JAW, EYELIDS, EXPRESSION = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 11), slice(11, None)


@dataclass
class FrameState:
    """The unknowns of T frames.

    `rotation [T,3,3]` and `translation [T,3]` map head space to the world (about the head's origin, between the eyes);
    `jaw [T,3]` rad, `eyelids [T,2]`, `expression [T,50]`.
    """

    rotation: Tensor
    translation: Tensor
    jaw: Tensor
    eyelids: Tensor
    expression: Tensor

    def __len__(self) -> int:
        return len(self.rotation)

    def __getitem__(self, index) -> FrameState:
        return FrameState(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def __setitem__(self, index, value: FrameState) -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name)[index] = getattr(value, name)

    def moved(self, step: Tensor) -> FrameState:
        """The state after a Gauss-Newton step `[T,61]`; the rotation is updated from the left."""
        return FrameState(
            rotation_matrix(step[:, ROTATION]) @ self.rotation,
            self.translation + step[:, TRANSLATION],
            self.jaw + step[:, JAW],
            self.eyelids + step[:, EYELIDS],
            self.expression + step[:, EXPRESSION],
        )

    def coefficients(self) -> Tensor:
        """Jaw, eyelids and expression `[T,55]`, in the order of the step."""
        return torch.cat([self.jaw, self.eyelids, self.expression], 1)


@dataclass
class Prior:
    """Gaussian prior around 0 on the coefficients of a frame (`[55]`: jaw, eyelids, expression).

    Args:
        sigma: standard deviation above 0. sigma_below: below 0, where most coefficients have no meaning.
        upper: above this limit the excess has an additional prior with `sigma_below`.
    """

    sigma: Tensor
    sigma_below: Tensor
    upper: Tensor

    def linearised(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Diagonal and right-hand side `[T,55]` of the prior's normal equations at `value`, by its current sign."""
        weight = torch.where(value < 0, self.sigma_below, self.sigma).pow(-2)
        over = (value - self.upper).clamp_min(0)
        return weight + (over > 0) * self.sigma_below.pow(-2), weight * value + over * self.sigma_below.pow(-2)


@dataclass
class Observations:
    """Landmarks of T frames and their weights.

    Args:
        points: `[T,L,2]` pixels. weights: `[T,L]`.
        scale: `[T,1]` standard deviation of the landmark noise in each frame, pixels.
        pairs: `[P,2]` landmarks whose difference vector is an additional residual.
        pair_weight: `[P]` its weight; contact_weight: `[P]` additional weight where they touch in the picture.
    """

    points: Tensor
    weights: Tensor
    scale: Tensor
    pairs: Tensor
    pair_weight: Tensor
    contact_weight: Tensor

    def __getitem__(self, index) -> Observations:
        return replace(self, points=self.points[index], weights=self.weights[index], scale=self.scale[index])


@dataclass
class Linearised:
    """Residuals `[T,2,R]` in standard deviations, their robust weights `[T,R]` and derivatives `[T,2,R,K]`."""

    residual: Tensor
    weight: Tensor
    frame_by: Tensor
    shared_by: Tensor | None


class LandmarkSolver:
    """Gauss-Newton over frames and identity.

    Args:
        model: of the landmarks in `Observations`, in the same order.
        camera: the pinhole camera of all frames.
        prior: on the frames' coefficients.
        robust: scale of the Geman-McClure weights: landmarks with residuals beyond it, in standard deviations, count as
            outliers.
    """

    def __init__(self, model: LandmarkModel, camera: Camera, prior: Prior, robust: float):
        self.model, self.camera, self.prior, self.robust = model, camera, prior, robust
        self.turn, self.shift = camera.viewmat[:3, :3], camera.viewmat[:3, 3]

    def project(self, state: FrameState, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Head points `[T,3,L]` to pixels `[T,2,L]`; also world points and depths `[T,L]` in front of the camera."""
        turned = state.rotation @ points
        seen = self.turn @ (turned + state.translation[..., None]) + self.shift[:, None]
        depth = seen[:, 2].clamp_min(1e-3)
        focal = self.camera.K.diagonal()[:2, None]
        return focal * seen[:, :2] / depth[:, None] + self.camera.K[:2, 2:], turned, depth

    def linearise(self, state: FrameState, shape: Tensor, seen: Observations, with_shape: bool) -> Linearised:
        head = self.model(shape, state.expression, state.jaw, state.eyelids, with_shape)
        pixels, turned, depth = self.project(state, head.points)
        focal = self.camera.K.diagonal()[:2]
        # d pixel / d camera point, then d / d world point
        by_camera = torch.zeros(len(state), 2, depth.shape[1], 3)
        by_camera[:, 0, :, 0], by_camera[:, 1, :, 1] = focal[0] / depth, focal[1] / depth
        by_camera[..., 2] = -(pixels - self.camera.K[:2, 2:]) / depth[:, None]
        by_world = by_camera @ self.turn  # [T,2,L,3]
        by_head = by_world @ state.rotation[:, None]

        rotation_by = torch.linalg.cross(turned.transpose(1, 2)[:, None].expand_as(by_world), by_world)
        through = lambda d: _chain(by_head, d)  # noqa: E731
        coefficients_by = through(torch.cat([head.jaw, head.eyelids, head.expression], -1))
        frame_by = torch.cat([rotation_by, by_world, coefficients_by], -1)
        shared_by = through(head.shape) if with_shape else None

        difference = (pixels - seen.points.transpose(1, 2)) / seen.scale[:, None]
        distance = difference.square().sum(1)
        weight = seen.weights * _geman_mcclure(distance, self.robust)
        a, b = seen.pairs.T
        gap = difference[:, :, a] - difference[:, :, b]
        apart = (seen.points[:, a] - seen.points[:, b]).square().sum(-1) / (_CONTACT_DISTANCE * seen.scale).square()
        gap_weight = seen.pair_weight + seen.contact_weight * torch.exp(-apart)
        gap_weight = gap_weight * torch.minimum(seen.weights[:, a], seen.weights[:, b])
        gap_weight = gap_weight * _geman_mcclure(gap.square().sum(1), self.robust)
        join = lambda d: torch.cat([d, d[:, :, a] - d[:, :, b]], 2) / seen.scale[:, None, :, None]  # noqa: E731
        return Linearised(
            torch.cat([difference, gap], 2),
            torch.cat([weight, gap_weight], 1),
            join(frame_by),
            join(shared_by) if with_shape else None,
        )

    def frame_equations(
        self, state: FrameState, line: Linearised, smooth: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Normal matrices `[T,61,61]` and right-hand sides `[T,61]` of the frames, with the prior."""
        matrix, side = _normal(line.frame_by, line.frame_by, line.weight, line.residual)
        weight, pull = self.prior.linearised(state.coefficients())
        diagonal = torch.full((len(state), matrix.shape[1]), 1e-4)
        diagonal[:, 6:] += weight
        side[:, 6:] += pull
        if smooth is not None:  # temporal smoothing: differences [T,61] and weights [T,61]
            diagonal, side = diagonal + smooth[1], side + smooth[1] * smooth[0]
        return matrix + torch.diag_embed(diagonal), side

    def solve_frames(
        self,
        state: FrameState,
        shape: Tensor,
        seen: Observations,
        steps: int,
        free: slice | None = None,
        smooth: tuple[Tensor, Tensor] | None = None,
    ) -> FrameState:
        """Gauss-Newton on each frame independently; `free` selects the parameters that are optimised (None: all)."""
        for _ in range(steps):
            line = self.linearise(state, shape, seen, with_shape=False)
            matrix, side = self.frame_equations(state, line, smooth)
            step = torch.zeros_like(side)
            free_ = slice(None) if free is None else free
            step[:, free_] = -_solve(matrix[:, free_, free_], side[:, free_])
            state = state.moved(_limited(step))
            if smooth is not None:
                smooth = (smooth[0] + _limited(step), smooth[1])
        return state

    def solve_shared(
        self, state: FrameState, shape: Tensor, seen: Observations, steps: int
    ) -> tuple[FrameState, Tensor]:
        """Gauss-Newton on frames and identity together; the frames are eliminated first (Schur complement)."""
        for _ in range(steps):
            line = self.linearise(state, shape, seen, with_shape=True)
            matrix, side = self.frame_equations(state, line, None)
            mixed, _ = _normal(line.frame_by, line.shared_by, line.weight, line.residual)
            shared, shared_side = _normal(line.shared_by, line.shared_by, line.weight, line.residual)
            carried = _solve(matrix, torch.cat([mixed, side[..., None]], -1))
            reduced = shared.sum(0) + torch.eye(len(shape)) - (mixed.transpose(1, 2) @ carried[..., :-1]).sum(0)
            reduced_side = shared_side.sum(0) + shape - (mixed.transpose(1, 2) @ carried[..., -1:]).sum(0)[:, 0]
            shape_step = -_solve(reduced[None], reduced_side[None])[0]
            shape_step = shape_step.clamp(-0.5, 0.5)
            state = state.moved(_limited(-(carried[..., -1] + carried[..., :-1] @ shape_step)))
            shape = shape + shape_step
        return state, shape


def _chain(by_head: Tensor, by: Tensor) -> Tensor:
    """`[T,2,L,3]` (d pixel / d head point) times `[T,3,L,K]` (d head point / d parameter): `[T,2,L,K]`."""
    out = by_head[..., 0, None] * by[:, None, 0]
    for axis in (1, 2):
        out = torch.addcmul(out, by_head[..., axis, None], by[:, None, axis])
    return out


def _geman_mcclure(square: Tensor, robust: float) -> Tensor:
    return (1 + square / robust**2).pow(-2)


def _normal(left: Tensor, right: Tensor, weight: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """J'WJ `[T,A,B]` and J'Wr `[T,A]`."""
    weighted = (left * weight[:, None, :, None]).flatten(1, 2).transpose(1, 2)
    return weighted @ right.flatten(1, 2), (weighted @ residual.flatten(1)[..., None])[..., 0]


def _solve(matrix: Tensor, side: Tensor) -> Tensor:
    """Solves symmetric positive definite systems, scaled and in float64: units differ between parameters."""
    vector = side.ndim == matrix.ndim - 1
    side = side[..., None] if vector else side
    scale = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-12).rsqrt().double()
    scaled = matrix.double() * scale[:, :, None] * scale[:, None]
    # The prior makes the systems definite, up to rounding errors. Frames where Cholesky fails are not changed.
    factor, failed = torch.linalg.cholesky_ex(scaled + 1e-8 * torch.eye(scaled.shape[1], dtype=torch.float64))
    factor = torch.where((failed > 0)[:, None, None], torch.eye(scaled.shape[1], dtype=torch.float64), factor)
    side = torch.where((failed > 0)[:, None, None], 0.0, side)
    out = (torch.cholesky_solve(side.double() * scale[..., None], factor) * scale[..., None]).to(side.dtype)
    return out[..., 0] if vector else out


def _limited(step: Tensor) -> Tensor:
    """Limits one step to 0.5 rad of rotation, 0.2 m of translation and 0.5 in each coefficient."""
    limit = torch.full((step.shape[1],), 0.5)
    limit[TRANSLATION] = 0.2
    return step.clamp(-limit, limit)


__all__ = ["FrameState", "LandmarkSolver", "Observations", "Prior"]
