"""The binding of Gaussians to triangles without gradients, as a fast Numba kernel (METHOD 2).

In: posed vertices and local Gaussians. Out: world means, quats and scales, equal to `modeling_gaussians.pose_torch` to
rounding. Single-threaded on purpose: a frame takes under a millisecond, and the rasteriser's threads stay free.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..rendering.numba_runtime import device, kernel


@kernel("void(float32[:,::1], int64[:,::1], float32[:,::1])")
def _triangle_frames(vertices, faces, frames):  # pragma: no cover - compiled
    """Per triangle: rotation (9, row-major), quaternion wxyz (4), centroid (3), size (1)."""
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
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
        length = math.sqrt(ex * ex + ey * ey + ez * ez)
        inv = 1.0 / max(length, 1e-12)
        xx, xy, xz = ex * inv, ey * inv, ez * inv
        nx, ny, nz = ey * sz - ez * sy, ez * sx - ex * sz, ex * sy - ey * sx
        inv = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
        nx, ny, nz = nx * inv, ny * inv, nz * inv
        zx, zy, zz = xy * nz - xz * ny, xz * nx - xx * nz, xx * ny - xy * nx
        frames[f, 0], frames[f, 1], frames[f, 2] = xx, nx, zx
        frames[f, 3], frames[f, 4], frames[f, 5] = xy, ny, zy
        frames[f, 6], frames[f, 7], frames[f, 8] = xz, nz, zz
        trace = xx + ny + zz
        if trace > 0.0:
            s = 2.0 * math.sqrt(1.0 + trace)
            qw, qx, qy, qz = 0.25 * s, (nz - zy) / s, (zx - xz) / s, (xy - nx) / s
        elif xx > ny and xx > zz:
            s = 2.0 * math.sqrt(1.0 + xx - ny - zz)
            qw, qx, qy, qz = (nz - zy) / s, 0.25 * s, (nx + xy) / s, (zx + xz) / s
        elif ny > zz:
            s = 2.0 * math.sqrt(1.0 + ny - xx - zz)
            qw, qx, qy, qz = (zx - xz) / s, (nx + xy) / s, 0.25 * s, (zy + nz) / s
        else:
            s = 2.0 * math.sqrt(1.0 + zz - xx - ny)
            qw, qx, qy, qz = (xy - nx) / s, (zx + xz) / s, (zy + nz) / s, 0.25 * s
        if qw < 0.0:
            qw, qx, qy, qz = -qw, -qx, -qy, -qz
        frames[f, 9], frames[f, 10], frames[f, 11], frames[f, 12] = qw, qx, qy, qz
        for k in range(3):
            frames[f, 13 + k] = (vertices[a, k] + vertices[b, k] + vertices[c, k]) / 3.0
        frames[f, 16] = 0.5 * (length + abs(sx * zx + sy * zy + sz * zz))


@device
def _multiply(aw, ax, ay, az, b, out):  # pragma: no cover - compiled
    """`out = a * b`, Hamilton product of quaternions wxyz."""
    bw, bx, by, bz = b[0], b[1], b[2], b[3]
    out[0] = aw * bw - ax * bx - ay * by - az * bz
    out[1] = aw * bx + ax * bw + ay * bz - az * by
    out[2] = aw * by - ax * bz + ay * bw + az * bx
    out[3] = aw * bz + ax * by - ay * bx + az * bw


@kernel(
    "void(float32[:,::1], int64[::1], float32[:,::1], float32[:,::1], float32[:,::1],"
    " float32[:,::1], float32[:,::1], float32[:,::1])"
)
def _bind(frames, binding, means, quats, scales, out_means, out_quats, out_scales):  # pragma: no cover - compiled
    for g in range(binding.shape[0]):
        r = frames[binding[g]]
        size = r[16]
        mx, my, mz = means[g, 0], means[g, 1], means[g, 2]
        out_means[g, 0] = size * (r[0] * mx + r[1] * my + r[2] * mz) + r[13]
        out_means[g, 1] = size * (r[3] * mx + r[4] * my + r[5] * mz) + r[14]
        out_means[g, 2] = size * (r[6] * mx + r[7] * my + r[8] * mz) + r[15]
        aw, ax, ay, az = r[9], r[10], r[11], r[12]
        _multiply(aw, ax, ay, az, quats[g], out_quats[g])
        for k in range(3):
            out_scales[g, k] = size * scales[g, k]


@kernel("void(float32[:,::1], float32[:,::1], float32[:,::1], float32[:,::1], float32[:,::1], float32[:,::1])")
def _move_mouth(offsets, means, quats, scales, out_local, out_quats):  # pragma: no cover - compiled
    """Local mouth Gaussians under `offsets [n, 9]`: `out_local [n, 6]` is mean and scale, `out_quats [n, 4]`."""
    for g in range(offsets.shape[0]):
        hx, hy, hz = 0.5 * offsets[g, 3], 0.5 * offsets[g, 4], 0.5 * offsets[g, 5]
        angle = math.sqrt(hx * hx + hy * hy + hz * hz + 1e-20)
        s = math.sin(angle) / angle
        aw, ax, ay, az = math.cos(angle), hx * s, hy * s, hz * s
        _multiply(aw, ax, ay, az, quats[g], out_quats[g])
        for k in range(3):
            out_local[g, k] = means[g, k] + offsets[g, k]
            out_local[g, 3 + k] = scales[g, k] * math.exp(offsets[g, 6 + k])


BINDING_KERNELS = (_triangle_frames, _bind, _move_mouth)


def pose_numba(vertices, faces, binding, means, quats, scales, mouth_offsets=None) -> tuple[torch.Tensor, ...]:
    """World means `[T, N, 3]`, quats `[T, N, 4]` and scales `[T, N, 3]`; arguments as in `pose_torch`."""
    as_array = lambda x: x.detach().contiguous().numpy()  # noqa: E731
    vertices, faces, binding = as_array(vertices), as_array(faces), as_array(binding)
    local = [as_array(x) for x in (means, quats, scales)]
    num_frames, n = vertices.shape[0], len(binding)
    start = n - (0 if mouth_offsets is None else mouth_offsets.shape[1])
    moving = local[0].ndim == 3  # means that differ from frame to frame
    out = [np.empty((num_frames, n, d), np.float32) for d in (3, 4, 3)]
    frames = np.empty((faces.shape[0], 17), np.float32)
    moved, moved_quats = np.empty((n - start, 6), np.float32), np.empty((n - start, 4), np.float32)
    for t in range(num_frames):
        now = [local[0][t] if moving else local[0], *local[1:]]
        rest, mouth = [x[:start] for x in now], [x[start:] for x in now]
        _triangle_frames(vertices[t], faces, frames)
        _bind(frames, binding[:start], *rest, *(x[t, :start] for x in out))
        if start < n:
            _move_mouth(as_array(mouth_offsets[t]), *mouth, moved, moved_quats)
            own = np.ascontiguousarray(moved[:, :3]), moved_quats, np.ascontiguousarray(moved[:, 3:])
            _bind(frames, binding[start:], *own, *(x[t, start:] for x in out))
    return tuple(torch.from_numpy(x) for x in out)
