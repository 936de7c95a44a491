"""One frame's binding for training: parameters of the Gaussians in, inputs of the rasteriser out, with gradients.

In: vertices of one posed head [V, 3], raw parameters of N Gaussians and an expression code [K]. Out: world means,
rotations, scales, opacities and colours (METHOD 2, correctives included), differentiable in everything but the binding.
`rig_torch` is the reference in torch. On a CPU `rig` makes one pass over the Gaussians in each direction, because
torch's thirty small operations would cost as much as the rasteriser.

The gradient of a triangle's frame is kept as a torque: the derivative by a small rotation about the world's axes, three
numbers instead of nine of the matrix and four of the quaternion. It is exact. Results do not depend on the number of
threads: chunks are fixed and sums over Gaussians have one order.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from ..rendering.numba_runtime import compile_kernels, device, kernel
from ..rendering.numba_threads import run_parts, split
from ..rendering.numba_tiles import parts_for
from ..rendering.spherical_harmonics import SH_C0
from .gaussian_binding import BINDING_KERNELS
from .modeling_gaussians import pose_torch

_f = np.float32
_frames_of_triangles = BINDING_KERNELS[0]  # rows of rotation (9), quaternion (4), centroid (3), size (1)
_FRAME = 17
_SH_C0, _HALF = _f(SH_C0), _f(0.5)
_CHUNK = 512  # Gaussians, or triangles, that are done in one go whatever the number of threads
_TINY = 1e-12  # metres and square metres: below, a triangle has no direction (the eps of `triangle_frames`)


@device
def _multiply(aw, ax, ay, az, bw, bx, by, bz):
    """Hamilton product of quaternions wxyz."""
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


@device
def _corrected(base, g, changes, code):
    """`base[g] + sum_k code[k] changes[g, k]`, three numbers."""
    x, y, z = base[g, 0], base[g, 1], base[g, 2]
    for k in range(changes.shape[1]):
        c = code[k]
        x += c * changes[g, k, 0]
        y += c * changes[g, k, 1]
        z += c * changes[g, k, 2]
    return x, y, z


@device
def _product_and_inverse_norm(r, quats, g):
    """Frame quaternion times local quaternion, and one over the product's length."""
    w, x, y, z = _multiply(r[9], r[10], r[11], r[12], quats[g, 0], quats[g, 1], quats[g, 2], quats[g, 3])
    return (w, x, y, z), _f(1.0) / max(math.sqrt(w * w + x * x + y * y + z * z), _f(_TINY))


@kernel(
    "void(int64, int64, float32[:,::1], int64[::1], float32[:,::1], float32[:,::1], float32[:,::1], float32[::1],"
    " float32[:,::1], float32[:,:,::1], float32[:,:,::1], float32[::1], float32[:,::1], float32[:,::1],"
    " float32[:,::1], float32[::1], float32[:,::1], float32[:,::1])"
)
def rig_forward(
    first_chunk, last_chunk, frames, binding, means, quats, log_scales, opacity_logits, colors, change_means,
    change_colors, code, world_means, world_quats, world_scales, opacities, rgb, levers,
):  # fmt: skip
    """Poses the Gaussians of chunks [first, last). `levers` are the rotated local means, in triangle sizes."""
    zero, one = _f(0.0), _f(1.0)
    for g in range(first_chunk * _CHUNK, min(binding.shape[0], last_chunk * _CHUNK)):
        r = frames[binding[g]]
        size = r[16]
        x, y, z = _corrected(means, g, change_means, code)
        for k in range(3):
            lever = r[3 * k] * x + r[3 * k + 1] * y + r[3 * k + 2] * z
            levers[g, k] = lever
            world_means[g, k] = size * lever + r[13 + k]
            world_scales[g, k] = size * math.exp(log_scales[g, k])
        product, inverse = _product_and_inverse_norm(r, quats, g)
        for k in range(4):
            world_quats[g, k] = product[k] * inverse
        opacities[g] = one / (one + math.exp(-opacity_logits[g]))
        red, green, blue = _corrected(colors, g, change_colors, code)
        rgb[g, 0] = max(red * _SH_C0 + _HALF, zero)
        rgb[g, 1] = max(green * _SH_C0 + _HALF, zero)
        rgb[g, 2] = max(blue * _SH_C0 + _HALF, zero)


