"""Photometric refinement: optimises pose and expression so that a person's rendered Gaussians match the frames.

In: a `HeadTrack`, the person (head, Gaussians, expression code), frames of the crop. Out: the track with refined
frames, and the error before and after. Landmarks have a common bias of one or two pixels that a fit cannot remove;
comparing rendered Gaussians with pixels can. The Gaussians are not changed. Optimising the pose alone can improve the
hair and degrade the face, so the face has a larger weight and the expression is optimised together with the pose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...constants import MOTION_DIMS
from ...models.gaussian_correctives import ExpressionCode
from ...models.gaussian_rig_kernels import rig
from ...models.modeling_gaussians import RiggedGaussians
from ...models.modeling_head import ParametricHead
from ...outputs import FlameMotion
from ...rendering import Camera, rasterize
from ...utils.torch_threads import one_torch_thread
from .head_track import HeadTrack
from .motion_offsets import MotionOffsets

_MIN_COARSE_SIZE = 192  # pixels: least size of the coarse stage, which else has half of `RefineOptions.size`


class Person(Protocol):
    """What is rendered: an `EmoTaGModel`, or a trainer of one."""

    head: ParametricHead
    gaussians: RiggedGaussians
    expression_code: ExpressionCode | None


@dataclass(frozen=True)
class RefineOptions:
    """Options of the refinement.

    Args:
        steps: Adam steps per frame: two thirds at half the size (at least 192 pixels), the rest at full size.
        size: pixels of the shorter side of the pictures that are compared in the last steps.
        rate: learning rate of the first step, in the units of `MotionOffsets`; decays linearly to zero.
        face_weight: weight of pixels in the bounding box of the face; others have 1.
        prior: weight of the squared offsets from the landmark fit, in colour per step squared.
    """

    steps: int = 80
    size: int = 512
    rate: float = 2.0
    face_weight: float = 6.0
    prior: float = 1e-8


@dataclass
class Refinement:
    """`track` with the refined frames; `before [n]` and `after [n]`: weighted mean absolute error of colours."""

    track: HeadTrack
    before: Tensor
    after: Tensor


def refine_photometric(
    track: HeadTrack,
    person: Person,
    frame: Callable[[int], np.ndarray],
    indices: Sequence[int],
    background: Tensor | None = None,
    options: RefineOptions | None = None,
    progress: Callable[[Any], Any] = iter,
) -> Refinement:
    """Optimises the motion of some frames of a track so that the person's rendered Gaussians match the pictures.

    A frame whose error does not decrease keeps its motion, so by this error the result is never worse than the landmark
    fit. Each frame starts from its own landmark fit: started from the previous frame, a rising brow would stay low.

    Args:
        track: T frames.
        person: the avatar's head, Gaussians and expression code.
        frame: returns frame i of the crop, `[H, W, 3]` uint8.
        indices: the frames to refine.
        background: `[H, W, 3]` in [0, 1] behind the Gaussians; None composites them over the frame itself, so that
            only pixels that they cover count.
        options: None for the defaults.
        progress: wraps the iterable of indices, such as `tqdm`.

    Raises:
        ValueError: a frame's size differs from the camera's, or an index is not in the track.
    """
    options = options or RefineOptions()
    camera = track.camera
    if any(not 0 <= i < len(track) for i in indices):
        raise ValueError(f"indices: expected frames 0 to {len(track) - 1}, got {[*indices]}.")
    views = [
        _View(camera, size, background, options) for size in (max(options.size // 2, _MIN_COARSE_SIZE), options.size)
    ]
    offsets = MotionOffsets(track.motion, person.head, track.shape)
    before, after = [], []
    for index in progress(indices):
        picture = frame(index)
        if picture.shape[:2] != (camera.height, camera.width):
            raise ValueError(
                f"frame: expected {camera.width}x{camera.height} pixels as the camera sees, "
                f"got {picture.shape[1]}x{picture.shape[0]}."
            )
        target = torch.from_numpy(np.ascontiguousarray(picture)).float() / 255
        for view in views:
            view.show(target, track.landmarks[index])
        with one_torch_thread():
            errors = _refine(offsets, index, person, track.shape, views, options)
        before.append(errors[0])
        after.append(errors[1])
    motion = _with_rows(track.motion, offsets, list(indices))
    return Refinement(replace(track, motion=motion), torch.tensor(before), torch.tensor(after))


class _View:
    """One resolution at which a frame is compared."""

    def __init__(self, camera: Camera, size: int, background: Tensor | None, options: RefineOptions):
        scale = min(1.0, size / min(camera.width, camera.height))
        self.full, self.face = camera, options.face_weight
        self.camera = camera.resize((round(camera.width * scale), round(camera.height * scale)))
        self.background = None if background is None else self._sized(background)

    def show(self, target: Tensor, landmarks: Tensor) -> None:
        self.target = self._sized(target)
        self.behind = self.target if self.background is None else self.background
        self.weight = face_weight(landmarks, self.full, self.camera, self.face)

    def error(self, vertices: Tensor, code: Tensor | None, person: Person) -> Tensor:
        colors, alpha, _ = draw_vertices(vertices, code, person, self.camera)
        apart = (colors + (1 - alpha) * self.behind - self.target).abs().mean(-1)
        return (apart * self.weight).sum() / self.weight.sum()

    def _sized(self, picture: Tensor) -> Tensor:
        return shrunk(picture, self.camera.width, self.camera.height)


def _refine(offsets, index, person, shape, views, options) -> tuple[float, float]:
    """Optimises one row of the offsets; returns the errors of the landmark fit and of the result, at full size."""
    frames = torch.tensor([index])
    zero_row = torch.zeros_like(offsets.rows[index])
    with torch.no_grad():
        motion = offsets.motion(frames, zero_row[None])
        first = views[-1].error(*posed(motion, person, shape), person).item()
    best, kept = first, zero_row
    for step in range(options.steps + 1):
        view = views[0] if 3 * step < 2 * options.steps else views[-1]
        row = offsets.row(index)
        vertices, code = posed(offsets.motion(frames, row[None]), person, shape)
        error = view.error(vertices, code, person)
        if view is views[-1] and error.item() < best:
            best, kept = error.item(), row.detach()
        if step < options.steps:
            (gradient,) = torch.autograd.grad(error + options.prior * row.square().sum(), row)
            offsets.update(index, gradient, options.rate * (1 - step / options.steps))
    offsets.rows[index] = kept
    return first, best


def posed(motion: FlameMotion, person: Person, shape: Tensor) -> tuple[Tensor, Tensor | None]:
    """Vertices `[V, 3]` and expression code `[K]` of one frame."""
    vertices = person.head(shape=shape[None], **motion.head_inputs()).vertices[0]
    return vertices, None if person.expression_code is None else person.expression_code(motion)[0]


def draw(motion: FlameMotion, person: Person, shape: Tensor, camera: Camera, **options) -> tuple[Tensor, Tensor]:
    """Premultiplied colours `[H, W, 3]` and alphas `[H, W, 1]` of one frame, differentiable in motion and Gaussians."""
    colors, alphas, _ = draw_vertices(*posed(motion, person, shape), person, camera, **options)
    return colors, alphas


def draw_vertices(
    vertices: Tensor, code: Tensor | None, person: Person, camera: Camera, **options
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The same from the posed head's vertices `[V, 3]` and code `[K]`; also returns the metadata of `rasterize`."""
    gaussians = person.gaussians
    world = rig(
        vertices, person.head.faces, gaussians.binding, gaussians.means, gaussians.quats, gaussians.log_scales,
        gaussians.opacity_logits, gaussians.colors.squeeze(1),
        gaussians.corrective_means if code is not None else None,
        gaussians.corrective_colors if code is not None else None, code,
    )  # fmt: skip
    view, intrinsics = camera.viewmat.to(vertices.device), camera.K.to(vertices.device)
    colors, alphas, meta = rasterize(*world, view[None], intrinsics[None], camera.width, camera.height, **options)
    return colors[0], alphas[0], meta


