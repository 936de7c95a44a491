"""The parametric head as a module: FLAME's formulation, gradients, batches, buffers and strict asset loading."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from emotag_hf.constants import EXPRESSION_NAMES
from emotag_hf.models.modeling_head import ASSET_PATH, PARENTS, HeadAsset, ParametricHead
from emotag_hf.utils.rotations import rotation_matrix


@pytest.fixture(scope="module")
def head() -> ParametricHead:
    return ParametricHead.from_asset(None)


def random_motion(head: ParametricHead, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)

    def normal(width: int, scale: float) -> torch.Tensor:
        return torch.randn(batch, width, generator=g) * scale

    return {
        "shape": normal(head.num_shape, 1.0),
        "expression": normal(50, 0.3),
        "jaw_pose": normal(3, 0.1),
        "eyelids": torch.rand(batch, 2, generator=g),
        "eyes_pose": normal(6, 0.2),
        "neck_pose": normal(3, 0.2),
        "rotation": normal(3, 0.3),
        "translation": normal(3, 0.1),
    }


def test_lbs_agrees_with_smplx(head):
    """Protects "FLAME's formulation exactly": the reference LBS gives the same vertices and joints to 1e-5 m."""
    lbs = pytest.importorskip("smplx.lbs", reason="smplx (extra [flame]) is not installed").lbs
    m = random_motion(head, 4)
    pose = torch.cat([m["rotation"], m["neck_pose"], m["jaw_pose"], m["eyes_pose"]], 1)
    betas = torch.cat([m["shape"], m["expression"]], 1)
    basis = torch.cat([head.shape_basis, head.expression_basis], 2)
    generator = torch.Generator().manual_seed(1)
    head = ParametricHead.from_asset(None)
    head.pose_basis.copy_(torch.randn(head.pose_basis.shape, generator=generator) * 1e-3)
    head.load_asset_(_with(head, pose_basis=head.pose_basis, pose_rows=torch.arange(36)))
    vertices, joints = lbs(
        betas, pose, head.v_template.expand(4, -1, -1), basis, head.pose_basis, head.joint_regressor,
        torch.tensor(PARENTS), head.lbs_weights,
    )  # fmt: skip
    m.pop("eyelids"), m.pop("translation")
    out = head(**m)
    assert (out.vertices - vertices).abs().max() < 1e-5
    assert (out.joints - joints).abs().max() < 1e-5


def _with(head: ParametricHead, **tensors: torch.Tensor) -> HeadAsset:
    asset = HeadAsset.load(None)
    return HeadAsset({**asset.tensors, **tensors}, asset.metadata, asset.sha256)


def test_batch_equals_single(head):
    """Protects batching: each row of a batch is what the row alone gives, and rows of one broadcast."""
    m = random_motion(head, 3)
    together = head(**m).vertices
    for i in range(3):
        alone = head(**{k: v[i : i + 1] for k, v in m.items()}).vertices
        assert (together[i] - alone[0]).abs().max() < 2e-6
    one_shape = head(**{**m, "shape": m["shape"][:1]}).vertices
    assert (one_shape[0] - together[0]).abs().max() < 2e-6 and one_shape.shape == together.shape


def test_none_is_zero(head):
    """Protects the defaults: leaving arguments out equals passing zeros."""
    zeros = {k: torch.zeros_like(v) for k, v in random_motion(head, 1).items()}
    assert torch.allclose(head().vertices, head(**zeros).vertices, atol=1e-7)
    assert torch.allclose(head().vertices[0], head.v_template, atol=1e-7)


def test_gradients_are_finite_at_the_zero_pose(head):
    """Protects training: Rodrigues must not give NaN gradients at zero rotation."""
    m = {k: torch.zeros_like(v).requires_grad_() for k, v in random_motion(head, 2).items()}
    head(**m).vertices.square().sum().backward()
    for name, value in m.items():
        assert torch.isfinite(value.grad).all() and value.grad.abs().sum() > 0, name


def test_gradients_match_finite_differences(head):
    """Protects the backward pass through skinning, correctives and lids."""
    m = {k: v.double() for k, v in random_motion(head, 1).items() if k in ("jaw_pose", "eyelids", "neck_pose")}
    rows = torch.arange(0, head.v_template.shape[0], 997)

    def at(jaw, lids, neck):
        return head(jaw_pose=jaw, eyelids=lids, neck_pose=neck).vertices[:, rows]

    inputs = tuple(m[k].requires_grad_() for k in ("jaw_pose", "eyelids", "neck_pose"))
    assert torch.autograd.gradcheck(at, inputs, atol=1e-7)


def test_rotation_matrix_is_a_rotation():
    """Protects the small-angle branch: orthonormal on both sides of it, and the known quarter turn."""
    axis = torch.tensor([[1e-9, 0, 0], [6e-4, 6e-4, 0], [2e-3, 0, 0], [0, 0, torch.pi / 2]], dtype=torch.float64)
    r = rotation_matrix(axis)
    assert torch.allclose(r @ r.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(4, 3, 3), atol=1e-9)
    assert torch.allclose(r[3] @ torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.tensor([0, 1.0, 0]).double())


def test_heads_stay_out_of_checkpoints(head):
    """Protects licences: no number of a head may be written into a model's state dict."""
    assert not head.state_dict()


