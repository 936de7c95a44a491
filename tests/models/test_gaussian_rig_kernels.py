"""The compiled binding for training: the torch twin's values and gradients, on the embedded head and in rough cases."""

from __future__ import annotations

import pytest
import torch

from emotag_hf.models.configuration_emotag import EmoTaGGaussiansConfig
from emotag_hf.models.gaussian_rig_kernels import rig, rig_torch
from emotag_hf.models.modeling_gaussians import RiggedGaussians
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.rendering.numba_threads import get_num_threads, set_num_threads

COUNT, CODES = 3000, 5  # enough Gaussians for a second thread, and a last chunk that is not full
NAMES = ("means", "quats", "log_scales", "opacity_logits", "colors", "corrective_means", "corrective_colors", "code")


@pytest.fixture(scope="module")
def scene() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """The embedded head, uneven and turned, with random Gaussians: floats by name, faces, binding."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    head = ParametricHead.from_asset()
    with torch.no_grad():
        turned = {"rotation": torch.tensor([[0.2, -0.7, 0.1]]), "jaw_pose": torch.tensor([[0.3, 0.0, 0.0]])}
        vertices = head(shape=normal(1, head.num_shape), **turned).vertices[0]
    floats = {
        "vertices": vertices,
        "means": 0.5 * normal(COUNT, 3),
        "quats": normal(COUNT, 4),  # not of length one
        "log_scales": 0.5 * normal(COUNT, 3) - 1,
        "opacity_logits": 2 * normal(COUNT),
        "colors": 2 * normal(COUNT, 3),  # some below zero, where the clamp holds them
        "corrective_means": 0.1 * normal(COUNT, CODES, 3),
        "corrective_colors": 0.3 * normal(COUNT, CODES, 3),
        "code": normal(CODES),
    }
    binding = torch.randint(0, len(head.faces), (COUNT,), generator=generator)
    binding[:40] = binding[0]  # a crowded triangle, and many without a Gaussian
    return floats, head.faces, binding


def run(function, scene, *, without: tuple[str, ...] = (), frozen: tuple[str, ...] = (), dtype=torch.float32):
    """Results of `function` and the gradients of a random weighting of them, by name; None for what is left out."""
    floats, faces, binding = scene
    leaves = {k: v.to(dtype, copy=True).requires_grad_(k not in frozen) for k, v in floats.items() if k not in without}
    results = function(leaves["vertices"], faces, binding, *(leaves.get(name) for name in NAMES))
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(dtype) for x in results]
    torch.autograd.backward(results, weights)
    return [x.detach() for x in results], {name: leaf.grad for name, leaf in leaves.items()}


def worst(found: torch.Tensor, true: torch.Tensor) -> float:
    """Largest error as a fraction of the largest true number."""
    return float((found - true).abs().max() / true.abs().max())


CASES = {
    "everything": (),
    "no code": ("code",),
    "no correctives": ("corrective_means", "corrective_colors", "code"),
    "colours only": ("corrective_means",),
    "means only": ("corrective_colors",),
}


@pytest.mark.parametrize("without", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_the_twin(scene, without):
    """Each result to 1e-6 and each gradient, those of the vertices and of the code too, to 1e-5 of the float64 twin."""
    results, grads = run(rig, scene, without=without)
    true_results, true_grads = run(rig_torch, scene, without=without, dtype=torch.float64)
    for found, true in zip(results, true_results):
        assert found.dtype == torch.float32 and worst(found, true) < 1e-6
    assert (results[4] == 0).any() and (results[4] > 0).any()  # both sides of the clamp were tried
    torch.testing.assert_close(results[1].norm(dim=-1), torch.ones(COUNT))
    for name, true in true_grads.items():
        if true is None:  # correctives without a code
            assert grads[name] is None or not grads[name].any(), name
        else:
            assert worst(grads[name], true) < 1e-5, name


def test_an_empty_code_is_no_code(scene):
    """K = 0: correctives of no columns change nothing and break nothing."""
    floats, faces, binding = scene
    nothing = torch.zeros(COUNT, 0, 3)
    empty = {**floats, "corrective_means": nothing, "corrective_colors": nothing, "code": torch.zeros(0)}
    results, grads = run(rig, (empty, faces, binding))
    expected, _ = run(rig, scene, without=("corrective_means", "corrective_colors", "code"))
    assert all(torch.equal(a, b) for a, b in zip(results, expected))
    assert grads["corrective_means"].shape == (COUNT, 0, 3) and grads["code"].shape == (0,)


def test_what_is_frozen_gets_no_gradient(scene):
    """Training leaves head and code alone, tracking refinement the Gaussians: the rest keeps the same gradients."""
    _, all_grads = run(rig, scene)
    for frozen in (("vertices", "code"), NAMES[:-1], ("corrective_colors", "quats")):
        _, grads = run(rig, scene, frozen=frozen)
        for name, grad in grads.items():
            assert grad is None if name in frozen else torch.equal(grad, all_grads[name]), name


def test_degenerate_triangles_stay_finite(scene):
    """A point, a line, an edge of no length and a Gaussian without a rotation: finite numbers and gradients."""
    floats, faces, binding = scene
    vertices, faces = floats["vertices"].clone(), faces.clone()
    line = torch.tensor([[0.0, 0, 0], [-0.01, 0, 0], [-0.03, 0, 0]])
    faces[0] = faces[0, 0]  # a point
    vertices[faces[1]] = line
    faces[2, 1] = faces[2, 0]  # no edge, so no first axis
    faces[3, 2] = faces[3, 1]  # an edge, no height
    binding = binding.clone()
    binding[:COUNT] = torch.arange(COUNT) % 8
    quats = floats["quats"].clone()
    quats[:9] = 0
    results, grads = run(rig, ({**floats, "vertices": vertices, "quats": quats}, faces, binding))
    for number, x in enumerate((*results, *grads.values())):
        assert torch.isfinite(x).all(), number
    assert (results[1].norm(dim=-1)[9:] - 1).abs().max() < 1e-5
    assert grads["vertices"][faces[2, 0]].any()  # still pulled along by its centroid


def test_bits_do_not_depend_on_the_number_of_threads(scene):
    """Sums over Gaussians (code, vertices) have one order, whoever adds them up."""
    before = get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 7):
            set_num_threads(threads)
            results, grads = run(rig, scene)
            found.append([*results, *grads.values()])
    finally:
        set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_it_is_the_model_s_own_pose(scene):
    """`RiggedGaussians.pose` with the same parameters and code gives the same picture's worth of Gaussians."""
    floats, faces, binding = scene
    model = RiggedGaussians(EmoTaGGaussiansConfig(num_gaussians=COUNT, num_correctives=CODES))
    with torch.no_grad():
        for name in NAMES[:-1]:
            getattr(model, name).copy_(floats[name].view(getattr(model, name).shape))
        model.binding.copy_(binding)
    posed = model.pose(floats["vertices"][None], faces, correctives=floats["code"][None])
    colors = model.colors.squeeze(1)
    fused = rig(
        floats["vertices"], faces, model.binding, model.means, model.quats, model.log_scales, model.opacity_logits,
        colors, model.corrective_means, model.corrective_colors, floats["code"],
    )  # fmt: skip
    for found, name in zip(fused, ("means", "quats", "scales", "opacities", "colors")):
        torch.testing.assert_close(found, getattr(posed, name).reshape(found.shape), atol=1e-5, rtol=1e-5)


