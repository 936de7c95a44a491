"""SSIM by the kernels, by the torch twin, by skimage and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotag_hf.rendering.numba_threads import set_num_threads
from emotag_hf.training.gaussians.ssim import SsimTarget, l1_and_ssim, l1_and_ssim_torch, ssim, ssim_torch

SIZES = [(40, 24), (6, 3), (1, 1), (33, 400)]  # larger and smaller than the window, wider than a chunk of the kernels


def pictures(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A truth with structure and flat parts, and a noisy prediction of it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    truth = np.stack([0.5 + 0.5 * np.sin(0.3 * x + c) * np.cos(0.2 * y) for c in range(3)], -1)
    truth[: height // 3] = 0.7
    prediction = np.clip(truth + 0.1 * rng.normal(size=truth.shape), 0, 1)
    return torch.from_numpy(prediction.astype(np.float32)), torch.from_numpy(truth.astype(np.float32))


def map_by_hand(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM of every pixel, window by window in float64, as the papers write it."""
    height, width, _ = x.shape
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window = (window / window.sum())[..., None]
    padded = [np.pad(np.asarray(a, np.float64), ((5, 5), (5, 5), (0, 0))) for a in (x, y)]
    out = np.empty(x.shape)
    for i in range(height):
        for j in range(width):
            a, b = (p[i : i + 11, j : j + 11] for p in padded)
            mu_a, mu_b = ((window * v).sum((0, 1)) for v in (a, b))
            var_a, var_b = ((window * v * v).sum((0, 1)) - m * m for v, m in ((a, mu_a), (b, mu_b)))
            covariance = (window * a * b).sum((0, 1)) - mu_a * mu_b
            luminance = (2 * mu_a * mu_b + 1e-4) / (mu_a**2 + mu_b**2 + 1e-4)
            out[i, j] = luminance * (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    return out


def value_and_gradient(function, prediction, target, *args) -> tuple[float, torch.Tensor]:
    leaf = prediction.clone().requires_grad_()
    loss = function(leaf, target, *args)
    loss.backward()
    return loss.item(), leaf.grad


def test_against_the_definition():
    """Kernel and twin give the mean of the map that is written down pixel by pixel."""
    prediction, truth = pictures(17, 9)
    expected = map_by_hand(prediction.numpy(), truth.numpy()).mean()
    assert 0.1 < expected < 0.9
    assert ssim(prediction, SsimTarget(truth)).item() == pytest.approx(expected, abs=2e-6)
    assert ssim_torch(prediction.double(), SsimTarget(truth.double())).item() == pytest.approx(expected, abs=1e-12)


def test_against_skimage():
    """Where no window reaches over the edge this is the number that papers report."""
    metrics = pytest.importorskip("skimage.metrics")
    prediction, truth = pictures(48, 40)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = metrics.structural_similarity(truth.numpy(), prediction.numpy(), channel_axis=2, **options)
    inside = torch.zeros(48, 40)
    inside[5:-5, 5:-5] = 1
    assert ssim(prediction, SsimTarget(truth), inside).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("factors", [(0.0, 1.0), (0.8, -0.2)])
def test_kernels_agree_with_the_twin(size, weighted, factors):
    """Value and gradient of SSIM, and of its mixture with L1, are float64's to rounding (in flat parts, where terms
    cancel, the twin in float32 is twice as far off)."""
    prediction, truth = pictures(*size)
    prediction.view(-1)[::7] = truth.view(-1)[::7]  # where L1 has no slope
    weight = torch.from_numpy(np.random.default_rng(1).uniform(0, 3, size).astype(np.float32)) if weighted else None
    ours, gradient = value_and_gradient(l1_and_ssim, prediction, SsimTarget(truth), *factors, weight)
    exact = None if weight is None else weight.double()
    twin, expected = value_and_gradient(
        l1_and_ssim_torch, prediction.double(), SsimTarget(truth.double()), *factors, exact
    )
    assert ours == pytest.approx(twin, abs=2e-6)
    assert (gradient - expected).abs().max() < 5e-5 * expected.abs().max()


def test_the_gradient_is_the_slope():
    """float64's gradient, which the kernels are compared with, against finite differences."""
    prediction, truth = (p.double() for p in pictures(7, 6))
    target, weight = SsimTarget(truth), torch.rand(7, 6, generator=torch.Generator().manual_seed(0)).double()
    leaf = prediction.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: l1_and_ssim(p, target, 0.8, -0.2, weight), leaf)


def test_statistics_of_the_truth():
    """The kernel's mean and variance of the truth are the twin's."""
    _, truth = pictures(40, 24)
    quick, exact = SsimTarget(truth), SsimTarget(truth.double())
    assert (quick.mean - exact.mean).abs().max() < 1e-6
    assert (quick.variance - exact.variance).abs().max() < 1e-6


