"""3D Gaussians attached to the triangles of the parametric head (METHOD 2, as in GaussianAvatars).

In: vertices of the posed head [T, V, 3]. Out: `PosedGaussians` in world space.
For a triangle (v0, v1, v2): the frame R_f has the unit edge v1 - v0, the unit normal and their cross product as
columns, the origin is the centroid and the size k_f the mean of that edge's length and the triangle's height over it:
mean = k_f · R_f · mu + centroid, rotation = q(R_f) * q, scale = k_f · s.
"""

from __future__ import annotations

import torch
from torch import nn

from ..outputs import PosedGaussians
from ..rendering.spherical_harmonics import SH_C0
from ..utils.precision import Float32Module
from ..utils.rotations import quat_multiply, rotation_to_quat, small_rotation_to_quat
from .configuration_emotag import EmoTaGGaussiansConfig

_PER_GAUSSIAN = ("means", "quats", "log_scales", "opacity_logits", "colors")
_CORRECTIVES = ("corrective_means", "corrective_colors")


def triangle_frames(vertices: torch.Tensor, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frame, origin and size of every triangle.

    Args:
        vertices: `[..., V, 3]` metres. faces: `[F, 3]` vertex indices.

    Returns:
        `rotations [..., F, 3, 3]`, `centroids [..., F, 3]`, `sizes [..., F, 1]` (METHOD 2).
    """
    v0, v1, v2 = vertices[..., faces, :].unbind(-2)
    edge, side = v1 - v0, v2 - v0
    x_axis = nn.functional.normalize(edge, dim=-1, eps=1e-12)
    normal = nn.functional.normalize(torch.linalg.cross(edge, side), dim=-1, eps=1e-12)
    z_axis = nn.functional.normalize(torch.linalg.cross(x_axis, normal), dim=-1, eps=1e-12)
    height = (side * z_axis).sum(-1, keepdim=True).abs()
    sizes = 0.5 * (edge.norm(dim=-1, keepdim=True) + height)
    return torch.stack([x_axis, normal, z_axis], -1), (v0 + v1 + v2) / 3, sizes


class RiggedGaussians(Float32Module):
    """Gaussians in the local frames of the head's triangles, with their binding.

    Parameters: `means [N, 3]` (in triangle sizes), `quats [N, 4]` wxyz, `log_scales [N, 3]` (log of triangle sizes),
    `opacity_logits [N]`, `colors [N, K, 3]` (spherical-harmonics coefficients, K = (sh_degree + 1)²). Buffers, all in
    the checkpoint: `binding [N]` (triangle of each Gaussian) and `canonical [N, 3]` (its position on the neutral head
    scaled to [-1, 1], where GRMN's tri-plane is read). The last `num_mouth_gaussians` are inside the mouth and move
    with GRMN's mouth code. With `num_correctives` = K > 0 the parameters `corrective_means [N, K, 3]` and
    `corrective_colors [N, K, 3]` are added to the local means and the colours (their first coefficient), weighted by
    the expression code. They model wrinkles, shadows and errors of the blend shapes.
    """

    def __init__(self, config: EmoTaGGaussiansConfig):
        super().__init__()
        self.config = config
        n, k = config.num_gaussians, (config.sh_degree + 1) ** 2
        self.means = nn.Parameter(torch.zeros(n, 3))
        self.quats = nn.Parameter(torch.tensor([1.0, 0, 0, 0]).repeat(n, 1))
        self.log_scales = nn.Parameter(torch.full((n, 3), -1.0))
        self.opacity_logits = nn.Parameter(torch.full((n,), 4.6))  # 0.99 [code]
        self.colors = nn.Parameter(torch.zeros(n, k, 3))
        if config.num_correctives:
            self.corrective_means = nn.Parameter(torch.zeros(n, config.num_correctives, 3))
            self.corrective_colors = nn.Parameter(torch.zeros(n, config.num_correctives, 3))
        self.register_buffer("binding", torch.zeros(n, dtype=torch.int64))
        self.register_buffer("canonical", torch.zeros(n, 3))

    @property
    def num_gaussians(self) -> int:
        return self.means.shape[0]

    def pose(
        self,
        vertices: torch.Tensor,
        faces: torch.Tensor,
        mouth_offsets: torch.Tensor | None = None,
        correctives: torch.Tensor | None = None,
        still: tuple[torch.Tensor, ...] | None = None,
    ) -> PosedGaussians:
        """Moves the Gaussians with the posed head.

        Args:
            vertices: `[T, V, 3]` metres. faces: `[F, 3]`.
            mouth_offsets: `[T, num_mouth, 9]` of the inner-mouth Gaussians in their local frames: mean (3), rotation
                as axis-angle (3, rad), log-scale (3); None leaves them alone.
            correctives: `[T, K]` expression codes, K of the config; None leaves means and colours as they are.
            still: of `still()`, to compute it once for many calls; None computes it here.

        Returns:
            `PosedGaussians` of T frames. Without gradients and on a CPU a Numba kernel computes the same numbers.
        """
        if vertices.ndim != 3 or vertices.shape[-1] != 3:
            raise ValueError(f"vertices: expected a tensor of shape (T, V, 3), got {tuple(vertices.shape)}.")
        if vertices.device.type == "cpu":  # the kernel has no bounds check
            self.check_binding(len(faces))
        vertices = vertices.float()
        if mouth_offsets is not None:
            expected = (vertices.shape[0], self.config.num_mouth_gaussians, 9)
            if tuple(mouth_offsets.shape) != expected:
                raise ValueError(
                    f"mouth_offsets: expected a tensor of shape {expected}, got {tuple(mouth_offsets.shape)}."
                )
            mouth_offsets = mouth_offsets.float()
        quats, scales, opacities, *tables = self.still() if still is None else still
        means, colors = self._change(self._checked_codes(correctives, vertices), tables)
        local = means, quats, scales
        needs_grad = torch.is_grad_enabled() and (vertices.requires_grad or local[0].requires_grad)
        if vertices.device.type == "cpu" and not needs_grad:
            from .gaussian_binding import pose_numba as pose_with
        else:
            pose_with = pose_torch
        world = pose_with(vertices, faces, self.binding, *local, mouth_offsets)
        return PosedGaussians(*world, opacities, colors, self.config.sh_degree)  # type: ignore[arg-type, call-arg]

    def check_binding(self, num_faces: int) -> None:
        """Raises ValueError if a Gaussian is bound to a triangle that a head of `num_faces` does not have."""
        if not 0 <= int(self.binding.min()) <= int(self.binding.max()) < num_faces:
            raise ValueError(
                f"model: gaussians.binding must hold triangles 0 to {num_faces - 1} of the head, got "
                f"{int(self.binding.min())} to {int(self.binding.max())}; the checkpoint is damaged or made for "
                "another head."
            )

    def _checked_codes(self, codes: torch.Tensor | None, vertices: torch.Tensor) -> torch.Tensor | None:
        if codes is None or not self.config.num_correctives:
            return None
        expected = (vertices.shape[0], self.config.num_correctives)
        if tuple(codes.shape) != expected:
            raise ValueError(f"correctives: expected a tensor of shape {expected}, got {tuple(codes.shape)}.")
        return codes.float()

    def still(self) -> tuple[torch.Tensor, ...]:
        """What does not depend on the motion: unit quats, scales, opacities, and the correctives of means and colours,
        `[K, N, 3]`."""
        rest = nn.functional.normalize(self.quats, dim=-1), self.log_scales.exp(), self.opacity_logits.sigmoid()
        if not self.config.num_correctives:
            return rest
        tables = (x.transpose(0, 1).contiguous() for x in (self.corrective_means, self.corrective_colors))
        return *rest, *tables

    def _change(self, codes: torch.Tensor | None, tables: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and colours for expression codes `[T, K]`."""
        means, colors = self.means, self.colors
        if codes is not None:
            move, change = ((codes @ table.flatten(1)).unflatten(1, (-1, 3)) for table in tables)
            means = means + move
            colors = torch.cat(  # type: ignore[assignment]
                [(colors[:, 0] + change)[:, :, None], colors[None, :, 1:].expand(len(codes), -1, -1, -1)], 2
            )
        if self.config.sh_degree == 0:  # independent of the view: RGB is cheaper for the rasteriser
            colors = (colors[..., 0, :] * SH_C0 + 0.5).clamp_min(0)  # type: ignore[assignment]
        return means, colors

    def resize(self, index: torch.Tensor, optimizer: torch.optim.Optimizer | None = None) -> torch.Tensor:
        """Rebuilds the Gaussians from `index [M]`: missing ones are pruned, repeated ones are cloned.

        Parameters, binding, canonical positions, config and the optimiser's moments are updated consistently (a clone's
        moments start at zero, its original keeps its own). Inner-mouth Gaussians stay last.

        Returns:
            The new order of the Gaussians, `[M]`: `index` with the inner-mouth ones moved to the end.
        """
        index = torch.as_tensor(index, dtype=torch.int64, device=self.means.device)
        old, num_mouth = self.num_gaussians, self.config.num_mouth_gaussians
        if index.ndim != 1 or index.numel() == 0:
            raise ValueError(f"index: expected at least one Gaussian in a 1-D tensor, got shape {tuple(index.shape)}.")
        if int(index.min()) < 0 or int(index.max()) >= old:
            raise ValueError(f"index: expected values in 0..{old - 1}, got {int(index.min())}..{int(index.max())}.")
        in_mouth = index >= old - num_mouth
        index = torch.cat([index[~in_mouth], index[in_mouth]])
        is_clone = _repeats(index)
        for name in _PER_GAUSSIAN + (_CORRECTIVES if self.config.num_correctives else ()):
            parameter = getattr(self, name)
            fresh = nn.Parameter(parameter.detach()[index].clone(), requires_grad=parameter.requires_grad)
            if optimizer is not None:
                _swap_in_optimizer(optimizer, parameter, fresh, index, is_clone)
            setattr(self, name, fresh)
        self.binding = self.binding[index].clone()
        self.canonical = self.canonical[index].clone()
        self.config.num_gaussians = index.numel()
        self.config.num_mouth_gaussians = int(in_mouth.sum())
        return index

    def extra_repr(self) -> str:
        return f"num_gaussians={self.num_gaussians}, num_mouth_gaussians={self.config.num_mouth_gaussians}"


def pose_torch(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    binding: torch.Tensor,
    means: torch.Tensor,
    quats: torch.Tensor,
    scales: torch.Tensor,
    mouth_offsets: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The slow, differentiable reference of `gaussian_binding.pose_numba`.

    Args:
        vertices: `[T, V, 3]`. faces: `[F, 3]`. binding: `[N]`.
        means, quats, scales: `[N, 3]` or `[T, N, 3]`, `[N, 4]` (unit), `[N, 3]`, local.
        mouth_offsets: `[T, num_mouth, 9]` for the last Gaussians, or None.

    Returns:
        World means `[T, N, 3]`, quats `[T, N, 4]` and scales `[T, N, 3]`.
    """
    means, quats, scales = (x.expand(vertices.shape[0], -1, -1) for x in (means, quats, scales))
    if mouth_offsets is not None:
        d_mean, d_rotation, d_scale = mouth_offsets.split(3, -1)
        rest, mouth = zip(*(x.tensor_split([x.shape[1] - mouth_offsets.shape[1]], 1) for x in (means, quats, scales)))
        mouth = (
            mouth[0] + d_mean,
            quat_multiply(small_rotation_to_quat(d_rotation), mouth[1]),
            mouth[2] * d_scale.exp(),
        )
        means, quats, scales = (torch.cat(pair, 1) for pair in zip(rest, mouth))
    rotations, centroids, sizes = (x[:, binding] for x in triangle_frames(vertices, faces))
    world_means = sizes * (rotations @ means[..., None]).squeeze(-1) + centroids
    return world_means, quat_multiply(rotation_to_quat(rotations), quats), sizes * scales


def _repeats(index: torch.Tensor) -> torch.Tensor:
    """True where a value occurred earlier in `index`."""
    order = torch.sort(index, stable=True).indices
    ordered = index[order]
    repeated = torch.zeros_like(index, dtype=torch.bool)
    repeated[order[1:]] = ordered[1:] == ordered[:-1]
    return repeated


def _swap_in_optimizer(
    optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, index: torch.Tensor, is_clone: torch.Tensor
) -> None:
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    state = optimizer.state.pop(old, None)
    if state is None:
        return
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.shape == old.shape:
            value = value[index].clone()
            value[is_clone] = 0
            state[key] = value
    optimizer.state[new] = state
