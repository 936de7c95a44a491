"""The triangle binding: METHOD 2's rule, its fast twin, and resizing."""

from __future__ import annotations

import pytest
import torch

from emotag_hf.models.configuration_emotag import EmoTaGGaussiansConfig
from emotag_hf.models.modeling_gaussians import RiggedGaussians, triangle_frames
from emotag_hf.utils.rotations import quat_multiply, rotation_to_quat, small_rotation_to_quat


def quat_to_rotation(quat: torch.Tensor) -> torch.Tensor:
    w, x, y, z = torch.nn.functional.normalize(quat, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(r, -1) for r in rows], -2)


@pytest.fixture
def scene():
    """A random triangle soup with Gaussians on it, two frames."""
    generator = torch.Generator().manual_seed(0)
    vertices = torch.randn(2, 30, 3, generator=generator) * 0.1
    faces = torch.randint(0, 30, (40, 3), generator=generator)
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]
    model = RiggedGaussians(EmoTaGGaussiansConfig(num_gaussians=200, num_mouth_gaussians=50, sh_degree=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        model.binding.copy_(torch.randint(0, len(faces), (200,), generator=generator))
    return model, vertices, faces


def test_frames_are_right_handed_rotations_with_the_papers_size(scene):
    """R_f is a rotation whose columns are edge, normal and their product; k_f is the mean of edge and height."""
    _, vertices, faces = scene
    rotations, centroids, sizes = triangle_frames(vertices, faces)
    identity = torch.eye(3).expand_as(rotations)
    torch.testing.assert_close(rotations.mT @ rotations, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(rotations.shape[:-2]), atol=1e-5, rtol=0)
    v0, v1, v2 = vertices[0, faces[0]]
    edge = (v1 - v0).norm()
    area = torch.linalg.cross(v1 - v0, v2 - v0).norm() / 2
    torch.testing.assert_close(sizes[0, 0, 0], (edge + 2 * area / edge) / 2, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(centroids[0, 0], (v0 + v1 + v2) / 3)


def test_rotation_to_quat_agrees_with_the_matrix_everywhere():
    """The quaternion reproduces the matrix, half turns included, where the usual formula divides by zero."""
    quats = torch.nn.functional.normalize(torch.randn(500, 4, generator=torch.Generator().manual_seed(1)), dim=-1)
    half_turns = torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0.6, 0.8, 0]])
    rotations = quat_to_rotation(torch.cat([quats, half_turns]))
    torch.testing.assert_close(quat_to_rotation(rotation_to_quat(rotations)), rotations, atol=2e-5, rtol=0)


def test_quat_multiply_composes_rotations():
    """q(a) * q(b) turns by b first, then by a."""
    a, b = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(2))
    unit = torch.nn.functional.normalize
    product = quat_to_rotation(quat_multiply(unit(a, dim=-1), unit(b, dim=-1)))
    torch.testing.assert_close(product, quat_to_rotation(a) @ quat_to_rotation(b), atol=1e-5, rtol=0)


def test_numba_twin_gives_the_same_numbers(scene):
    """The fast path is the slow path, with and without mouth motion."""

    model, vertices, faces = scene
    offsets = torch.randn(2, 50, 9, generator=torch.Generator().manual_seed(3)) * 0.1
    for mouth in (None, offsets):
        slow = model.pose(vertices, faces, mouth)  # gradients are wanted: the torch twin
        with torch.no_grad():
            fast = model.pose(vertices, faces, mouth)
        assert slow.means.requires_grad and not fast.means.requires_grad
        torch.testing.assert_close(fast.means, slow.means, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(quat_to_rotation(fast.quats), quat_to_rotation(slow.quats), atol=1e-4, rtol=0)
        torch.testing.assert_close(fast.scales, slow.scales, atol=1e-6, rtol=1e-4)


def test_mouth_motion_moves_the_mouth_alone(scene):
    """Offsets act on the last Gaussians, in their local frames; the skin stays."""
    model, vertices, faces = scene
    still, moved = model.pose(vertices, faces), model.pose(vertices, faces, torch.full((2, 50, 9), 0.1))
    assert torch.equal(still.means[:, :150], moved.means[:, :150])
    assert (still.means[:, 150:] - moved.means[:, 150:]).norm(dim=-1).min() > 0
    torch.testing.assert_close(moved.scales[:, 150:], still.scales[:, 150:] * 1.1051709)


def test_gaussians_follow_a_rigid_motion_and_a_scale(scene):
    """A head that turns, moves and grows carries means, rotations and scales along exactly."""
    model, vertices, faces = scene
    rotation = quat_to_rotation(torch.tensor([0.9, 0.1, -0.3, 0.2]))
    moved = 1.7 * vertices @ rotation.T + torch.tensor([0.1, 0.2, -0.3])
    before, after = model.pose(vertices, faces), model.pose(moved, faces)
    expected = 1.7 * before.means @ rotation.T + torch.tensor([0.1, 0.2, -0.3])
    torch.testing.assert_close(after.means, expected, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(after.scales, 1.7 * before.scales, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        quat_to_rotation(after.quats), rotation @ quat_to_rotation(before.quats), atol=1e-3, rtol=0
    )


def test_pose_has_gradients_for_training(scene):
    """Gradients reach every parameter and the vertices."""
    model, vertices, faces = scene
    vertices.requires_grad_()
    posed = model.pose(vertices, faces)
    (posed.means.sum() + posed.quats.sum() + posed.scales.sum() + posed.opacities.sum() + posed.colors.sum()).backward()
    assert vertices.grad.abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_small_rotations_have_finite_gradients_at_zero():
    """The exponential map at zero is where a naive norm gives NaN."""
    x = torch.zeros(3, 3, requires_grad=True)
    small_rotation_to_quat(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3, 3), 0.5))


def test_resize_keeps_parameters_binding_optimiser_and_config_in_step(scene):
    """The released code lets binding and optimiser drift apart when Gaussians are cloned; ours must not."""
    model, vertices, faces = scene
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.pose(vertices, faces).means.sum().backward()
    optimizer.step()
    means, binding = model.means.detach().clone(), model.binding.clone()
    moment = optimizer.state[model.means]["exp_avg"].clone()
    index = torch.cat([torch.arange(199, 20, -1), torch.tensor([5, 5, 180])])
    order = model.resize(index, optimizer)
    assert sorted(order.tolist()) == sorted(index.tolist())
    assert model.config.num_gaussians == model.num_gaussians == len(index)
    assert model.config.num_mouth_gaussians == 51 and (order[-51:] >= 150).all() and (order[:-51] < 150).all()
    torch.testing.assert_close(model.means.detach(), means[order])
    torch.testing.assert_close(model.binding, binding[order])
    kept = optimizer.state[model.means]["exp_avg"]
    first, second = (order == 5).nonzero().flatten().tolist()
    torch.testing.assert_close(kept[first], moment[5])
    assert (kept[second] == 0).all()
    optimizer.zero_grad()
    model.pose(vertices, faces).means.sum().backward()
    optimizer.step()  # would raise if a parameter and its moments had other sizes


def test_bad_shapes_are_named(scene):
    """Errors name the argument, what was expected and what came."""
    model, vertices, faces = scene
    with pytest.raises(ValueError, match=r"mouth_offsets: expected a tensor of shape \(2, 50, 9\), got \(2, 3, 9\)"):
        model.pose(vertices, faces, torch.zeros(2, 3, 9))
    with pytest.raises(ValueError, match="vertices"):
        model.pose(vertices[0], faces)
    with pytest.raises(ValueError, match="index: expected values in 0..199"):
        model.resize(torch.tensor([200]))