@device
def _spread(x, y, z, g, code, out):
    """Gradient of `_corrected` in its changes."""
    for k in range(out.shape[1]):
        c = code[k]
        out[g, k, 0] = c * x
        out[g, k, 1] = c * y
        out[g, k, 2] = c * z


@device
def _add_code(x, y, z, g, changes, sums):
    """Gradient of `_corrected` in the code."""
    for k in range(changes.shape[1]):
        sums[k] += x * changes[g, k, 0] + y * changes[g, k, 1] + z * changes[g, k, 2]


@kernel(
    "void(int64, int64, float32[:,::1], int64[::1], float32[:,::1], float32[:,:,::1], float32[:,:,::1],"
    " float32[::1], float32[:,::1], float32[:,::1], float32[::1], float32[:,::1], float32[:,::1],"
    " float32[:,::1], float32[:,::1], float32[:,::1], float32[::1], float32[:,::1],"
    " float32[:,::1], float32[:,::1], float32[:,::1], float32[::1], float32[:,::1], float32[:,:,::1],"
    " float32[:,:,::1], float32[:,::1], float32[:,::1])"
)
def rig_backward(
    first_chunk, last_chunk, frames, binding, quats, change_means, change_colors, code,
    world_quats, world_scales, opacities, rgb, levers,
    g_means, g_quats, g_scales, g_opacities, g_rgb,
    v_means, v_quats, v_log_scales, v_opacity_logits, v_colors, v_change_means, v_change_colors, v_code, v_frames,
):  # fmt: skip
    """Gradients of the parameters (v_) from those of the results (g_), chunks [first, last).

    `v_code [chunks, K]` are partial sums; `v_frames [N, 7]` the gradient for the Gaussian's triangle: torque (3),
    centroid (3), size (1). Those of `v_change_means`, `v_change_colors`, `v_code` and `v_frames` that are not needed
    have no columns (`v_code` no rows).
    """
    zero, one = _f(0.0), _f(1.0)
    with_code, with_frames = v_code.shape[0] > 0, v_frames.shape[1] > 0
    for chunk in range(first_chunk, last_chunk):
        if with_code:
            for k in range(v_code.shape[1]):
                v_code[chunk, k] = zero
        for g in range(chunk * _CHUNK, min(binding.shape[0], (chunk + 1) * _CHUNK)):
            r = frames[binding[g]]
            size = r[16]
            gx, gy, gz = g_means[g, 0], g_means[g, 1], g_means[g, 2]
            mx = size * (r[0] * gx + r[3] * gy + r[6] * gz)
            my = size * (r[1] * gx + r[4] * gy + r[7] * gz)
            mz = size * (r[2] * gx + r[5] * gy + r[8] * gz)
            v_means[g, 0], v_means[g, 1], v_means[g, 2] = mx, my, mz
            _spread(mx, my, mz, g, code, v_change_means)
            # world = product / |product|: only what is across the product comes through the division
            w, x, y, z = world_quats[g, 0], world_quats[g, 1], world_quats[g, 2], world_quats[g, 3]
            hw, hx, hy, hz = g_quats[g, 0], g_quats[g, 1], g_quats[g, 2], g_quats[g, 3]
            _, inverse = _product_and_inverse_norm(r, quats, g)
            along = hw * w + hx * x + hy * y + hz * z
            pulled = _multiply(
                r[9], -r[10], -r[11], -r[12], hw - along * w, hx - along * x, hy - along * y, hz - along * z
            )
            for k in range(4):
                v_quats[g, k] = pulled[k] * inverse
            grown = zero
            for k in range(3):
                scaled = g_scales[g, k] * world_scales[g, k]
                v_log_scales[g, k] = scaled
                grown += scaled
            opacity = opacities[g]
            v_opacity_logits[g] = g_opacities[g] * opacity * (one - opacity)
            # a colour that the clamp holds at zero does not move
            red = g_rgb[g, 0] * _SH_C0 if rgb[g, 0] > zero else zero
            green = g_rgb[g, 1] * _SH_C0 if rgb[g, 1] > zero else zero
            blue = g_rgb[g, 2] * _SH_C0 if rgb[g, 2] > zero else zero
            v_colors[g, 0], v_colors[g, 1], v_colors[g, 2] = red, green, blue
            _spread(red, green, blue, g, code, v_change_colors)
            if with_code:
                _add_code(mx, my, mz, g, change_means, v_code[chunk])
                _add_code(red, green, blue, g, change_colors, v_code[chunk])
            if with_frames:
                lx, ly, lz = levers[g, 0], levers[g, 1], levers[g, 2]
                _, tx, ty, tz = _multiply(hw, hx, hy, hz, w, -x, -y, -z)
                v_frames[g, 0] = size * (ly * gz - lz * gy) + _HALF * tx
                v_frames[g, 1] = size * (lz * gx - lx * gz) + _HALF * ty
                v_frames[g, 2] = size * (lx * gy - ly * gx) + _HALF * tz
                v_frames[g, 3], v_frames[g, 4], v_frames[g, 5] = gx, gy, gz
                v_frames[g, 6] = lx * gx + ly * gy + lz * gz + (grown / size if size > zero else zero)


