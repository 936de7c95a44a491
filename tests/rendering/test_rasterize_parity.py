"""The CPU backend against the float64 dense reference: pictures, depths, alphas and every gradient."""

from __future__ import annotations

import pytest
import torch

from emotag_hf.rendering import rasterize
from emotag_hf.rendering.numba_threads import WorkspaceLease

LEAVES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")


def _render(scene, backend: str, dtype: torch.dtype, **options):
    leaves = {name: getattr(scene, name).to(dtype).clone().requires_grad_() for name in LEAVES}
    colors, alphas, meta = rasterize(
        **leaves, Ks=scene.Ks.to(dtype), width=scene.width, height=scene.height, backend=backend, **options
    )
    return leaves, colors, alphas, meta


def _compare(scene, **options) -> None:
    ours, colors, alphas, meta = _render(scene, "numba", torch.float32, **options)
    truth, true_colors, true_alphas, true_meta = _render(scene, "torch", torch.float64, **options)
    error = torch.cat(
        [(colors - true_colors).detach().abs().flatten(), (alphas - true_alphas).detach().abs().flatten()]
    )
    assert torch.quantile(error, 0.999) < 1e-4
    assert error.max() < 5e-3
    assert torch.equal(meta["radii"], true_meta["radii"])
    v_colors = torch.randn(colors.shape, generator=scene.generator)
    v_alphas = torch.randn(alphas.shape, generator=scene.generator)
    ((colors * v_colors).sum() + (alphas * v_alphas).sum()).backward()
    ((true_colors * v_colors).sum() + (true_alphas * v_alphas).sum()).backward()
    for name in LEAVES:
        expected, found = truth[name].grad, ours[name].grad
        if expected is None:  # colours in a depth-only picture
            assert found is None, name
            continue
        assert expected.norm() > 0, name
        assert (found - expected).norm() < 1e-3 * expected.norm(), name


@pytest.mark.parametrize(
    "options",
    [
        {"render_mode": "RGB"},
        {"render_mode": "RGB", "rasterize_mode": "antialiased"},
        {"render_mode": "RGB+D", "eps2d": 0.1},
        {"render_mode": "RGB+ED"},
        {"render_mode": "RGB", "alpha_max": 0.99, "near_plane": 1.9},
    ],
    ids=lambda o: "-".join(str(v) for v in o.values()),
)
def test_picture_and_gradients_match_the_dense_reference(kernels: str, make_scene, options: dict) -> None:
    """The required accuracy at an odd size, two cameras and saturated Gaussians, for each set of kernels."""
    _compare(make_scene(cameras=2), **options)


@pytest.mark.parametrize("mode", ["D", "ED"])
def test_depth_alone(make_scene, mode: str) -> None:
    """Depth without colours takes another path through the channels."""
    scene = make_scene()
    scene.backgrounds = torch.rand(1, 3)
    _compare_depth(scene, mode)


def _compare_depth(scene, mode: str) -> None:
    _, colors, alphas, _ = _render(scene, "numba", torch.float32, render_mode=mode)
    _, true_colors, true_alphas, _ = _render(scene, "torch", torch.float64, render_mode=mode)
    assert colors.shape == (1, scene.height, scene.width, 1)
    assert (colors - true_colors).abs().quantile(0.999) < 1e-4
    assert (alphas - true_alphas).abs().quantile(0.999) < 1e-4


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_spherical_harmonics(make_scene, degree: int) -> None:
    """Colours that depend on the direction, with gradients to means and camera through the direction."""
    _compare(make_scene(sh_degree=degree, cameras=2), sh_degree=degree)


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_any_channel_count(kernels: str, make_scene, channels: int) -> None:
    """Channels are composited four at a time; the fifth and later must not disturb geometry's gradient."""
    _compare(make_scene(channels=channels), render_mode="RGB+D")


def test_crowded_picture(kernels: str, make_scene) -> None:
    """Saturated pixels stop early; the gradient must stop at the same place."""
    _compare(make_scene(2000, (41, 35), seed=3))


