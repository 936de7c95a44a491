"""Kernels: 3D Gaussians in, their 2D footprints in one pinhole camera out (EWA splatting), and the gradient back.

The perspective map is linearised at each centre: cov2d = J R cov3d R^T J^T + eps2d I, with J taken inside the frustum
widened by 30 % as in 3D Gaussian Splatting. Names follow gsplat: means2d (pixels), conics (inverse cov2d as
[xx, xy, yy]), depths (camera z), radii (pixels, 0 where culled), compensations (opacity factor of the low-pass filter).

`camera` is one float32 vector: rotation row-major (9), translation (3), fx, fy, cx, cy, width, height, eps2d,
near plane, far plane.
"""

from __future__ import annotations

import math

import numpy as np

from .numba_runtime import device, kernel

_f = np.float32
CAMERA_SIZE = 21
POSE_CHUNK = 2048  # Gaussians per partial sum of the pose gradient: fixed, so the bits do not depend on threads
MIN_ALPHA = _f(1.0 / 255.0)
_SIGMAS = _f(3.33)  # a Gaussian of opacity 1 falls below 1/255 there


@device
def _view_limits(camera):
    """Bounds of x/z and y/z inside which the Jacobian is evaluated: (x low, x high, y low, y high)."""
    fx, fy, cx, cy, width, height = camera[12], camera[13], camera[14], camera[15], camera[16], camera[17]
    margin_x = _f(0.15) * width / fx
    margin_y = _f(0.15) * height / fy
    return -cx / fx - margin_x, (width - cx) / fx + margin_x, -cy / fy - margin_y, (height - cy) / fy + margin_y


@device
def _rotation(quats, g):
    """Unit quaternion (w, x, y, z), 1/norm, and the rotation matrix row by row."""
    w, x, y, z = quats[g, 0], quats[g, 1], quats[g, 2], quats[g, 3]
    inv = _f(1.0) / math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w * inv, x * inv, y * inv, z * inv
    one, two = _f(1.0), _f(2.0)
    row0 = (one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y))
    row1 = (two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x))
    row2 = (two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y))
    return (w, x, y, z), inv, row0, row1, row2


@device
def _to_camera(means, g, camera):
    """Centre in camera coordinates."""
    px, py, pz = means[g, 0], means[g, 1], means[g, 2]
    x = camera[0] * px + camera[1] * py + camera[2] * pz + camera[9]
    y = camera[3] * px + camera[4] * py + camera[5] * pz + camera[10]
    z = camera[6] * px + camera[7] * py + camera[8] * pz + camera[11]
    return x, y, z


@device
def _jacobian(x, y, z, camera, limits):
    """Slopes u, v (clamped), scales a = fx/z, b = fy/z, and the two rows of J R."""
    inv_z = _f(1.0) / z
    u = min(max(x * inv_z, limits[0]), limits[1])
    v = min(max(y * inv_z, limits[2]), limits[3])
    a = camera[12] * inv_z
    b = camera[13] * inv_z
    row0 = (a * (camera[0] - u * camera[6]), a * (camera[1] - u * camera[7]), a * (camera[2] - u * camera[8]))
    row1 = (b * (camera[3] - v * camera[6]), b * (camera[4] - v * camera[7]), b * (camera[5] - v * camera[8]))
    return u, v, a, b, row0, row1


@device
def _row_times_matrix(row, m0, m1, m2):
    return (
        row[0] * m0[0] + row[1] * m1[0] + row[2] * m2[0],
        row[0] * m0[1] + row[1] * m1[1] + row[2] * m2[1],
        row[0] * m0[2] + row[1] * m1[2] + row[2] * m2[2],
    )


@device
def _dot(p, q):
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]


