"""The terms of the loss against numbers made another way, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotag_hf.constants import EMOTIONS
from emotag_hf.preprocessing.features import geometry
from emotag_hf.training.gaussians import losses
from emotag_hf.training.gaussians.ssim import SsimTarget, ssim_torch
from emotag_hf.training.pretraining import motion_losses


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(size=shape))


def sphere(size: int = 48, focal: float = 200.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Depth `[size, size]` of a sphere before the camera (0 beside it), its true normals, and K; float64."""
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)
    pixels = torch.arange(size, dtype=torch.float64) + 0.5 - size / 2
    rays = torch.stack([*torch.meshgrid(pixels / focal, pixels / focal, indexing="xy"), torch.ones(size, size)], -1)
    centre, radius = torch.tensor([0, 0, 1.0], dtype=torch.float64), 0.1
    a, b = rays.square().sum(-1), rays @ centre
    root = b**2 - a * (centre @ centre - radius**2)
    depth = ((b - root.clamp(min=0).sqrt()) / a).where(root > 0, 0)
    normals = ((depth[..., None] * rays - centre) / radius).where(root[..., None] > 0, 0)
    return depth, normals, K


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ssim_weight", [0.0, 0.2, 1.0])
def test_photometric_loss(weighted, ssim_weight):
    """0.8 L1 + 0.2 (1 - SSIM), both under the same weights, in numpy and by SSIM's twin."""
    prediction, target = random(20, 14, 3), random(20, 14, 3, seed=1)
    weight = random(20, 14, seed=2) if weighted else torch.ones(20, 14, dtype=torch.float64)
    l1 = np.average((prediction - target).abs().mean(-1).numpy(), weights=weight.numpy())
    similarity = ssim_torch(prediction, SsimTarget(target), weight).item()
    expected = (1 - ssim_weight) * l1 + ssim_weight * (1 - similarity)
    loss = losses.photometric_loss(
        prediction.float(), target.float(), weight=weight.float() if weighted else None, ssim_weight=ssim_weight
    )
    assert loss.item() == pytest.approx(expected, abs=2e-6)


def test_photometric_gradient():
    """In float64 against finite differences; float32's kernels have the same."""
    prediction, target, weight = random(9, 8, 3), random(9, 8, 3, seed=1), random(9, 8, seed=2)
    leaf = prediction.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: losses.photometric_loss(p, target, weight=weight), leaf)
    (exact,) = torch.autograd.grad(losses.photometric_loss(leaf, target, weight=weight), leaf)
    leaf32, kept = prediction.float().requires_grad_(), SsimTarget(target.float())
    loss = losses.photometric_loss(leaf32, target.float(), kept, weight.float())
    torch.testing.assert_close(torch.autograd.grad(loss, leaf32)[0].double(), exact, rtol=1e-4, atol=1e-6)


def test_equal_pictures_cost_nothing():
    """Zero loss and a gradient that does not move them."""
    picture = random(24, 24, 3).float().requires_grad_()
    loss = losses.photometric_loss(picture, picture.detach())
    loss.backward()
    assert abs(loss.item()) < 1e-6 and picture.grad.abs().max() < 1e-6


def test_alpha_loss():
    """The weighted mean of |alpha - matte|; `[H, W, 1]` and `[H, W]` are not broadcast against each other."""
    alpha, matte, weight = random(6, 5, 1), random(6, 5, seed=1), random(6, 5, seed=2)
    difference = (alpha[..., 0] - matte).abs().numpy()
    assert losses.alpha_loss(alpha, matte).item() == pytest.approx(difference.mean())
    assert losses.alpha_loss(alpha, matte, weight).item() == pytest.approx(np.average(difference, weights=weight))
    with pytest.raises(ValueError, match="alpha: expected shape"):
        losses.alpha_loss(alpha[..., 0], matte)
    with pytest.raises(ValueError, match="weight: expected some weight above 0"):
        losses.alpha_loss(alpha, matte, torch.zeros(6, 5))


# --- motion and emotion ---------------------------------------------------------------------------------------------


def test_motion_loss():
    """MSE of the expression plus MSE of the jaw, each over its own numbers; frames that are not valid do not count."""
    expression, jaw = random(2, 4, 50), random(2, 4, 3, seed=1)
    targets = random(2, 4, 50, seed=2), random(2, 4, 3, seed=3)
    by_hand = [((a - b) ** 2).numpy() for a, b in zip((expression, jaw), targets)]
    assert motion_losses.motion_loss(expression, jaw, *targets).item() == pytest.approx(sum(e.mean() for e in by_hand))
    valid = torch.tensor([[True, False, True, True], [False] * 4])
    expected = sum(e[valid.numpy()].mean() for e in by_hand)
    assert motion_losses.motion_loss(expression, jaw, *targets, valid).item() == pytest.approx(expected)
    assert motion_losses.motion_loss(expression, jaw, *targets, valid & False).item() == 0
    with pytest.raises(ValueError, match="target_jaw_pose: expected shape"):
        motion_losses.motion_loss(expression, jaw, targets[0], targets[1][:1])


