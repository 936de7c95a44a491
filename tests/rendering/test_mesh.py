"""The mesh's z-buffer against rays, and the promises of its docstring."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.rendering import Camera
from emotag_hf.rendering.mesh import NEAR, interpolate, rasterize_mesh

K = np.array([[60.0, 0, 17.3], [0, 55.0, 12.8], [0, 0, 1]])
WIDTH, HEIGHT = 37, 29


def cast_rays(vertices, faces, K, width, height):
    """The slow, obvious twin: a ray through each pixel's centre against every face (Moeller and Trumbore)."""
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    rays = np.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], np.ones_like(x)], -1)  # z = 1: t is the depth
    index = np.full((height, width), -1)
    depth, weights = np.full((height, width), np.inf), np.zeros((height, width, 3))
    for number, face in enumerate(faces):
        a, b, c = vertices[face].astype(np.float64)
        if min(a[2], b[2], c[2]) < NEAR:
            continue
        across = np.cross(rays, c - a)
        size = across @ (b - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            u = across @ (-a) / size
            turned = np.cross(-a, b - a)
            v = rays @ turned / size
            t = (c - a) @ turned / size
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < depth)
        index[hit], depth[hit] = number, t[hit]
        weights[hit] = np.stack([1 - u - v, u, v], -1)[hit]
    return index, weights, depth


def triangles(count, seed):
    rng = np.random.default_rng(seed)
    centres = rng.uniform([-0.4, -0.3, 0.4], [0.4, 0.3, 2.0], (count, 3))
    vertices = (centres[:, None] + rng.normal(0, 0.15, (count, 3, 3))).reshape(-1, 3).astype(np.float32)
    vertices[::50, 2] = -0.2  # some reach behind the camera
    return vertices, np.arange(3 * count).reshape(count, 3)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_rays(seed):
    """Soup of intersecting triangles of any orientation, some behind the camera and many off the picture's edge."""
    vertices, faces = triangles(200, seed)
    buffers = rasterize_mesh(vertices, faces, K, WIDTH, HEIGHT)
    index, weights, depth = cast_rays(vertices, faces, K, WIDTH, HEIGHT)
    same = buffers.face_index == index
    assert same.mean() > 0.995 and (index >= 0).mean() > 0.5  # a rounded edge may pass a pixel's centre
    hit = same & (index >= 0)
    np.testing.assert_allclose(buffers.depth[hit], depth[hit], rtol=2e-3)
    np.testing.assert_allclose(buffers.barycentric[hit], weights[hit], atol=1e-2)
    assert np.abs(buffers.barycentric[hit] - weights[hit]).mean() < 1e-4
    assert np.isinf(buffers.depth[buffers.face_index < 0]).all()
    assert (buffers.barycentric[buffers.face_index < 0] == 0).all()


def test_a_known_triangle():
    """Pixel centres lie at +0.5, and weights are those of the point in space, not of the screen."""
    vertices = torch.tensor([[0.0, 0.0, 1.0], [8.0, 0.0, 2.0], [0.0, 8.0, 2.0]])
    intrinsics = torch.tensor([[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]])
    buffers = rasterize_mesh(vertices, torch.tensor([[0, 1, 2]]), intrinsics, 6, 6)
    np.testing.assert_allclose(buffers.barycentric[0, 0], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(buffers.barycentric[0, 4], [0, 1, 0], atol=1e-6)  # 8 / 2 = 4
    # half way on the screen: 2 = 8 w / (1 + w)
    np.testing.assert_allclose(buffers.barycentric[0, 2], [2 / 3, 1 / 3, 0], atol=1e-6)
    assert buffers.depth[0, 2] == pytest.approx(4 / 3)
    assert buffers.face_index[0].tolist() == [0, 0, 0, 0, 0, -1]


def test_no_hole_between_neighbours():
    """A crumpled sheet that fills the view has no empty pixel, wherever its edges cross pixel centres."""
    rng = np.random.default_rng(5)
    n = 40
    y, x = np.meshgrid(np.linspace(-0.6, 0.6, n), np.linspace(-0.6, 0.6, n), indexing="ij")
    sheet = np.stack([x, y, 1.0 + 0.0 * x], -1) + rng.normal(0, 0.004, (n, n, 3))
    corner = np.arange(n * n).reshape(n, n)
    quads = [corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]]
    faces = np.concatenate([np.stack([quads[i] for i in t], -1).reshape(-1, 3) for t in ((0, 1, 2), (0, 2, 3))])
    intrinsics = np.array([[64.0, 0, 32], [0, 64.0, 32], [0, 0, 1]])
    buffers = rasterize_mesh(sheet.reshape(-1, 3), faces, intrinsics, 64, 64)
    assert (buffers.face_index >= 0).all()