def test_other_types_take_the_twin(scene):
    """float64 stays float64: nothing is rounded behind the caller's back."""
    results, _ = run(rig, scene, dtype=torch.float64)
    expected, _ = run(rig_torch, scene, dtype=torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


def test_strided_arguments_and_gradients(scene):
    """Views with gaps in memory give the same numbers: the kernels see packed copies."""
    floats, faces, binding = scene
    spread = {k: torch.stack([v, v + 1], -1)[..., 0] for k, v in floats.items()}
    assert not spread["means"].is_contiguous()
    results = rig(spread["vertices"], faces, binding, *(spread[name] for name in NAMES))
    expected = rig(floats["vertices"], faces, binding, *(floats[name] for name in NAMES))
    assert all(torch.equal(a, b) for a, b in zip(results, expected))
    means = floats["means"].clone().requires_grad_()
    rest = [floats[name] for name in NAMES[1:]]
    rig(floats["vertices"], faces, binding, means, *rest)[0].sum().backward()  # its gradient is one number, expanded
    assert torch.isfinite(means.grad).all() and means.grad.any()


def test_bad_arguments_are_named(scene):
    """Errors name the argument, what was expected and what came; an index is never read unseen."""
    floats, faces, binding = scene
    given = [floats[name] for name in NAMES]
    with pytest.raises(ValueError, match=r"quats: expected shape \(3000, 4\), got \(3000, 3\)"):
        rig(floats["vertices"], faces, binding, given[0], given[0], *given[2:])
    with pytest.raises(ValueError, match=r"corrective_means: expected shape \(3000, 2, 3\), got \(3000, 5, 3\)"):
        rig(floats["vertices"], faces, binding, *given[:-1], torch.zeros(2))
    with pytest.raises(ValueError, match=f"binding: expected values in 0..{len(faces) - 1}, got "):
        rig(floats["vertices"], faces, binding + len(faces), *given)
    with pytest.raises(ValueError, match="faces: expected values in 0..99, got 0"):
        rig(floats["vertices"][:100], faces, binding, *given)
    with pytest.raises(ValueError, match="binding: expected int64, got torch.int32"):
        rig(floats["vertices"], faces, binding.int(), *given)