def test_semantic_guidance():
    """KL(p || q) as the sum p log(p / q) in numpy, |g - (1 - p_neutral)|; classes of no probability cost nothing."""
    logits, gate = 4 * random(3, 7) - 2, random(3, 1, seed=1)
    p = random(3, 7, seed=2)
    p[0, 2] = p[1, :6] = 0
    p /= p.sum(-1, keepdim=True)
    q = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)
    terms = [[a * np.log(a / b) for a, b in zip(*rows) if a > 0] for rows in zip(p.numpy(), q)]
    found = motion_losses.semantic_guidance(logits, gate, p)
    assert found["kl"].item() == pytest.approx(np.mean([sum(t) for t in terms]))
    score = 1 - p[:, EMOTIONS.index("neutral")].numpy()
    assert found["score"].item() == pytest.approx(np.abs(gate[:, 0].numpy() - score).mean())
    valid = torch.tensor([False, True, False])
    assert motion_losses.semantic_guidance(logits, gate, p, valid)["kl"].item() == pytest.approx(sum(terms[1]))
    assert motion_losses.semantic_guidance(p.log().clamp(-99), gate, p)["kl"].item() == pytest.approx(0, abs=1e-12)


def test_semantic_gradients():
    """Finite for certain teachers, extreme logits and a gate that is right; none goes to the teacher."""
    leaves = (4 * random(3, 7) - 2).requires_grad_(), random(3, 1, seed=1).requires_grad_()
    p = random(3, 7, seed=2).softmax(-1)
    assert torch.autograd.gradcheck(lambda z, g: tuple(motion_losses.semantic_guidance(z, g, p).values()), leaves)
    certain = torch.eye(7)[[0, 6]].requires_grad_()
    logits = torch.tensor([[200.0] + [-200.0] * 6, [200.0] + [-200.0] * 6], requires_grad=True)
    gate = torch.tensor([[1.0], [0.5]], requires_grad=True)
    found = motion_losses.semantic_guidance(logits, gate, certain)
    (found["kl"] + found["score"]).backward()
    assert found["kl"].item() == pytest.approx(200)
    assert logits.grad.isfinite().all() and gate.grad.tolist() == [[0.0], [0.5]] and certain.grad is None


# --- geometry -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_normals_from_depth(dtype):
    """Those of a sphere, and those of the numpy function for teachers; 0 beside it and at the edge."""
    depth, truth, K = sphere()
    normals = losses.normals_from_depth(depth.to(dtype), K)
    twin = torch.from_numpy(geometry.normals_from_depth(depth.numpy(), K.numpy()))
    assert normals.dtype == dtype
    torch.testing.assert_close(normals.double(), twin.double(), rtol=0, atol=1e-6 if dtype == torch.float64 else 2e-3)
    middle = normals[12:36, 12:36].double()
    assert ((middle * truth[12:36, 12:36]).sum(-1) > 0.999).all() and (middle[..., 2] < 0).all()
    assert not normals[0].any() and not normals[24, 0].any()


def test_normals_gradient():
    """Against finite differences, and finite where depth is missing, infinite or torn."""
    depth, _, K = sphere(10)
    leaf = (depth + 0.001 * random(10, 10)).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: losses.normals_from_depth(d, K), leaf)
    torn = sphere(20)[0].float()
    torn[3, 3], torn[5:7], torn[9, 9], torn[12:, 10:] = torch.nan, 0, torch.inf, 0.5
    torn.requires_grad_()
    (losses.normals_from_depth(torn, K) * random(20, 20, 3).float()).sum().backward()
    assert torn.grad.isfinite().all() and torn.grad.any()


def test_geometry_loss():
    """L1 of depths standardised over the mask and of normals, in numpy."""
    depth, teacher = 1 + random(8, 7), 3 - random(8, 7, seed=1)
    normals, teacher_normals = random(8, 7, 3, seed=2), random(8, 7, 3, seed=3)
    mask = random(8, 7, seed=4) > 0.4
    depth[2, 2], mask[2, 2] = torch.nan, True  # not rendered there
    normals[4, 4], mask[4, 4] = 0, True
    used = mask & depth.isfinite()
    standard = [(d - d.mean()) / d.std() for d in (depth[used].numpy(), teacher[used].numpy())]
    found = losses.geometry_loss(depth, normals, teacher, teacher_normals, mask)
    assert found["depth"].item() == pytest.approx(np.abs(standard[0] - standard[1]).mean())
    mask[4, 4] = False
    expected = np.abs(normals[mask].numpy() - teacher_normals[mask].numpy()).mean()
    assert found["normals"].item() == pytest.approx(expected)