def face_weight(landmarks: Tensor, camera: Camera, small: Camera, weight: float) -> Tensor:
    """`[H, W]`: `weight` in the bounding box of the landmarks `[478, 3]` (pixels of `camera`), 1 elsewhere."""
    out = torch.ones(small.height, small.width)
    points = landmarks[:, :2]
    if torch.isfinite(points).all():
        points = points * torch.tensor([small.width / camera.width, small.height / camera.height])
        x0, y0 = points.min(0).values.long().clamp_min(0).tolist()
        x1, y1 = points.max(0).values.long().clamp_min(0).tolist()
        out[y0 : y1 + 1, x0 : x1 + 1] = weight
    return out


def shrunk(picture: Tensor, width: int, height: int) -> Tensor:
    """`[H, W, C]` downsampled to `[height, width, C]` by averaging."""
    if tuple(picture.shape[:2]) == (height, width):
        return picture
    planes = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], (height, width), mode="area")
    return planes[0].permute(1, 2, 0).contiguous()


def _with_rows(motion: FlameMotion, offsets: MotionOffsets, frames: list[int]) -> FlameMotion:
    """`motion` with some frames replaced by the corrected ones; the others are bit-identical."""
    moved = offsets.motion(torch.tensor(frames, dtype=torch.int64))
    body = motion.body_translation
    fields = {name: getattr(motion, name).clone() for name in MOTION_DIMS}
    fields["body_translation"] = torch.zeros(len(motion), 3) if body is None else body.clone()
    for name, value in fields.items():
        value[frames] = getattr(moved, name)
    return FlameMotion(**fields, mouth_code=motion.mouth_code, fps=motion.fps)


__all__ = [
    "Person",
    "RefineOptions",
    "Refinement",
    "draw",
    "draw_vertices",
    "face_weight",
    "refine_photometric",
    "shrunk",
]