def test_refill_after_meta(head):
    """Protects from_pretrained, which builds on the meta device and leaves non-persistent buffers empty."""
    with torch.device("meta"):
        other = ParametricHead(HeadAsset.load(None))
    other = other.to("meta")
    assert other.v_template.device.type == "meta"
    other.refill_()
    for name, buffer in head.named_buffers():
        assert torch.equal(dict(other.named_buffers())[name], buffer), name


def test_wrong_arguments_are_named(head):
    """Protects people: the message names the argument and both shapes."""
    with pytest.raises(ValueError, match=r"expression: expected a tensor of shape \[B, 50\], got \[1, 49\]"):
        head(expression=torch.zeros(1, 49))
    with pytest.raises(ValueError, match="eyelids: expected a batch of 1 or 2"):
        head(expression=torch.zeros(2, 50), eyelids=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="name: expected one of .*lips.*, got 'moustache'"):
        head.region("moustache")


def _parts() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(ASSET_PATH, framework="pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118


def _missing(tensors, metadata):
    tensors.pop("uv")


def _unexpected(tensors, metadata):
    tensors["extra"] = torch.zeros(1)


def _wrong_shape(tensors, metadata):
    tensors["lbs_weights"] = tensors["lbs_weights"][:-1].contiguous()


def _wrong_index(tensors, metadata):
    tensors["faces"][0, 0] = len(tensors["v_template"])


def _not_finite(tensors, metadata):
    tensors["v_template"][0, 0] = float("nan")


def _other_names(tensors, metadata):
    metadata["expression_names"] = json.dumps(list(reversed(EXPRESSION_NAMES)))


def _too_many_names(tensors, metadata):
    metadata["expression_names"] = json.dumps([f"own_{i}" for i in range(51)])


def _twice_the_same_name(tensors, metadata):
    metadata["expression_names"] = json.dumps(["own"] * 50)


def _no_metadata(tensors, metadata):
    metadata.pop("license")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_missing, r"missing keys \['uv'\]"),
        (_unexpected, r"unexpected keys \['extra'\]"),
        (_wrong_shape, "lbs_weights of shape"),
        (_wrong_index, "expected faces in 0"),
        (_not_finite, "finite numbers in v_template"),
        (_other_names, "in another order"),
        (_too_many_names, "expression_basis of shape"),
        (_twice_the_same_name, "list of different names"),
        (_no_metadata, "without .*license"),
    ],
)
def test_a_broken_asset_is_refused(tmp_path: Path, change, message):
    """Protects strict loading: a damaged or foreign asset gets one clear sentence, never half a head."""
    tensors, metadata = _parts()
    change(tensors, metadata)
    path = tmp_path / "head.safetensors"
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=message) as error:
        ParametricHead.from_asset(path)
    assert "\n" not in str(error.value)


def test_a_head_may_have_directions_of_its_own(tmp_path: Path):
    """A foreign head (FLAME, ICT-FaceKit) poses by its own directions; what speaks ours refuses it in one sentence."""
    tensors, metadata = _parts()
    tensors["expression_basis"] = tensors["expression_basis"][..., :7].contiguous()
    metadata["expression_names"] = json.dumps([f"own_{i}" for i in range(7)])
    save_file(tensors, tmp_path / "head.safetensors", metadata)
    head = ParametricHead.from_asset(tmp_path / "head.safetensors")
    assert head.num_expression == 7 and head.expression_names[0] == "own_0"
    assert head(expression=torch.ones(1, 7)).vertices.isfinite().all()
    with pytest.raises(ValueError, match=r"expression: expected a tensor of shape \[B, 7\], got \[1, 50\]"):
        head(expression=torch.ones(1, 50))
    with pytest.raises(ValueError, match="expected the 50 expression directions .* got 7 others"):
        head.check_expression_names()


def test_a_pickle_is_refused(tmp_path: Path):
    """Protects against code in files: a pickle under any name is not opened."""
    path = tmp_path / "head.safetensors"
    path.write_bytes(pickle.dumps({"v_template": [0.0]}))
    with pytest.raises(ValueError, match="expected a head asset in safetensors format"):
        ParametricHead.from_asset(path)
    with pytest.raises(ValueError, match="expected a head asset in safetensors format"):
        ParametricHead.from_asset(tmp_path / "absent.safetensors")


def test_asset_says_what_it_is(head):
    """Protects `emotag info`: licence, provenance and a hash of the loaded file are at hand."""
    assert head.license == "Apache-2.0" and len(head.sha256) == 64
    assert "ICT-FaceKit" in head.metadata["provenance"] and "metres" in head.metadata["units"]
    assert head.expression_names == EXPRESSION_NAMES and head.num_shape >= 60
    assert ASSET_PATH.stat().st_size <= 6_000_000