@kernel(
    "void(int64, int64, float32[:,::1], float32[:,::1], float32[:,::1], float32[::1], float32[::1], boolean,"
    " float32[:,::1], float32[:,::1], float32[::1], int32[:,::1], float32[::1])"
)
def project_forward(
    start, stop, means, quats, scales, opacities, camera, antialiased, means2d, conics, depths, radii, compensations
):
    """Projects Gaussians [start, stop). Culled ones get zeros everywhere; compensations only if `antialiased`."""
    limits = _view_limits(camera)
    cx, cy, width, height = camera[14], camera[15], camera[16], camera[17]
    eps, near, far = camera[18], camera[19], camera[20]
    zero = _f(0.0)
    for g in range(start, stop):
        x, y, z = _to_camera(means, g, camera)
        opacity = opacities[g]
        visible = False
        if z >= near and z <= far and opacity >= MIN_ALPHA:
            _, _, r0, r1, r2 = _rotation(quats, g)
            _, _, a, b, j0, j1 = _jacobian(x, y, z, camera, limits)
            h0 = _row_times_matrix(j0, r0, r1, r2)
            h1 = _row_times_matrix(j1, r0, r1, r2)
            s0, s1, s2 = scales[g, 0], scales[g, 1], scales[g, 2]
            t0 = (h0[0] * s0, h0[1] * s1, h0[2] * s2)
            t1 = (h1[0] * s0, h1[1] * s1, h1[2] * s2)
            raw_xx, xy, raw_yy = _dot(t0, t0), _dot(t0, t1), _dot(t1, t1)
            xx, yy = raw_xx + eps, raw_yy + eps
            det = xx * yy - xy * xy
            factor = _f(1.0)
            if antialiased:
                factor = math.sqrt(max(raw_xx * raw_yy - xy * xy, zero) / det)
                opacity *= factor
            mx, my = a * x + cx, b * y + cy
            if det > zero and opacity >= MIN_ALPHA:
                reach = min(_SIGMAS, math.sqrt(_f(2.0) * math.log(opacity * _f(255.0))))
                rx, ry = np.ceil(reach * math.sqrt(xx)), np.ceil(reach * math.sqrt(yy))
                visible = mx + rx > zero and mx - rx < width and my + ry > zero and my - ry < height
                visible = visible and (rx > zero or ry > zero)
        if visible:
            inv = _f(1.0) / det
            means2d[g, 0], means2d[g, 1] = mx, my
            conics[g, 0], conics[g, 1], conics[g, 2] = yy * inv, -xy * inv, xx * inv
            depths[g] = z
            radii[g, 0], radii[g, 1] = np.int32(min(rx, _f(1e9))), np.int32(min(ry, _f(1e9)))
            if antialiased:
                compensations[g] = factor
        else:
            means2d[g, 0], means2d[g, 1] = zero, zero
            conics[g, 0], conics[g, 1], conics[g, 2] = zero, zero, zero
            depths[g] = zero
            radii[g, 0], radii[g, 1] = np.int32(0), np.int32(0)
            if antialiased:
                compensations[g] = zero


@device
def _covariance_gradient(conic_a, conic_b, conic_c, g_a, g_b, g_c, compensation, g_comp, eps, antialiased):
    """Gradient of (conic, compensation) passed on to the symmetric cov2d: (xx, off-diagonal element, yy)."""
    half_b = g_b * _f(0.5)
    p00, p01 = conic_a * g_a + conic_b * half_b, conic_a * half_b + conic_b * g_c
    p10, p11 = conic_b * g_a + conic_c * half_b, conic_b * half_b + conic_c * g_c
    v_xx = -(p00 * conic_a + p01 * conic_b)
    v_xy = -(p00 * conic_b + p01 * conic_c)
    v_yy = -(p10 * conic_b + p11 * conic_c)
    if antialiased:  # compensation^2 = det(cov2d - eps I) / det(cov2d)
        v_square = _f(0.5) * g_comp / (compensation + _f(1e-6))
        rest = _f(1.0) - compensation * compensation
        inv_det = conic_a * conic_c - conic_b * conic_b
        v_xx += v_square * (rest * conic_a - eps * inv_det)
        v_xy += v_square * rest * conic_b
        v_yy += v_square * (rest * conic_c - eps * inv_det)
    return v_xx, v_xy, v_yy


@device
def _quaternion_gradient(q, inv_norm, m00, m01, m02, m10, m11, m12, m20, m21, m22):
    """Gradient of the rotation matrix (m) passed on to the quaternion before normalisation."""
    w, x, y, z = q
    two = _f(2.0)
    dw = two * (x * (m21 - m12) + y * (m02 - m20) + z * (m10 - m01))
    dx = two * (-two * x * (m11 + m22) + y * (m10 + m01) + z * (m20 + m02) + w * (m21 - m12))
    dy = two * (x * (m10 + m01) - two * y * (m00 + m22) + z * (m21 + m12) + w * (m02 - m20))
    dz = two * (x * (m20 + m02) + y * (m21 + m12) - two * z * (m00 + m11) + w * (m10 - m01))
    along = dw * w + dx * x + dy * y + dz * z
    return (
        (dw - along * w) * inv_norm,
        (dx - along * x) * inv_norm,
        (dy - along * y) * inv_norm,
        (dz - along * z) * inv_norm,
    )


@device
def _add_pose(pose, c, row, scale, vector):
    for k in range(3):
        pose[c, row * 3 + k] += np.float64(scale * vector[k])


