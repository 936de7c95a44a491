"""gsplat's own torch code, which runs on a CPU, as the judge of our projection and spherical harmonics."""

from __future__ import annotations

import pytest
import torch

from emotag_hf.rendering import numba_backend
from emotag_hf.rendering.spherical_harmonics import spherical_harmonics_basis

oracle = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed (extra 'gpu')")


def test_projection_matches_gsplat(make_scene) -> None:
    """Same means2d, conics, depths and compensations as gsplat for everything that gsplat draws."""
    s = make_scene(500, cameras=2)
    covariances, _ = oracle._quat_scale_to_covar_preci(
        torch.nn.functional.normalize(s.quats, dim=-1), s.scales, compute_preci=False
    )
    radii, means2d, depths, conics, compensations = oracle._fully_fused_projection(
        s.means, covariances, s.viewmats, s.Ks, s.width, s.height, eps2d=0.3, calc_compensations=True
    )
    ours = numba_backend.project(
        s.means, s.quats, s.scales, s.opacities, s.viewmats, s.Ks, s.width, s.height, 0.3, 0.01, 1e10, True
    )
    drawn = (ours[4] > 0).all(-1)
    assert drawn.float().mean() > 0.5
    assert ((radii > 0).all(-1) | ~drawn).all()  # gsplat's torch code uses the wider, opacity-blind extent
    for found, expected in zip(ours[:4], (means2d, conics, depths, compensations)):
        difference = (found - expected)[drawn].norm() / expected[drawn].norm()
        assert difference < 1e-5


def test_spherical_harmonics_match_gsplat() -> None:
    """Signs and order of the basis: a checkpoint trained with gsplat must keep its colours."""
    directions = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    expected = oracle._eval_sh_bases_fast(9, directions)
    assert torch.allclose(spherical_harmonics_basis(2, directions), expected, atol=1e-6)