def test_geometry_ignores_scale_and_offset():
    """A relative depth serves as a teacher, and the head's own normals cost nothing."""
    depth, _, K = sphere()
    normals = losses.normals_from_depth(depth, K)
    found = losses.geometry_loss(depth, normals, 5 * depth - 3, normals, depth > 0)
    assert found["depth"].item() < 1e-6 and found["normals"].item() == 0


def test_geometry_gradient():
    """Through depth and the normals made of it; zero, not NaN, for an empty mask and a flat depth."""
    depth, truth, K = sphere(12)
    teacher = depth + 0.01 * random(12, 12)
    mask = depth > 0

    def total(d):
        found = losses.geometry_loss(d, losses.normals_from_depth(d, K), teacher, truth, mask)
        return found["depth"] + found["normals"]

    assert torch.autograd.gradcheck(total, (depth + 0.002 * random(12, 12, seed=1)).requires_grad_())
    for flat, where in ((depth, mask & False), (torch.ones_like(depth), mask)):
        leaf = flat.clone().requires_grad_()
        found = losses.geometry_loss(leaf, losses.normals_from_depth(leaf, K), teacher, truth, where)
        (found["depth"] + found["normals"]).backward()
        assert leaf.grad.isfinite().all()
    with pytest.raises(ValueError, match="teacher_normals: expected shape"):
        losses.geometry_loss(depth, truth, teacher, depth, mask)


# --- regularisers ---------------------------------------------------------------------------------------------------


def test_scale_loss():
    """Discs within the limit are free; a blob pays the log of its excess, a needle that of its elongation."""
    disc = torch.tensor([[0.5, 0.4, 1e-4]]).log()
    assert losses.scale_loss(disc, 0.6).item() == 0
    blob = torch.tensor([[1.2, 1.2, 1e-4]]).log()
    assert losses.scale_loss(blob, 0.6).item() == pytest.approx(2 * np.log(2) ** 2 / 3, rel=1e-5)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]):
        needle = torch.tensor([[0.5, 0.01, 0.001]]).log()[:, order]
        assert losses.scale_loss(needle, 0.6, max_elongation=5).item() == pytest.approx(np.log(10) ** 2, rel=1e-5)
    limits = torch.tensor([0.6, 2.0])
    assert losses.scale_loss(torch.cat([disc, blob]), limits).item() == 0


def test_position_loss():
    """Free within the limit, then the square of the excess; the limit may differ between Gaussians."""
    means = torch.tensor([[3.0, 0.0, 4.0], [0.1, 0.2, 0.3]])
    assert losses.position_loss(means, 1.0).item() == pytest.approx(16 / 2)
    assert losses.position_loss(means, torch.tensor([5.5, 1.0])).item() == 0


def test_corrective_loss():
    """Mean squares of offsets and colours, each over its own numbers."""
    means, colors = random(5, 8, 3), random(5, 8, 3, seed=1)
    expected = (means.numpy() ** 2).mean() + (colors.numpy() ** 2).mean()
    assert losses.corrective_loss(means, colors).item() == pytest.approx(expected)


def test_regularisers_gradients():
    """Against finite differences, and finite for round, vanishing, enormous and centred Gaussians."""
    wide = (6 * random(6, 3) - 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.scale_loss(x, 0.6), wide)
    assert torch.autograd.gradcheck(lambda x: losses.position_loss(x, 0.6), wide)
    extreme = torch.tensor([[0.0, 0.0, 0.0], [200.0, 200.0, -200.0], [-200.0, 0.0, 200.0]], requires_grad=True)
    for loss in (losses.scale_loss(extreme, 0.6), losses.position_loss(extreme, 0.6)):
        (gradient,) = torch.autograd.grad(loss, extreme)
        assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), torch.tensor([1.0, 0.0])])
def test_limits_are_positive(limit):
    """A limit of nothing has no logarithm."""
    for loss in (losses.scale_loss, losses.position_loss):
        with pytest.raises(ValueError, match="limit: expected positive numbers"):
            loss(torch.zeros(2, 3), limit)
    with pytest.raises(ValueError, match="max_elongation: expected at least 1"):
        losses.scale_loss(torch.zeros(2, 3), 1.0, max_elongation=0.5)