@pytest.mark.parametrize("factors", [(0.0, 1.0), (0.8, -0.2)])
def test_any_number_of_threads_gives_the_same_bits(factors):
    """A row's sums do not depend on the band in which it was made."""
    prediction, truth = pictures(233, 50)
    weight = torch.linspace(0.5, 2, 233 * 50).view(233, 50)
    results = []
    try:
        for threads in (1, 2, 3, 5, 16):
            set_num_threads(threads)
            target = SsimTarget(truth)
            value, gradient = value_and_gradient(l1_and_ssim, prediction, target, *factors, weight)
            results.append((value, gradient, target.mean, target.variance))
    finally:
        set_num_threads(None)
    for other in results[1:]:
        assert other[0] == results[0][0]
        assert all(torch.equal(a, b) for a, b in zip(other[1:], results[0][1:]))


def test_equal_pictures():
    """1, and nothing to gain."""
    _, truth = pictures(40, 24)
    value, gradient = value_and_gradient(ssim, truth, SsimTarget(truth))
    assert value == pytest.approx(1, abs=1e-6)
    assert gradient.abs().max() < 1e-6  # noise of a tenth gives 6e-3


@pytest.mark.parametrize("level", [0.0, 1.0, 50.0, -3.0])
def test_flat_pictures_have_a_finite_gradient(level):
    """No variance, in the window or at the edge, and colours far outside [0, 1]: nothing divides by zero."""
    for truth in (torch.zeros(20, 20, 3), torch.ones(20, 20, 3)):
        value, gradient = value_and_gradient(ssim, torch.full((20, 20, 3), level), SsimTarget(truth))
        assert np.isfinite(value) and gradient.isfinite().all()


def test_weights_choose_pixels():
    """Weights that are 0 outside a box give the mean of the map inside it; only their ratios matter."""
    prediction, truth = pictures(20, 16)
    weight = torch.zeros(20, 16)
    weight[4:9, 2:13] = 7.0
    expected = map_by_hand(prediction.numpy(), truth.numpy())[4:9, 2:13].mean()
    assert ssim(prediction, SsimTarget(truth), weight).item() == pytest.approx(expected, abs=2e-6)
    assert ssim(prediction, SsimTarget(truth), weight / 100).item() == pytest.approx(expected, abs=2e-6)


def test_memory_belongs_to_its_graph():
    """Two forward passes before the backward ones, and a graph that is used twice: reused buffers mix nothing up."""
    (first, truth), (second, other) = pictures(40, 24), pictures(40, 24, seed=5)
    other = other.flip(1)
    expected = [value_and_gradient(ssim, p, SsimTarget(t))[1] for p, t in ((first, truth), (second, other))]
    a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
    loss_a, loss_b = ssim(a, SsimTarget(truth)), ssim(b, SsimTarget(other))
    (3 * loss_a).backward(retain_graph=True)
    loss_b.backward()
    torch.testing.assert_close(a.grad, 3 * expected[0])
    torch.testing.assert_close(b.grad, expected[1])
    loss_a.backward()
    torch.testing.assert_close(a.grad, 4 * expected[0])


def test_a_view_of_a_rendered_picture():
    """Three of four rendered channels are not contiguous; the gradient goes where they came from."""
    prediction, truth = pictures(20, 12)
    rendered = torch.cat([prediction, torch.ones(20, 12, 1)], -1).requires_grad_()
    ssim(rendered[..., :3], SsimTarget(truth)).backward()
    _, expected = value_and_gradient(ssim, prediction, SsimTarget(truth))
    assert torch.equal(rendered.grad[..., :3], expected) and not rendered.grad[..., 3].any()


def test_without_gradients():
    """The value is the same, and no graph is kept."""
    prediction, truth = pictures(40, 24)
    leaf = prediction.clone().requires_grad_()
    with torch.no_grad():
        value = ssim(leaf, SsimTarget(truth))
    assert not value.requires_grad and value.item() == ssim(leaf, SsimTarget(truth)).item()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(5, 4, 3), None), "prediction: expected the target's shape"),
        ((torch.zeros(4, 4, 3).double(), None), "prediction: expected torch.float32 on cpu"),
        ((torch.zeros(4, 4, 3), torch.ones(4, 5)), "weight: expected shape"),
        ((torch.zeros(4, 4, 3), torch.zeros(4, 4)), "weight: expected some weight above 0"),
        ((torch.zeros(4, 4, 3), torch.full((4, 4), torch.nan)), "weight: expected some weight above 0"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    """A wrong size, type or weight is told before the kernel reads beyond an array."""
    with pytest.raises(ValueError, match=message):
        ssim(arguments[0], SsimTarget(torch.zeros(4, 4, 3)), arguments[1])


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.zeros(3, 4, 4), "shape"),
        (torch.zeros(0, 4, 3), "shape"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "divide bytes by 255"),
    ],
)
def test_targets_are_checked(picture, message):
    """Planes first, nothing at all, or bytes."""
    with pytest.raises(ValueError, match=f"picture: expected .*{message}"):
        SsimTarget(picture)
