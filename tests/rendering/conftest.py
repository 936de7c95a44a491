"""Random scenes of Gaussians in front of portrait cameras, the same for every test of the renderer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from emotag_hf.rendering import Camera
from emotag_hf.rendering.numba_runtime import selected_kernels


def _scene(
    count: int = 300,
    size: tuple[int, int] = (70, 53),
    *,
    seed: int = 0,
    cameras: int = 1,
    channels: int = 3,
    sh_degree: int | None = None,
) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    opacities = torch.sigmoid(torch.randn(count, generator=generator) * 1.5 + 0.5)
    opacities[: count // 20] = 0.9999  # saturates the alpha clamp
    if sh_degree is None:
        colors = torch.rand(count, channels, generator=generator)
    else:
        colors = 0.4 * torch.randn(count, (sh_degree + 1) ** 2, 3, generator=generator)
    views = [
        Camera.portrait(size, yaw=0.4 * i - 0.2, pitch=0.1 * i, distance=2.0 + 0.3 * i, focal=1.2 * size[0])
        for i in range(cameras)
    ]
    return SimpleNamespace(
        means=torch.randn(count, 3, generator=generator) * torch.tensor([0.3, 0.3, 0.2]),
        quats=torch.randn(count, 4, generator=generator),
        scales=torch.exp(torch.randn(count, 3, generator=generator) * 0.5 - 3.3),
        opacities=opacities,
        colors=colors,
        viewmats=torch.stack([v.viewmat for v in views]),
        Ks=torch.stack([v.K for v in views]),
        width=size[0],
        height=size[1],
        backgrounds=torch.rand(cameras, colors.shape[-1], generator=generator),
        generator=generator,
    )


@pytest.fixture
def make_scene() -> Callable[..., SimpleNamespace]:
    """A function that makes a scene; its names are the arguments of `rasterize`."""
    return _scene


OWN = selected_kernels()
OTHER = "plain" if OWN == "vector" else "vector"  # compiling them takes as long as most tests together


@pytest.fixture(params=[OWN, pytest.param(OTHER, marks=pytest.mark.slow)])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the kernels that this processor gets, and under `make test-all` with the other ones as well:
    ordinary or explicit-vector."""
    monkeypatch.setenv("EMOTAG_RASTERIZER_KERNELS", request.param)
    return request.param