@kernel(
    "void(int64, int64, float32[:,::1], float32[:,::1], float32[:,::1], float32[::1], boolean, boolean,"
    " float32[:,::1], int32[:,::1], float32[::1], float32[:,::1], float32[:,::1], float32[::1], float32[::1],"
    " float32[:,::1], float32[:,::1], float32[:,::1], float64[:,::1])"
)
def project_backward(
    first_chunk,
    last_chunk,
    means,
    quats,
    scales,
    camera,
    antialiased,
    with_pose,
    conics,
    radii,
    compensations,
    v_means2d,
    v_conics,
    v_depths,
    v_compensations,
    v_means,
    v_quats,
    v_scales,
    v_pose,
):
    """Gradients of means, quats, scales, and per chunk of POSE_CHUNK Gaussians of [R | t] (9 + 3 sums)."""
    limits = _view_limits(camera)
    view0 = (camera[0], camera[1], camera[2])
    view1 = (camera[3], camera[4], camera[5])
    view2 = (camera[6], camera[7], camera[8])
    two = _f(2.0)
    for chunk in range(first_chunk, last_chunk):
        for k in range(12):
            v_pose[chunk, k] = 0.0
        for g in range(chunk * POSE_CHUNK, min(means.shape[0], (chunk + 1) * POSE_CHUNK)):
            if radii[g, 0] <= 0 and radii[g, 1] <= 0:
                for k in range(3):
                    v_means[g, k] = _f(0.0)
                    v_scales[g, k] = _f(0.0)
                for k in range(4):
                    v_quats[g, k] = _f(0.0)
                continue
            q, inv_norm, r0, r1, r2 = _rotation(quats, g)
            x, y, z = _to_camera(means, g, camera)
            u, v, a, b, j0, j1 = _jacobian(x, y, z, camera, limits)
            h0 = _row_times_matrix(j0, r0, r1, r2)
            h1 = _row_times_matrix(j1, r0, r1, r2)
            s = (scales[g, 0], scales[g, 1], scales[g, 2])
            compensation = compensations[g] if antialiased else _f(1.0)
            v_comp = v_compensations[g] if antialiased else _f(0.0)
            v_xx, v_xy, v_yy = _covariance_gradient(
                conics[g, 0], conics[g, 1], conics[g, 2], v_conics[g, 0], v_conics[g, 1], v_conics[g, 2],
                compensation, v_comp, camera[18], antialiased,
            )  # fmt: skip
            # cov2d = T T^T + eps I with T = h diag(s): v_T = 2 V T, v_s = sum(v_T * h), v_h = v_T * s
            q0 = (
                two * s[0] * (v_xx * h0[0] + v_xy * h1[0]),
                two * s[1] * (v_xx * h0[1] + v_xy * h1[1]),
                two * s[2] * (v_xx * h0[2] + v_xy * h1[2]),
            )
            q1 = (
                two * s[0] * (v_xy * h0[0] + v_yy * h1[0]),
                two * s[1] * (v_xy * h0[1] + v_yy * h1[1]),
                two * s[2] * (v_xy * h0[2] + v_yy * h1[2]),
            )
            for k in range(3):
                v_scales[g, k] = q0[k] * h0[k] + q1[k] * h1[k]
            q0 = (q0[0] * s[0], q0[1] * s[1], q0[2] * s[2])
            q1 = (q1[0] * s[0], q1[1] * s[1], q1[2] * s[2])
            # h = (J R) r: v_r = (J R)^T v_h, v_(J R) = v_h r^T
            v_quats[g, 0], v_quats[g, 1], v_quats[g, 2], v_quats[g, 3] = _quaternion_gradient(
                q, inv_norm,
                j0[0] * q0[0] + j1[0] * q1[0], j0[0] * q0[1] + j1[0] * q1[1], j0[0] * q0[2] + j1[0] * q1[2],
                j0[1] * q0[0] + j1[1] * q1[0], j0[1] * q0[1] + j1[1] * q1[1], j0[1] * q0[2] + j1[1] * q1[2],
                j0[2] * q0[0] + j1[2] * q1[0], j0[2] * q0[1] + j1[2] * q1[1], j0[2] * q0[2] + j1[2] * q1[2],
            )  # fmt: skip
            k0 = (_dot(q0, r0), _dot(q0, r1), _dot(q0, r2))
            k1 = (_dot(q1, r0), _dot(q1, r1), _dot(q1, r2))
            # row 0 of J R is a (view0 - u view2) with a = fx/z, u = x/z; row 1 likewise
            inv_z = _f(1.0) / z
            e0, e1 = _dot(k0, view2), _dot(k1, view2)
            v_u, v_v = -a * e0, -b * e1
            g_x, g_y = v_means2d[g, 0], v_means2d[g, 1]
            v_x, v_y = a * g_x, b * g_y
            v_z = v_depths[g] - inv_z * (
                a * (_dot(k0, view0) - u * e0 + x * g_x) + b * (_dot(k1, view1) - v * e1 + y * g_y)
            )
            if x * inv_z >= limits[0] and x * inv_z <= limits[1]:  # the clamp passes no gradient outside
                v_x += v_u * inv_z
                v_z -= v_u * x * inv_z * inv_z
            if y * inv_z >= limits[2] and y * inv_z <= limits[3]:
                v_y += v_v * inv_z
                v_z -= v_v * y * inv_z * inv_z
            for k in range(3):
                v_means[g, k] = view0[k] * v_x + view1[k] * v_y + view2[k] * v_z
            if with_pose:
                mean = (means[g, 0], means[g, 1], means[g, 2])
                _add_pose(v_pose, chunk, 0, v_x, mean)
                _add_pose(v_pose, chunk, 1, v_y, mean)
                _add_pose(v_pose, chunk, 2, v_z, mean)
                _add_pose(v_pose, chunk, 3, _f(1.0), (v_x, v_y, v_z))
                _add_pose(v_pose, chunk, 0, a, k0)
                _add_pose(v_pose, chunk, 1, b, k1)
                _add_pose(v_pose, chunk, 2, -a * u, k0)
                _add_pose(v_pose, chunk, 2, -b * v, k1)
