"""What `rasterize` refuses: each bad argument by its name."""

from __future__ import annotations

import pytest
import torch

from emotag_hf.rendering import available_backends, rasterize
from emotag_hf.rendering.gsplat_backend import alpha_clamp

ARGUMENTS = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height")


def _call(scene, **changes):
    arguments = {name: getattr(scene, name) for name in ARGUMENTS}
    arguments.update(changes)
    return rasterize(**arguments)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("means", torch.zeros(300, 2)),
        ("means", torch.zeros(300, 3, dtype=torch.int64)),
        ("means", torch.zeros(300, 3, dtype=torch.float16)),
        ("means", "means"),
        ("quats", torch.zeros(300, 3)),
        ("quats", torch.zeros(300, 4, dtype=torch.float64)),
        ("scales", torch.zeros(299, 3)),
        ("opacities", torch.zeros(300, 1)),
        ("colors", torch.zeros(299, 3)),
        ("colors", torch.zeros(300, 4, 3)),
        ("colors", torch.zeros(300, 0)),
        ("viewmats", torch.eye(4)),
        ("viewmats", torch.zeros(0, 4, 4)),
        ("Ks", torch.zeros(2, 3, 3)),
        ("width", 0),
        ("height", 12.0),
        ("width", 10**6),
        ("near_plane", 0.0),
        ("eps2d", -1.0),
        ("alpha_max", 1.0),
        ("sh_degree", -1),
        ("backgrounds", torch.zeros(1, 4)),
        ("render_mode", "rgb"),
        ("rasterize_mode", "fast"),
        ("backend", "cuda"),
    ],
)
def test_bad_arguments_are_named(make_scene, argument: str, value: object) -> None:
    """A wrong shape or type must be one clear sentence, never a crash or garbage from a kernel."""
    with pytest.raises(ValueError, match=argument):
        _call(make_scene(), **{argument: value})


def test_spherical_harmonics_need_enough_coefficients(make_scene) -> None:
    """Three coefficients are too few for degree 1."""
    with pytest.raises(ValueError, match="colors.*K >= 4"):
        _call(make_scene(), colors=torch.zeros(300, 3, 3), sh_degree=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("packed", True), ("camera_model", "fisheye"), ("radial_coeffs", None), ("distributed", True), ("with_ut", True)],
)
def test_options_of_gsplat_that_we_lack_are_named(make_scene, name: str, value: object) -> None:
    """Code written for gsplat must learn which of its options this package does not have."""
    with pytest.raises(NotImplementedError, match=name):
        _call(make_scene(), **{name: value})


def test_degree_three_is_named(make_scene) -> None:
    """Checkpoints of degree 3 exist; they must not render with silently dropped bands."""
    with pytest.raises(NotImplementedError, match="sh_degree=3"):
        _call(make_scene(), colors=torch.zeros(300, 16, 3), sh_degree=3)


def test_absgrad_limits_are_named(make_scene) -> None:
    """Absolute gradients over several groups of channels would be wrong, so they are refused."""
    with pytest.raises(NotImplementedError, match="absgrad"):
        _call(make_scene(channels=5), absgrad=True)
    with pytest.raises(NotImplementedError, match="absgrad"):
        _call(make_scene(20, (8, 8)), absgrad=True, backend="torch")


def test_gsplat_backend_refuses_cpu_tensors(make_scene) -> None:
    """gsplat is CUDA only and would fail with a message about its own build."""
    with pytest.raises(ValueError, match="CUDA"):
        _call(make_scene(), backend="gsplat")


def test_environment_variable_is_checked(make_scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error in EMOTAG_RASTERIZER_KERNELS must not pass as 'auto'."""
    monkeypatch.setenv("EMOTAG_RASTERIZER_KERNELS", "vectors")
    with pytest.raises(ValueError, match="EMOTAG_RASTERIZER_KERNELS"):
        _call(make_scene())


def test_backends_and_versions() -> None:
    """The numba backend is always there; gsplat's alpha clamp follows its version."""
    assert "numba" in available_backends() and "torch" in available_backends()
    assert [alpha_clamp(v) for v in ("1.5.3", "1.6.0", "2.0")] == [0.999, 0.99, 0.99]


def test_other_memory_layouts_are_taken(make_scene) -> None:
    """Transposed and strided tensors give the same picture as contiguous ones."""
    scene = make_scene()
    expected, _, _ = _call(scene)
    strided = torch.stack([scene.means, scene.means], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    found, _, _ = _call(scene, means=strided, quats=scene.quats.T.contiguous().T)
    assert torch.equal(found, expected)