def test_cull_and_near_plane():
    """A face seen from behind goes with `cull` alone; a face that reaches the near plane goes as a whole."""
    front = np.array([[-1.0, -1, 2], [-1, 1, 2], [1, 1, 2]])  # its normal points at the camera
    front_face, back_face = np.array([[0, 1, 2]]), np.array([[0, 2, 1]])
    normal = np.cross(front[1] - front[0], front[2] - front[0])
    assert normal @ front[0] < 0
    seen = rasterize_mesh(front, front_face, K, WIDTH, HEIGHT, cull=True).face_index
    assert (seen == 0).any()
    assert (rasterize_mesh(front, back_face, K, WIDTH, HEIGHT, cull=True).face_index == -1).all()
    assert np.array_equal(rasterize_mesh(front, back_face, K, WIDTH, HEIGHT).face_index, seen)
    front[0, 2] = NEAR / 2
    assert (rasterize_mesh(front, front_face, K, WIDTH, HEIGHT).face_index == -1).all()


def test_interpolates():
    """Positions interpolated at the pixels project back to the pixels' centres; empty pixels are 0."""
    vertices, faces = triangles(30, 7)
    buffers = rasterize_mesh(vertices, faces, K, WIDTH, HEIGHT)
    points = interpolate(buffers, faces, torch.from_numpy(vertices))
    hit = buffers.face_index >= 0
    rows, columns = np.nonzero(hit)
    x = points[hit] @ K[0] / points[hit][:, 2]
    np.testing.assert_allclose(x, columns + 0.5, atol=5e-3)
    np.testing.assert_allclose(points[hit] @ K[1] / points[hit][:, 2], rows + 0.5, atol=5e-3)
    np.testing.assert_allclose(points[hit][:, 2], buffers.depth[hit], rtol=1e-5)
    assert (points[~hit] == 0).all()


def test_a_head_from_the_front():
    """The open head before a portrait camera: the nose is nearest, nobody sees the teeth of a closed mouth."""
    head, camera = ParametricHead(), Camera.portrait(128)
    vertices = head.v_template @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    buffers = rasterize_mesh(vertices, head.faces, camera.K, 128, 128)
    nearest = np.unravel_index(buffers.depth.argmin(), buffers.depth.shape)
    assert buffers.face_index[nearest] in head.region_faces("nose")
    assert not np.isin(buffers.face_index, head.region_faces("teeth_upper")).any()
    again = rasterize_mesh(vertices, head.faces, camera.K, 128, 128)
    assert all(np.array_equal(a, b) for a, b in zip(buffers, again))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vertices": np.zeros((4, 2))}, "vertices: expected shape"),
        ({"vertices": np.full((3, 3), np.nan)}, "vertices: expected finite"),
        ({"faces": np.array([[0, 1, 3]])}, r"faces: expected indices in 0\.\.2, got 0\.\.3"),
        ({"K": np.eye(4)}, "K: expected shape"),
        ({"width": 0}, "expected at least one pixel"),
    ],
)
def test_bad_arguments(change, message):
    """One sentence that names the argument."""
    given = {"vertices": np.ones((3, 3)), "faces": np.array([[0, 1, 2]]), "K": K, "width": 8, "height": 8} | change
    with pytest.raises(ValueError, match=message):
        rasterize_mesh(**given)


def test_values_of_another_mesh():
    """Too few rows, or other faces."""
    vertices, faces = triangles(30, 7)
    buffers = rasterize_mesh(vertices, faces, K, WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="values: expected shape"):
        interpolate(buffers, faces, vertices[:10])
    with pytest.raises(ValueError, match="faces: expected those of the buffers"):
        interpolate(buffers, faces[:1], vertices)
