"""Photometric refinement: pose and expression moved until a set of Gaussians looks like the frames.

In: a `HeadTrack`, the person's `RiggedGaussians`, frames of the crop. Out: the track with refined frames, and the
error before and after. Landmarks leave a bias of one or two pixels that no fit can remove (they are wrong together);
pixels do not, once there are Gaussians to compare with. The Gaussians stay as they are. A pose alone can be bought from
the hair at the face's cost, so the face weighs more and the expression moves with the pose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..constants import MOTION_DIMS
from ..modeling_gaussians import RiggedGaussians
from ..modeling_head import ParametricHead, rotation_matrix
from ..outputs import FlameMotion
from ..rendering import rasterize
from ..rendering.mesh import rasterize_mesh
from .head_track import HeadTrack
from .neck import rotation_to_axis_angle

# What may move, how far one step goes, and how far from the landmarks' answer it is believed (one standard deviation).
_FREE = {
    "rotation": (2e-3, 0.02),  # rad
    "translation": (4e-4, 0.004),  # metres
    "jaw_pose": (4e-3, 0.05),  # rad
    "expression": (1e-2, 0.15),  # coefficients
    "eyelids": (1e-2, 0.15),
}


@dataclass(frozen=True)
class RefineOptions:
    """Numbers of the refinement.

    Args:
        steps: Adam steps per frame.
        size: pixels of the shorter side at which pictures are compared.
        face_weight: weight of a pixel on the face; other pixels that the Gaussians cover have 1.
        prior: weight of staying near the landmarks' answer, in squared colour per standard deviation squared and pixel.
    """

    steps: int = 40
    size: int = 256
    face_weight: float = 4.0
    prior: float = 2e-5


@dataclass
class Refinement:
    """`track` with the refined frames; `before [n]` and `after [n]`: weighted mean absolute error of colours."""

    track: HeadTrack
    before: Tensor
    after: Tensor


def refine_photometric(
    track: HeadTrack,
    head: ParametricHead,
    gaussians: RiggedGaussians,
    frame: Callable[[int], np.ndarray],
    indices: Sequence[int],
    background: Tensor | None = None,
    options: RefineOptions | None = None,
) -> Refinement:
    """Moves some frames of a track so that the Gaussians, drawn in its camera, come closer to the pictures.

    A frame whose error does not fall keeps its motion, so the result is never worse than the landmarks alone by its own
    measure; whether it is better on pictures that it has not seen is the caller's cross-check.

    Args:
        track: T frames. head, gaussians: as the avatar has them.
        frame: gives frame i of the crop, `[H, W, 3]` uint8.
        indices: the frames to refine.
        background: `[H, W, 3]` in [0, 1] behind the Gaussians; None compares over black with the frame where the
            Gaussians cover it.
        options: numbers of the refinement.

    Raises:
        ValueError: a frame is not of the camera's size, or an index is not in the track.
    """
    options = options or RefineOptions()
    camera = track.camera
    if any(not 0 <= i < len(track) for i in indices):
        raise ValueError(f"indices: expected frames 0 to {len(track) - 1}, got {[*indices]}.")
    scale = options.size / min(camera.width, camera.height)
    small = camera.resize((round(camera.width * scale), round(camera.height * scale)))
    if background is not None:
        background = _shrunk(background, small.width, small.height)
    motion = FlameMotion(
        **{name: getattr(track.motion, name).clone() for name in MOTION_DIMS},
        mouth_code=track.motion.mouth_code,
        fps=track.motion.fps,
    )
    one = _OneFrame(head, gaussians, track.shape, small, background, options)
    before, after = [], []
    for index in indices:
        picture = frame(index)
        if picture.shape[:2] != (camera.height, camera.width):
            raise ValueError(
                f"frame: expected {camera.width}x{camera.height} pixels as the camera sees, "
                f"got {picture.shape[1]}x{picture.shape[0]}."
            )
        target = _shrunk(torch.from_numpy(np.ascontiguousarray(picture)).float() / 255, small.width, small.height)
        start = {name: getattr(motion, name)[index : index + 1] for name in MOTION_DIMS}
        found, errors = one.refine(start, target)
        for name in _FREE:
            getattr(motion, name)[index] = found[name][0]
        before.append(errors[0])
        after.append(errors[1])
    return Refinement(replace(track, motion=motion), torch.tensor(before), torch.tensor(after))


class _OneFrame:
    """What all frames share: the head, its Gaussians, the small camera."""

    def __init__(self, head, gaussians, shape, camera, background, options):
        self.head, self.gaussians, self.camera, self.options = head, gaussians, camera, options
        self.shape, self.background = shape[None], background
        face = head.region_masks[head.region_names.index("face")][head.faces].any(1)
        self.face = face.numpy()
        with torch.no_grad():
            self.lever = -head(shape=shape[None]).joints[0, 0]  # from the root joint to between the eyes

    def refine(self, start: dict[str, Tensor], target: Tensor) -> tuple[dict[str, Tensor], tuple[float, float]]:
        """The motion `[1, dim]` of one frame, better or as it was; the errors before and after."""
        weight = self._weight(start)
        steps = {name: torch.zeros_like(start[name], requires_grad=True) for name in _FREE}
        adam = torch.optim.Adam([{"params": [steps[name]], "lr": rate} for name, (rate, _) in _FREE.items()])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.options.steps, eta_min=0.0)
        first, best, kept = None, None, start
        for step in range(self.options.steps + 1):
            now = _moved(start, steps, self.lever)
            error = self._error(now, target, weight)
            value = error.item()
            if first is None:
                first = best = value
            elif value < best:
                best, kept = value, {name: part.detach() for name, part in now.items()}
            if step == self.options.steps:
                break
            away = sum((steps[name] / sigma).square().sum() for name, (_, sigma) in _FREE.items())
            adam.zero_grad(set_to_none=True)
            (error + self.options.prior * away).backward()
            adam.step()
            schedule.step()
        return kept, (first, best)

    def _error(self, motion: dict[str, Tensor], target: Tensor, weight: Tensor) -> Tensor:
        vertices = self.head(shape=self.shape, **motion).vertices
        with torch.no_grad():
            posed = self.gaussians.pose(vertices, self.head.faces)
        # Only the triangles' centres carry gradients: what turning and stretching the Gaussians adds is small for such
        # steps, and costs as much again.
        centres = vertices[0, self.head.faces[self.gaussians.binding]].mean(1)
        color, alpha, _ = rasterize(
            posed.means[0] + (centres - centres.detach()),
            posed.quats[0], posed.scales[0], posed.opacities, posed.colors,
            viewmats=self.camera.viewmat[None], Ks=self.camera.K[None],
            width=self.camera.width, height=self.camera.height, sh_degree=posed.sh_degree or None,
        )  # fmt: skip
        behind = target if self.background is None else self.background
        picture = color[0] + (1 - alpha[0]) * behind
        return ((picture - target).abs().mean(-1) * weight).sum() / weight.sum()

    @torch.no_grad()
    def _weight(self, motion: dict[str, Tensor]) -> Tensor:
        """`[H, W]`: more on the face, 1 on and around the rest of the person, little elsewhere; fixed."""
        vertices = self.head(shape=self.shape, **motion).vertices[0]
        seen = vertices @ self.camera.viewmat[:3, :3].T + self.camera.viewmat[:3, 3]
        buffers = rasterize_mesh(seen, self.head.faces, self.camera.K, self.camera.width, self.camera.height)
        person = buffers.face_index >= 0
        face = person & self.face[buffers.face_index]
        spread = torch.nn.functional.max_pool2d(torch.from_numpy(person)[None].float(), 17, stride=1, padding=8)[0]
        return 0.05 + spread * 0.95 + torch.from_numpy(face).float() * (self.options.face_weight - 1)


def _moved(start: dict[str, Tensor], steps: dict[str, Tensor], lever: Tensor) -> dict[str, Tensor]:
    """The motion after the steps. The rotation's step turns the head about the point between its eyes, not about the
    root joint a hand's breadth below, or turning and shifting would undo each other; lids stay in range."""
    now = {name: value + steps[name] if name in steps else value for name, value in start.items()}
    before = rotation_matrix(start["rotation"])
    after = rotation_matrix(steps["rotation"]) @ before
    now["rotation"] = rotation_to_axis_angle(after)
    now["translation"] = now["translation"] + (before - after) @ lever
    now["eyelids"] = now["eyelids"].clamp(0, 1)
    return now


def _shrunk(picture: Tensor, width: int, height: int) -> Tensor:
    """`[H, W, 3]` averaged down to `[height, width, 3]`."""
    planes = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], (height, width), mode="area")
    return planes[0].permute(1, 2, 0)


__all__ = ["RefineOptions", "Refinement", "refine_photometric"]
