"""The CUDA backend against the CPU backend: forward and backward. Skips where there is no GPU or no gsplat."""

from __future__ import annotations

import pytest
import torch

from emotag_hf.rendering import Camera, available_backends, rasterize
from emotag_hf.utils.import_utils import is_available

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(not is_available("gsplat"), reason="gsplat is not installed (extra 'gpu')"),
]

LEAVES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")


def _scene(sh_degree: int | None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    count, cameras = 5000, [Camera.portrait((203, 150), yaw=y, distance=2.0, focal=260.0) for y in (-0.2, 0.3)]
    colors = (
        torch.rand(count, 3, generator=generator)
        if sh_degree is None
        else 0.4 * torch.randn(count, (sh_degree + 1) ** 2, 3, generator=generator)
    )
    return {
        "means": torch.randn(count, 3, generator=generator) * torch.tensor([0.3, 0.3, 0.2]),
        "quats": torch.randn(count, 4, generator=generator),
        "scales": torch.exp(torch.randn(count, 3, generator=generator) * 0.5 - 4.0),
        "opacities": torch.sigmoid(torch.randn(count, generator=generator) * 1.5),
        "colors": colors,
        "viewmats": torch.stack([c.viewmat for c in cameras]),
        "backgrounds": torch.rand(2, 3, generator=generator),
        "Ks": torch.stack([c.K for c in cameras]),
    }


def _run(scene: dict[str, torch.Tensor], device: str, **options):
    tensors = {k: v.to(device).clone().requires_grad_(k in LEAVES) for k, v in scene.items()}
    colors, alphas, meta = rasterize(**tensors, width=203, height=150, **options)
    generator = torch.Generator().manual_seed(1)
    v_colors, v_alphas = (torch.randn(t.shape, generator=generator).to(device) for t in (colors, alphas))
    ((colors * v_colors).sum() + (alphas * v_alphas).sum()).backward()
    grads = {k: tensors[k].grad.cpu() for k in LEAVES if tensors[k].grad is not None}
    return colors.detach().cpu(), alphas.detach().cpu(), grads, meta


@pytest.mark.parametrize(
    "options",
    [
        {"render_mode": "RGB"},
        {"render_mode": "RGB+ED"},
        {"render_mode": "RGB+D", "rasterize_mode": "antialiased"},
        {"render_mode": "RGB", "sh_degree": 2},
        {"render_mode": "RGB", "absgrad": True},
    ],
    ids=str,
)
def test_cuda_and_cpu_agree(options: dict) -> None:
    """One avatar must look and train alike on both backends."""
    scene = _scene(options.get("sh_degree"))
    colors, alphas, grads, meta = _run(scene, "cuda", **options)
    assert meta["backend"] == "gsplat"
    alpha_max = 0.999 if _gsplat_before_1_6() else 0.99
    cpu_colors, cpu_alphas, cpu_grads, cpu_meta = _run(scene, "cpu", alpha_max=alpha_max, **options)
    for found, expected in ((colors, cpu_colors), (alphas, cpu_alphas)):
        error = (found - expected).abs()
        assert error.flatten()[:: max(1, error.numel() // 500_000)].quantile(0.999) < 2e-4
        assert error.max() < 2e-2
    assert grads.keys() == cpu_grads.keys()
    for name, expected in cpu_grads.items():
        assert (grads[name] - expected).norm() < 5e-3 * expected.norm(), name
    if options.get("absgrad"):
        found, expected = meta["means2d"].absgrad.cpu(), cpu_meta["means2d"].absgrad
        assert (found - expected).norm() < 5e-3 * expected.norm()


def _gsplat_before_1_6() -> bool:
    import gsplat

    return tuple(int(p) for p in gsplat.__version__.split(".")[:2]) < (1, 6)


def test_cuda_tensors_can_be_rendered_on_the_cpu() -> None:
    """backend="numba" with CUDA tensors returns CUDA tensors, and the gradients arrive there."""
    assert available_backends()[0] == "gsplat"
    scene = _scene(None)
    means = scene["means"].cuda().requires_grad_()
    rest = {k: v.cuda() for k, v in scene.items() if k != "means"}
    colors, _, _ = rasterize(means, **rest, width=203, height=150, backend="numba")
    assert colors.is_cuda
    colors.sum().backward()
    assert means.grad.is_cuda and means.grad.abs().sum() > 0