def test_colours_per_camera(make_scene) -> None:
    """Colours [C, N, D], as when the shading is computed outside."""
    scene = make_scene(cameras=2)
    scene.colors = torch.rand(2, 300, 3, generator=scene.generator)
    _compare(scene)


def test_large_gaussians_and_large_picture_lists_grow(kernels: str, make_scene) -> None:
    """Gaussians as large as the picture overflow the first guess of the list length: the lists must grow, not break."""
    scene = make_scene(200, (200, 177), seed=5)
    scene.scales = scene.scales * 8
    WorkspaceLease._free.clear()  # or the lists would be as long as an earlier picture needed
    _, colors, _, _ = _render(scene, "numba", torch.float32)
    _, true_colors, _, _ = _render(scene, "torch", torch.float64)
    error = (colors - true_colors).abs()
    assert error.quantile(0.999) < 1e-4 and error.max() < 5e-3


def test_nothing_to_see(make_scene) -> None:
    """No Gaussian, none in front of the camera, NaN centres: the background, zero gradients, no crash."""
    scene = make_scene()
    for name, value in (("means", torch.tensor([0.0, 0.0, 9.0])), ("means", torch.tensor(float("nan")))):
        leaves, colors, alphas, _ = _render(scene, "numba", torch.float32)
        moved = leaves["means"].detach() * 0 + value
        arguments = {**leaves, name: moved.requires_grad_()}
        colors, alphas, _ = rasterize(**arguments, Ks=scene.Ks, width=scene.width, height=scene.height)
        assert torch.equal(colors, scene.backgrounds[:, None, None].expand_as(colors)) and alphas.max() == 0
        colors.sum().backward()
        assert moved.grad.abs().max() == 0
    empty = {n: getattr(scene, n)[:0] for n in ("means", "quats", "scales", "opacities", "colors")}
    colors, _, _ = rasterize(
        **empty, viewmats=scene.viewmats, Ks=scene.Ks, width=9, height=7, backgrounds=scene.backgrounds
    )
    assert torch.equal(colors, scene.backgrounds[:, None, None].expand_as(colors))


def test_absgrad_is_the_sum_of_absolute_pixel_gradients(kernels: str, make_scene) -> None:
    """Densification reads meta["means2d"].absgrad: checked against one backward pass per pixel."""
    scene = make_scene(40, (13, 9))
    leaves, colors, _, meta = _render(scene, "numba", torch.float32, absgrad=True)
    weights = torch.randn(colors.shape, generator=scene.generator)
    (colors * weights).sum().backward()
    _, true_colors, _, true_meta = _render(scene, "torch", torch.float64)
    expected = torch.zeros(1, 40, 2, dtype=torch.float64)
    for y in range(scene.height):
        for x in range(scene.width):
            loss = (true_colors[0, y, x] * weights[0, y, x]).sum()
            (grad,) = torch.autograd.grad(loss, true_meta["means2d"], retain_graph=True)
            expected += grad.abs()
    assert (meta["means2d"].absgrad - expected).norm() < 1e-3 * expected.norm()


def test_means2d_gradient_can_be_retained(make_scene) -> None:
    """Densification may also read meta["means2d"].grad, which needs means2d to be a node of the graph."""
    _, colors, _, meta = _render(make_scene(), "numba", torch.float32)
    meta["means2d"].retain_grad()
    colors.square().sum().backward()
    assert meta["means2d"].grad.abs().sum() > 0


def test_gaussians_hide_by_depth_not_by_order() -> None:
    """Painting order: the nearer of two opaque Gaussians wins whatever their order in the arrays."""
    for near in (0, 1):
        means = torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 2.0]])
        means[near, 2] = 1.0
        colors, alphas, _ = rasterize(
            means, torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1), torch.full((2, 3), 0.5), torch.full((2,), 0.999),
            torch.eye(2), torch.eye(4)[None], torch.tensor([[[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]]), 16, 16,
        )  # fmt: skip
        assert colors[0, 8, 8].argmax() == near and alphas[0, 8, 8] > 0.99