@kernel(
    "void(float32[:,::1], int64[:,::1], float32[:,::1], int64[::1], float32[:,::1], float32[:,::1], float32[:,::1])"
)
def vertices_backward(vertices, faces, frames, binding, v_frames, sums, v_vertices):
    """Sums the Gaussians' gradients per triangle (`sums [F, 7]`, starts at zero) and passes them to the vertices.

    A triangle without a direction (METHOD 2 divides by its edge and its area) passes on the centroid's part alone.
    Serial: a few additions per Gaussian and triangle, in one order.
    """
    for g in range(binding.shape[0]):
        for k in range(7):
            sums[binding[g], k] += v_frames[g, k]
    for f in range(faces.shape[0]):
        used = False
        for k in range(7):
            used = used or sums[f, k] != _f(0.0)
        if not used:
            continue
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        r, t = frames[f], sums[f]
        ex, ey, ez = (
            vertices[b, 0] - vertices[a, 0],
            vertices[b, 1] - vertices[a, 1],
            vertices[b, 2] - vertices[a, 2],
        )
        sx, sy, sz = (
            vertices[c, 0] - vertices[a, 0],
            vertices[c, 1] - vertices[a, 1],
            vertices[c, 2] - vertices[a, 2],
        )
        nx, ny, nz = ey * sz - ez * sy, ez * sx - ex * sz, ex * sy - ey * sx
        length = math.sqrt(ex * ex + ey * ey + ez * ez)
        area = math.sqrt(nx * nx + ny * ny + nz * nz)  # of the parallelogram
        # The frame's axes are x (edge), n (normal), z = x * n; the third corner lies at -height along z.
        edge_x = edge_n = edge_z = side_n = side_z = 0.0
        if length > _TINY and area > _TINY:
            height = area / length
            along = (sx * r[0] + sy * r[3] + sz * r[6]) / length
            turn_x = t[0] * r[0] + t[1] * r[3] + t[2] * r[6]
            turn_n = t[0] * r[1] + t[1] * r[4] + t[2] * r[7]
            turn_z = t[0] * r[2] + t[1] * r[5] + t[2] * r[8]
            half = 0.5 * t[6]
            # moving the edge by d turns the frame by d.n/length about z and -d.z/length about n; about x the normal
            # must stay across the side as well; size = (length + height) / 2
            edge_x = half
            edge_n = turn_z / length - turn_x * along / height
            edge_z = half * along - turn_n / length
            side_n = turn_x / height
            side_z = -half
        for k in range(3):
            axis_x, axis_n, axis_z = r[3 * k], r[3 * k + 1], r[3 * k + 2]
            edge = edge_x * axis_x + edge_n * axis_n + edge_z * axis_z
            side = side_n * axis_n + side_z * axis_z
            centre = t[3 + k] / 3.0
            v_vertices[a, k] += centre - edge - side
            v_vertices[b, k] += centre + edge
            v_vertices[c, k] += centre + side


