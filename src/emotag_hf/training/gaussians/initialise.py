"""Initialises a person's Gaussians from the fitted head and a few frames of the clip (METHOD 2).

In: frames, mattes, the track of a `TrainingScene`. Out: parameters of `RiggedGaussians`. On the head's surface they are
sampled by area, more densely at lips, eyelids and eyes. Pixels of the person outside the mesh (hair, shoulders) become
Gaussians at the depth of the nearest point of the mesh's outline, bound to its triangle. Colours are sampled from the
frames in which a Gaussian is visible; the others take the colour of their region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.configuration_emotag import EmoTaGGaussiansConfig
from ...models.modeling_gaussian_prior import GaussianPrior
from ...models.modeling_gaussians import RiggedGaussians, triangle_frames
from ...models.modeling_head import ParametricHead
from ...preprocessing.tracking.masks import near
from ...preprocessing.tracking.regions import EARS, EYES, FACE, HAIR, MOUTH, NECK, TORSO, face_regions, region_labels
from ...rendering.mesh import rasterize_mesh
from ...rendering.spherical_harmonics import SH_C0
from .scene import TrainingScene

# Gaussians per area, relative to a cheek; the last entry that matches a triangle applies.
DENSITY = (
    ("scalp", 0.35), ("ears", 0.5), ("neck", 0.5), ("torso", 0.35), ("brows", 2.0), ("nose", 1.5), ("lips", 4.0),
    ("lids", 4.0), ("mouth_interior", 1.0), ("gums", 1.0), ("tongue", 1.5), ("teeth_upper", 2.5), ("teeth_lower", 2.5),
    ("left_eye", 2.5), ("right_eye", 2.5), ("iris", 5.0), ("pupil", 5.0), ("lashes", 4.0),
)  # fmt: skip
INNER_MOUTH = ("mouth_interior", "gums", "tongue", "teeth_upper", "teeth_lower")
# Colours of parts that a clip may never show, as multiples of the skin's: mouth cavity, teeth and tongue.
_UNSEEN = {"mouth_interior": (0.25, 0.12, 0.12), "gums": (0.55, 0.35, 0.35), "tongue": (0.6, 0.4, 0.4)}
_UNSEEN |= {"teeth_upper": (0.75, 0.8, 0.85), "teeth_lower": (0.6, 0.65, 0.7)}

_FLAT = 0.25  # thickness of a Gaussian along the normal, relative to its width
_WIDTH = 0.75  # standard deviation, relative to the distance between neighbours
_LOGIT_SURFACE, _LOGIT_BESIDE = 3.0, 2.0
_DEPTH_SLACK = 0.006  # metres; a Gaussian this far behind the visible surface counts as visible


@dataclass(frozen=True)
class InitOptions:
    """Numbers of Gaussians and frames.

    Args:
        num_surface: on the head's mesh.
        num_beside: at most, outside the mesh: hair and shoulders.
        num_frames: used for colours.
        seed: of the sampling.
    """

    num_surface: int = 14000
    num_beside: int = 7000
    num_frames: int = 10
    seed: int = 0


def initialise_gaussians(
    scene: TrainingScene, num_correctives: int, options: InitOptions | None = None, prior: GaussianPrior | None = None
) -> RiggedGaussians:
    """The Gaussians before any training step.

    Returns:
        `RiggedGaussians`; those inside the mouth are last.
    """
    options = options or InitOptions()
    generator = torch.Generator().manual_seed(options.seed)
    head, shape = scene.head, scene.shape[None]
    rest = head(shape=shape).vertices[0]
    frames = triangle_frames(rest, head.faces)
    looks = scene.apart(options.num_frames)
    surface = sample_surface(head, rest, options.num_surface, generator, prior)
    mean, spacing = surface.points, surface.spacing
    local, log_scales = _to_local(mean, surface.faces, spacing, frames, _FLAT)
    colors, known = _surface_colors(scene, surface, looks)
    if prior is not None and len(prior.faces) == len(known):
        inner = prior.has_inner & ~known
        colors[inner] = prior.inner_colors[inner]
    logits = torch.full((len(mean),), _LOGIT_SURFACE)
    beside = _sample_beside(scene, looks, options.num_beside, generator)
    mouth = head.face_mask(*INNER_MOUTH)[surface.faces]
    order = torch.cat(
        [torch.nonzero(~mouth)[:, 0], torch.arange(len(beside.faces)) + len(mouth), torch.nonzero(mouth)[:, 0]]
    )
    join = lambda a, b: torch.cat([a, b])[order]  # noqa: E731
    config = EmoTaGGaussiansConfig(
        num_gaussians=len(order), num_mouth_gaussians=int(mouth.sum()), num_correctives=num_correctives
    )
    gaussians = RiggedGaussians(config)
    with torch.no_grad():
        gaussians.means.copy_(join(local, beside.means))
        gaussians.log_scales.copy_(join(log_scales, beside.log_scales))
        gaussians.quats.copy_(join(torch.tensor([1.0, 0, 0, 0]).repeat(len(mean), 1), beside.quats))
        gaussians.opacity_logits.copy_(join(logits, torch.full((len(beside.faces),), _LOGIT_BESIDE)))
        gaussians.colors.copy_(((join(colors, beside.colors) - 0.5) / SH_C0)[:, None])
        gaussians.binding.copy_(join(surface.faces, beside.faces))
        centre = _place(frames, gaussians.binding, gaussians.means)
        low, high = rest.min(0).values, rest.max(0).values
        gaussians.canonical.copy_((2 * (centre - low) / (high - low) - 1).clamp(-1, 1))
    return gaussians


@dataclass
class _Surface:
    faces: Tensor  # [n] triangle of each
    points: Tensor  # [n, 3] on the neutral head
    spacing: Tensor  # [n] metres between neighbours
    barycentric: Tensor  # [n, 3]


def sample_surface(
    head: ParametricHead, rest: Tensor, count: int, generator: torch.Generator, prior: GaussianPrior | None = None
) -> _Surface:
    """Samples triangles and points in them by the template's areas: the same for all people, so that Gaussians
    correspond."""
    corners = head.v_template[head.faces]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = 0.5 * cross.norm(dim=-1)
    density = torch.ones(len(area))
    for name, value in DENSITY:
        density[head.face_mask(name)] = value
    normal_z = torch.nn.functional.normalize(cross, dim=-1)[:, 2]
    for name in ("left_eye", "right_eye"):  # the back of an eyeball is never visible
        density[head.face_mask(name) & (normal_z < 0.2)] = 0
    density[normal_z < -0.6] *= 0.3
    weight = (area * density).double()
    edges = weight.cumsum(0) / weight.sum()
    u = (torch.arange(count, dtype=torch.float64) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    faces = torch.searchsorted(edges, u).clamp_max(len(area) - 1)
    r = torch.rand(count, 2, generator=generator)
    root = r[:, 0].sqrt()
    bary = torch.stack([1 - root, root * (1 - r[:, 1]), root * r[:, 1]], -1)
    if prior is not None and len(prior.faces) == count:
        faces, bary = prior.faces, prior.barycentric
    points = (rest[head.faces[faces]] * bary[..., None]).sum(1)
    spacing = (weight.sum() / count / density[faces].double()).sqrt().float()
    return _Surface(faces, points, spacing, bary)


def _to_local(points, faces, spacing, frames, flat: float) -> tuple[Tensor, Tensor]:
    rotations, centroids, sizes = (x[faces] for x in frames)
    local = (rotations.transpose(1, 2) @ (points - centroids)[..., None])[..., 0] / sizes
    width = _WIDTH * spacing[:, None] / sizes
    return local, torch.log(width * torch.tensor([1.0, flat, 1.0]))


def _place(frames, binding: Tensor, means: Tensor) -> Tensor:
    rotations, centroids, sizes = (x[binding] for x in frames)
    return sizes * (rotations @ means[..., None])[..., 0] + centroids


def _surface_colors(scene: TrainingScene, surface: _Surface, looks: list[int]) -> tuple[Tensor, Tensor]:
    """Colours `[n, 3]` and whether they are known `[n]`: mean over the frames in which the point is visible, frontal
    views weighted more."""
    head, camera = scene.head, scene.camera
    total, weight = torch.zeros(len(surface.faces), 3), torch.zeros(len(surface.faces), 1)
    for index in looks:
        vertices = scene.vertices(index)
        seen = vertices @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        buffers = rasterize_mesh(seen, head.faces, camera.K, camera.width, camera.height)
        corners = seen[head.faces[surface.faces]]
        points = (corners * surface.barycentric[..., None]).sum(1)
        normal = torch.nn.functional.normalize(
            torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), dim=-1
        )
        facing = (-normal * torch.nn.functional.normalize(points, dim=-1)).sum(-1)
        pixel, inside = _pixels(points, camera)
        depth = torch.from_numpy(buffers.depth)[pixel[:, 1], pixel[:, 0]]
        matte = torch.from_numpy(scene.matte(index))[pixel[:, 1], pixel[:, 0]].float() / 255
        visible = inside & (points[:, 2] < depth + _DEPTH_SLACK) & (matte > 0.5)
        w = (visible.float() * facing.clamp_min(0) ** 2)[:, None]
        total += w * torch.from_numpy(scene.frame(index))[pixel[:, 1], pixel[:, 0]].float() / 255
        weight += w
    colors = total / weight.clamp_min(1e-6)
    known = weight[:, 0] > 0.02
    return _fill_unseen(head, surface, colors, known), known


def _pixels(points: Tensor, camera) -> tuple[Tensor, Tensor]:
    x = camera.K[0, 0] * points[:, 0] / points[:, 2] + camera.K[0, 2]
    y = camera.K[1, 1] * points[:, 1] / points[:, 2] + camera.K[1, 2]
    inside = (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    return torch.stack([x.clamp(0, camera.width - 1), y.clamp(0, camera.height - 1)], -1).long(), inside


def _fill_unseen(head: ParametricHead, surface: _Surface, colors: Tensor, known: Tensor) -> Tensor:
    face = head.face_mask("face")[surface.faces] & known
    skin = colors[face].median(0).values if face.any() else colors.mean(0)
    inner = torch.zeros_like(known)
    for name, factor in _UNSEEN.items():
        mask = head.face_mask(name)[surface.faces]
        colors[mask & ~known] = skin * torch.tensor(factor)
        inner |= mask
    lost = torch.nonzero(~known & ~inner)[:, 0]
    there = torch.nonzero(known & ~inner)[:, 0]
    for part in lost.split(2048):
        if len(there):
            colors[part] = colors[there[torch.cdist(surface.points[part], surface.points[there]).argmin(1)]]
    return colors


@dataclass
class _Beside:
    faces: Tensor
    means: Tensor
    quats: Tensor
    log_scales: Tensor
    colors: Tensor


def _sample_beside(scene: TrainingScene, looks: list[int], count: int, generator: torch.Generator) -> _Beside:
    """Hair and shoulders: pixels of the matte outside the mesh, placed in 3D and bound to the mesh's outline."""
    head, camera = scene.head, scene.camera
    parts: list[_Beside] = []
    step = None
    for turn, index in enumerate(looks[:4]):
        vertices = scene.vertices(index)
        seen = vertices @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        buffers = rasterize_mesh(seen, head.faces, camera.K, camera.width, camera.height)
        matte = scene.matte(index)
        labels = region_labels(scene.track, index, matte, head, scene.frame(index))
        wanted = (matte > 100) & (buffers.face_index < 0)
        if turn:  # later frames add only what earlier ones do not cover
            wanted &= ~_covered(scene, parts, vertices)
        ys, xs = np.nonzero(wanted)
        if step is None:
            step = max(2.0, float(np.sqrt(len(ys) / max(count * 0.85, 1))))
        number = int(len(ys) / step**2)
        room = count - sum(len(p.faces) for p in parts)
        number = min(number, room)
        if number < 20:
            continue
        pick = torch.from_numpy(_spread(xs, ys, step, generator))[:number]
        parts.append(_lift(scene, index, vertices, seen, buffers, labels, xs[pick], ys[pick], step))
    if not parts:
        empty = torch.zeros(0, 3)
        return _Beside(torch.zeros(0, dtype=torch.int64), empty, torch.zeros(0, 4), empty, empty)
    return _Beside(
        *(torch.cat([getattr(p, n) for p in parts]) for n in ("faces", "means", "quats", "log_scales", "colors"))
    )