RIG_KERNELS = (_frames_of_triangles, rig_forward, rig_backward, vertices_backward)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _run_chunks(function, count: int, parts: int, *args) -> None:
    """`function(first chunk, last chunk, *args)` on every thread."""
    chunks = -(-count // _CHUNK)
    parts = max(1, min(parts, chunks))
    run_parts(lambda part: function(*split(chunks, parts, part), *args), parts)


def _frames_part(first: int, last: int, vertices: np.ndarray, faces: np.ndarray, frames: np.ndarray) -> None:
    part = slice(first * _CHUNK, last * _CHUNK)
    _frames_of_triangles(vertices, faces[part], frames[part])


class _Rig(torch.autograd.Function):
    """Parameters of one frame's Gaussians -> inputs of the rasteriser."""

    @staticmethod
    def forward(
        ctx, vertices, faces, binding, means, quats, log_scales, opacity_logits, colors, change_means, change_colors,
        code,
    ):  # fmt: skip
        compile_kernels(RIG_KERNELS[:2])
        count, parts = len(means), parts_for(len(means))
        frames = np.empty((len(faces), _FRAME), np.float32)
        arrays = [_array(x) for x in (means, quats, log_scales, opacity_logits, colors, change_means, change_colors)]
        results = [means.new_empty(count, *shape) for shape in ((3,), (4,), (3,), (), (3,))]
        levers = np.empty((count, 3), np.float32)
        _run_chunks(_frames_part, len(faces), parts, _array(vertices), _array(faces), frames)
        _run_chunks(
            rig_forward, count, parts, frames, _array(binding), *arrays, _array(code),
            *(x.detach().numpy() for x in results), levers,
        )  # fmt: skip
        ctx.save_for_backward(vertices, faces, binding, quats, change_means, change_colors, code, *results[1:])
        ctx.frames, ctx.levers = frames, levers
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        compile_kernels(RIG_KERNELS)
        vertices, faces, binding, quats, change_means, change_colors, code, *results = ctx.saved_tensors
        count, parts = len(quats), parts_for(len(quats))
        wants_vertices, wants_code = ctx.needs_input_grad[0], ctx.needs_input_grad[10]
        out = [quats.new_empty(count, *shape) for shape in ((3,), (4,), (3,), (), (3,))]
        for change, wanted in zip((change_means, change_colors), ctx.needs_input_grad[8:10]):
            out.append(change.new_empty(count, change.shape[1] if wanted else 0, 3))
        v_code = np.empty((-(-count // _CHUNK) if wants_code else 0, len(code)), np.float32)
        v_frames = np.empty((count, 7 if wants_vertices else 0), np.float32)
        arrays = [_array(x) for x in (binding, quats, change_means, change_colors, code, *results)]
        _run_chunks(
            rig_backward, count, parts, ctx.frames, *arrays, ctx.levers, *(_array(x) for x in grads),
            *(x.numpy() for x in out), v_code, v_frames,
        )  # fmt: skip
        v_vertices = None
        if wants_vertices:
            v_vertices = vertices.new_zeros(vertices.shape)
            sums = np.zeros((len(faces), 7), np.float32)
            corners = _array(vertices), _array(faces)
            vertices_backward(*corners, ctx.frames, arrays[0], v_frames, sums, v_vertices.numpy())
        code_grad = torch.from_numpy(v_code.sum(0, dtype=np.float64)).float() if wants_code else None
        wanted = ctx.needs_input_grad[3:10]
        return v_vertices, None, None, *(x if w else None for x, w in zip(out, wanted)), code_grad


def rig(
    vertices: torch.Tensor,
    faces: torch.Tensor,
    binding: torch.Tensor,
    means: torch.Tensor,
    quats: torch.Tensor,
    log_scales: torch.Tensor,
    opacity_logits: torch.Tensor,
    colors: torch.Tensor,
    corrective_means: torch.Tensor | None = None,
    corrective_colors: torch.Tensor | None = None,
    code: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Poses and activates the Gaussians of one frame, differentiably (METHOD 2).

    Local means and colours are first changed by `sum_k code[k] * corrective[:, k]`.

    Args:
        vertices: `[V, 3]` metres. faces: `[F, 3]` int64. binding: `[N]` int64, the triangle of each Gaussian.
        means, quats, log_scales, opacity_logits: `[N, 3]` (triangle sizes), `[N, 4]` wxyz of any length but zero,
            `[N, 3]`, `[N]`: the parameters of `RiggedGaussians`.
        colors: `[N, 3]`, the first spherical-harmonics coefficient of each channel.
        corrective_means, corrective_colors: `[N, K, 3]` or None for none.
        code: `[K]`; None leaves the correctives out.

    Returns:
        World means `[N, 3]` metres, unit quats `[N, 4]`, scales `[N, 3]` metres, opacities `[N]` in [0, 1], and RGB
        `[N, 3]` not below zero. Gradients reach every floating-point argument. Those of `vertices` are exact; only a
        triangle without a direction (its edge or its height is zero) gets the centroid's part alone. float32 tensors
        on a CPU take the compiled pass, all others `rig_torch`.

    Raises:
        ValueError: for other shapes, and on a CPU for a face or a binding that points nowhere.
    """
    _check(vertices, faces, binding, means, quats, log_scales, opacity_logits, colors)
    if code is None:
        corrective_means = corrective_colors = None
    for name, change in (("corrective_means", corrective_means), ("corrective_colors", corrective_colors)):
        if change is not None and tuple(change.shape) != (len(means), len(code), 3):
            raise ValueError(f"{name}: expected shape {(len(means), len(code), 3)}, got {tuple(change.shape)}.")
    given = (means, quats, log_scales, opacity_logits, colors, corrective_means, corrective_colors, code)
    floats = [x for x in (vertices, *given) if x is not None]
    if any(x.device.type != "cpu" or x.dtype != torch.float32 for x in floats):
        return rig_torch(vertices, faces, binding, *given)
    _check_indices("faces", faces, len(vertices))
    _check_indices("binding", binding, len(faces))
    nothing = means.new_empty(len(means), 0, 3)
    changes = (nothing if x is None else x for x in (corrective_means, corrective_colors))
    return _Rig.apply(vertices, faces, binding, *given[:5], *changes, means.new_empty(0) if code is None else code)


def rig_torch(
    vertices,
    faces,
    binding,
    means,
    quats,
    log_scales,
    opacity_logits,
    colors,
    corrective_means=None,
    corrective_colors=None,
    code=None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The slow reference implementation of `rig`, for any device and floating-point type."""
    if code is not None and corrective_means is not None:
        means = means + torch.einsum("k,nkc->nc", code, corrective_means)
    if code is not None and corrective_colors is not None:
        colors = colors + torch.einsum("k,nkc->nc", code, corrective_colors)
    unit = torch.nn.functional.normalize(quats, dim=-1)
    world = pose_torch(vertices[None], faces, binding, means, unit, log_scales.exp())
    return (*(x[0] for x in world), opacity_logits.sigmoid(), (colors * SH_C0 + 0.5).clamp_min(0))


def _check(vertices, faces, binding, means, quats, log_scales, opacity_logits, colors) -> None:
    count = len(means)
    for name, tensor, shape in (
        ("vertices", vertices, (len(vertices), 3)),
        ("faces", faces, (len(faces), 3)),
        ("binding", binding, (count,)),
        ("means", means, (count, 3)),
        ("quats", quats, (count, 4)),
        ("log_scales", log_scales, (count, 3)),
        ("opacity_logits", opacity_logits, (count,)),
        ("colors", colors, (count, 3)),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}.")


def _check_indices(name: str, indices: torch.Tensor, limit: int) -> None:
    """Bounds check, because the compiled pass has none."""
    if indices.dtype != torch.int64:
        raise ValueError(f"{name}: expected int64, got {indices.dtype}.")
    if indices.numel():
        low, high = (int(x) for x in torch.aminmax(indices))
        if low < 0 or high >= limit:
            raise ValueError(f"{name}: expected values in 0..{limit - 1}, got {low}..{high}.")