def _spread(xs: np.ndarray, ys: np.ndarray, step: float, generator: torch.Generator) -> np.ndarray:
    """One pixel out of each cell of a grid of `step` pixels, in random order."""
    cells = (ys // step).astype(np.int64) * 100_000 + (xs // step).astype(np.int64)
    order = torch.randperm(len(xs), generator=generator).numpy()
    _, first = np.unique(cells[order], return_index=True)
    return order[np.sort(first)]


def _covered(scene: TrainingScene, parts: list[_Beside], vertices: Tensor) -> np.ndarray:
    """`[H, W]` bool: near an earlier sample."""
    camera = scene.camera
    out = np.zeros((camera.height, camera.width), bool)
    frames = triangle_frames(vertices, scene.head.faces)
    for part in parts:
        world = _place(frames, part.faces, part.means)
        pixel, inside = _pixels(world @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3], camera)
        pixel = pixel[inside].numpy()
        out[pixel[:, 1], pixel[:, 0]] = True
    return near(out, 6)


def _lift(scene, index, vertices, seen, buffers, labels, xs, ys, step) -> _Beside:
    head, camera = scene.head, scene.camera
    frames = triangle_frames(vertices, head.faces)
    kind = labels[ys, xs]
    on_mesh = buffers.face_index >= 0
    rim = on_mesh & ~_inside(on_mesh)
    ry, rx = np.nonzero(rim)
    if len(ry) == 0:
        ry, rx = np.array([camera.height // 2]), np.array([camera.width // 2])
    rim_label = face_regions(head)[buffers.face_index[ry, rx]]
    faces = np.zeros(len(xs), np.int64)
    depth = np.zeros(len(xs), np.float32)
    points = torch.tensor(np.stack([xs, ys], 1), dtype=torch.float32)
    for group, allowed in ((True, (HAIR, FACE, EARS, EYES, MOUTH)), (False, (TORSO, NECK))):
        mine = (kind != TORSO) & (kind != NECK) if group else (kind == TORSO) | (kind == NECK)
        if not mine.any():
            continue
        at = np.isin(rim_label, allowed)
        at = at if at.any() else np.ones_like(at)
        rims = torch.tensor(np.stack([rx[at], ry[at]], 1), dtype=torch.float32)
        nearest = torch.cdist(points[torch.from_numpy(mine)], rims).argmin(1).numpy()
        faces[mine] = buffers.face_index[ry[at], rx[at]][nearest]
        depth[mine] = buffers.depth[ry[at], rx[at]][nearest]
    z = torch.from_numpy(depth)
    camera_points = torch.stack(
        [
            (points[:, 0] + 0.5 - camera.K[0, 2]) / camera.K[0, 0] * z,
            (points[:, 1] + 0.5 - camera.K[1, 2]) / camera.K[1, 1] * z,
            z,
        ],
        -1,
    )
    world = (camera_points - camera.viewmat[:3, 3]) @ camera.viewmat[:3, :3]
    faces_t = torch.from_numpy(faces)
    rotations, centroids, sizes = (x[faces_t] for x in frames)
    means = (rotations.transpose(1, 2) @ (world - centroids)[..., None])[..., 0] / sizes
    spacing = step * z / camera.K[0, 0]
    log_scales = torch.log(_WIDTH * spacing[:, None] / sizes).expand(-1, 3).clone()
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(len(xs), 1)
    colors = torch.from_numpy(scene.frame(index)[ys, xs].astype(np.float32)) / 255
    return _Beside(faces_t, means, quats, log_scales, colors)


def _inside(mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner


__all__ = ["InitOptions", "initialise_gaussians"]
