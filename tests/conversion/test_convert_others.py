"""GaussianAvatars, EmoTaG checkpoints and GNM: files of their format made here, numbers taken over or left by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from convert.emotag_checkpoint import CARRIED, LEFT, convert_emotag_checkpoint
from convert.errors import ConversionError
from convert.gaussian_avatars import convert_gaussian_avatars
from convert.gnm import REQUIRED, convert_gnm
from flame_standin import VERTICES, flame_arrays

from emotag_hf import EmoTaGModel, EmoTaGPipeline, FlameMotion, ParametricHead
from emotag_hf.rendering.spherical_harmonics import SH_C0

# --- GaussianAvatars --------------------------------------------------------------------------------------------------


def splats(count: int, degree: int, faces: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(3 * ((degree + 1) ** 2 - 1))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)), "binding_0"]
    table = {name: rng.normal(size=count).astype(np.float32) for name in names}
    table["binding_0"] = rng.integers(0, faces, count).astype(np.float32)
    return table


def write_ply(path: Path, table: dict[str, np.ndarray]) -> Path:
    count = len(next(iter(table.values())))
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in table] + ["end_header", ""]
    path.write_bytes("\n".join(header).encode() + np.stack(list(table.values()), 1).astype("<f4").tobytes())
    return path


def write_params(path: Path, frames: int = 2, **changed) -> Path:
    rng = np.random.default_rng(1)
    arrays = {
        "shape": rng.normal(size=300).astype(np.float32),
        "expr": np.zeros((frames, 100), np.float32),
        "static_offset": 0.001 * rng.normal(size=(1, VERTICES + 120, 3)).astype(np.float32),
        **{name: np.zeros((frames, 3), np.float32) for name in ("rotation", "neck_pose", "jaw_pose", "translation")},
        "eyes_pose": np.zeros((frames, 6), np.float32),
    }
    np.savez(path, **(arrays | changed))
    return path


@pytest.mark.parametrize("degree", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_gaussian_avatars(flame_head, tmp_path, degree):
    """Gaussians lie where GaussianAvatars' rule puts them on the person's FLAME, with their colours, and the model
    speaks; those on teeth that FLAME has not are counted and left out."""
    faces = len(flame_arrays()[0]["f"])
    table = splats(300, degree, faces)
    table["binding_0"][-7:] = 9976 + 3
    ply, params = write_ply(tmp_path / "point_cloud.ply", table), write_params(tmp_path / "flame_param.npz")
    report = convert_gaussian_avatars(ply, params, flame_head, tmp_path / "her", base_model="emotag-base-open")
    assert (report.kept, report.dropped_teeth, report.degree) == (293, 7, degree)

    model = EmoTaGModel.from_pretrained(tmp_path / "her")
    motion = FlameMotion.zeros(1)
    motion.rotation[:] = torch.tensor([0.1, -0.4, 0.05])
    motion.neck_pose[:] = torch.tensor([0.1, 0.1, 0.0])
    with torch.no_grad():
        posed = model.pose(motion)
        posed.colors, posed.opacities = posed.colors.detach(), posed.opacities.detach()

    person = np.load(params)
    flame = ParametricHead.from_asset(flame_head)
    native = dict(flame._asset.tensors)
    native["v_template"] = native["v_template"].clone()
    native["v_template"][:VERTICES] += torch.from_numpy(person["static_offset"][0, :VERTICES])
    native = ParametricHead(type(flame._asset)(native, flame.metadata, ""))
    vertices = native(
        shape=torch.from_numpy(person["shape"])[None], rotation=motion.rotation, neck_pose=motion.neck_pose
    ).vertices[0].numpy()  # fmt: skip
    corners = vertices[flame_arrays()[0]["f"][table["binding_0"][:293].astype(int)]].astype(np.float64)
    # the rule as published: first edge, normal, their cross product; the mean of edge and height; the centroid
    edge, side = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)  # noqa: E731
    first, normal = unit(edge), unit(np.cross(edge, side))
    third = -unit(np.cross(normal, first))
    size = (np.linalg.norm(edge, axis=1) + np.abs((third * side).sum(1))) / 2
    local = np.stack([table[n][:293] for n in "xyz"], 1)
    world = np.einsum("nij,nj->ni", np.stack([first, normal, third], 2), local) * size[:, None] + corners.mean(1)
    assert np.abs(posed.means[0].numpy() - world).max() < 2e-5
    scales = np.exp(np.stack([table[f"scale_{i}"][:293] for i in range(3)], 1)) * size[:, None]
    assert np.allclose(posed.scales[0].numpy(), scales, rtol=1e-3)
    assert np.allclose(posed.opacities.numpy(), 1 / (1 + np.exp(-table["opacity"][:293])), atol=1e-5)
    dc = np.stack([table[f"f_dc_{i}"][:293] for i in range(3)], 1)
    if degree:
        assert np.allclose(posed.colors[:, 0].numpy(), dc) and posed.colors.shape[1] == 9  # 15 bands were cut to 8
        green = np.stack([table[f"f_rest_{15 + i}"][:293] for i in range(8)], 1)
        assert np.allclose(posed.colors[:, 1:, 1].numpy(), green)
    else:
        assert np.allclose(posed.colors.numpy(), np.maximum(dc * SH_C0 + 0.5, 0), atol=1e-5)


@pytest.mark.slow
def test_a_gaussian_avatar_speaks(flame_head, tmp_path):
    """The model folder is whole: the pipeline loads it and draws frames; no number of FLAME lies in it."""
    table = splats(200, 0, len(flame_arrays()[0]["f"]))
    ply, params = write_ply(tmp_path / "p.ply", table), write_params(tmp_path / "f.npz")
    convert_gaussian_avatars(ply, params, flame_head, tmp_path / "her", base_model="emotag-base-open")
    pipe = EmoTaGPipeline.from_pretrained(tmp_path / "her")
    result = pipe(np.sin(np.arange(8000) / 20).astype(np.float32), sampling_rate=16000, size=64)
    assert len(result.frames) > 5 and np.isfinite(np.asarray(result.frames[3])).all()
    assert not [name for name in pipe.model.state_dict() if name.startswith("head")]
    assert (tmp_path / "her_head.safetensors").is_file() and not list((tmp_path / "her").glob("*head*"))


def test_bad_gaussian_avatars(flame_head, tmp_path):
    """Other properties, a cut file, an ASCII file, odd bindings, other parameters: one sentence, nothing written."""
    good = splats(20, 0, 100)
    params = write_params(tmp_path / "f.npz")
    cases = {
        "missing keys \\['opacity'\\]": {k: v for k, v in good.items() if k != "opacity"},
        "unexpected keys \\['normal_offset'\\]": {**good, "normal_offset": good["x"]},
        "expected 0, 9, 24 or 45 f_rest": {**good, "f_rest_0": good["x"]},
        "whole numbers from 0 as binding_0": {**good, "binding_0": good["binding_0"] + 0.5},
        "finite numbers": {**good, "x": np.full_like(good["x"], np.nan)},
    }
    before = sorted(tmp_path.iterdir())
    for pattern, table in cases.items():
        ply = write_ply(tmp_path / "p.ply", table)
        with pytest.raises(ConversionError, match=pattern):
            convert_gaussian_avatars(ply, params, flame_head, tmp_path / "her", base_model="emotag-base-open")
        ply.unlink()
        assert sorted(tmp_path.iterdir()) == before, pattern
    whole = write_ply(tmp_path / "p.ply", good).read_bytes()
    for pattern, content in {
        "points of 18 numbers": whole[:-5],
        "does not begin as a PLY": b"plx" + whole[3:],
        "binary_little_endian": whole.replace(b"binary_little_endian", b"ascii"),
        "one element, vertex": whole.replace(b"element vertex 20", b"element face 20"),
        "float properties": whole.replace(b"property float nx", b"property list nx"),
    }.items():
        (tmp_path / "p.ply").write_bytes(content)
        with pytest.raises(ConversionError, match=pattern):
            convert_gaussian_avatars(tmp_path / "p.ply", params, flame_head, tmp_path / "her")
    write_ply(tmp_path / "p.ply", good)
    for pattern, changed in {
        "300 numbers of shape": {"shape": np.zeros(100)},
        "unexpected keys \\['verts'\\]": {"verts": np.zeros(3)},
        "cannot be read as an npz": {"shape": np.array([{}], object)},
    }.items():
        write_params(tmp_path / "f.npz", **changed)
        with pytest.raises(ConversionError, match=pattern):
            convert_gaussian_avatars(tmp_path / "p.ply", tmp_path / "f.npz", flame_head, tmp_path / "her")
    write_params(tmp_path / "f.npz")
    with pytest.raises(ConversionError, match="expected the head asset that `convert flame` made"):
        convert_gaussian_avatars(tmp_path / "p.ply", tmp_path / "f.npz", None, tmp_path / "her")


# --- EmoTaG checkpoints -----------------------------------------------------------------------------------------------


class TheirAudioNet(torch.nn.Module):
    """The paper's Audio Net under the names of the released code, built of torch's own parts (METHOD 3)."""

    def __init__(self):
        super().__init__()
        self.audio_proj = torch.nn.Linear(768, 256)
        layer = torch.nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
        self.audio_transformer = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        at = torch.arange(1024)[:, None] * torch.exp(torch.arange(0, 256, 2) * (-np.log(10000.0) / 256))
        self.pe = torch.stack([at.sin(), at.cos()], -1).flatten(1)[None].float()

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.audio_transformer(self.audio_proj(windows) + self.pe[:, : windows.shape[1]]).mean(1)


def checkpoint() -> tuple[TheirAudioNet, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    net = TheirAudioNet().eval()
    state = {**net.state_dict(), "pos_encoder.pe": net.pe}
    shapes = {name: shape or (3, 2) for name, (shape, _) in LEFT.items()}
    return net, state | {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("wrap", ["alone", "tuple", "dict"])
def test_an_emotag_checkpoint(tmp_path, wrap):
    """The Audio Net comes over to the digit: the same windows give the same feature; all else is listed by name."""
    net, state = checkpoint()
    content = {"alone": state, "tuple": ((torch.zeros(3),), state, {"lr": 0.1}, 7), "dict": {"motion_net": state}}[wrap]
    torch.save(content, tmp_path / "chkpnt.pth")
    report = convert_emotag_checkpoint(tmp_path / "chkpnt.pth", tmp_path / "model")
    assert set(report["carried_over"]) == set(CARRIED) and set(report["left_behind"]) == set(LEFT)
    assert set(report["carried_over"]) | set(report["left_behind"]) == set(state)
    assert json.loads((tmp_path / "model" / "carried_over.json").read_text()) == report
    model = EmoTaGModel.from_pretrained(tmp_path / "model").eval()
    tokens = torch.randn(1, 60, 768)
    with torch.no_grad():
        ours = model.motion.audio_net(tokens)
    padded = torch.nn.functional.pad(tokens[0], (0, 0, 16, 16))
    for frame in (5, 12, 20):  # frames whose 16 tokens all lie inside
        with torch.no_grad():
            theirs = net(padded[None, 16 + 2 * frame - 9 : 16 + 2 * frame + 7])  # one token earlier than theirs
        assert (ours[:, frame] - theirs).abs().max() < 1e-5


def test_bad_checkpoints(tmp_path):
    """Code in a checkpoint is not run; other tensors, shapes and files are named; nothing is written."""

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'was_run'}",)

    _, state = checkpoint()
    cases = {
        "can be read without running it": {"motion_net": Hostile()},
        "no motion network": {"weights": torch.zeros(3)},
        "missing keys \\['audio_proj.bias'\\]": {k: v for k, v in state.items() if k != "audio_proj.bias"},
        "unexpected keys \\['wav2lip'\\]": {**state, "wav2lip": torch.zeros(3)},
        "flame_exp_head.weight of shape \\[50, 256\\]": {**state, "flame_exp_head.weight": torch.zeros(100, 256)},
        "finite numbers in audio_proj.bias": {**state, "audio_proj.bias": torch.full((256,), torch.nan)},
    }
    for pattern, content in cases.items():
        torch.save(content, tmp_path / "chkpnt.pth")
        with pytest.raises(ConversionError, match=pattern) as error:
            convert_emotag_checkpoint(tmp_path / "chkpnt.pth", tmp_path / "model")
        assert "\n" not in str(error.value)
    for content in (b"", b"junk"):
        (tmp_path / "chkpnt.pth").write_bytes(content)
        with pytest.raises(ConversionError, match="can be read without running it"):
            convert_emotag_checkpoint(tmp_path / "chkpnt.pth", tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["chkpnt.pth"]


# --- GNM --------------------------------------------------------------------------------------------------------------


def write_gnm(path: Path, **changed) -> Path:
    """A file of GNM's published names, cut from the open head; its real numbers are not to be had here."""
    head = ParametricHead.from_asset(None)
    points, count = head.v_template.numpy(), len(head.v_template)
    weights = head.lbs_weights.numpy().astype(np.float64)
    four = np.stack([weights[:, 0], weights[:, 1] + weights[:, 2], weights[:, 3], weights[:, 4]], 1)
    regressor = head.joint_regressor.numpy()[[0, 1, 3, 4]]
    groups = {
        n: head.region_masks[head.region_names.index(n)].numpy() for n in ("teeth_upper", "teeth_lower", "tongue")
    }
    data = dict.fromkeys(REQUIRED, np.zeros(1)) | {
        "version": "3.0", "variant": "head", "template_vertex_positions": points,
        "vertex_identity_basis": head.shape_basis.numpy().transpose(2, 0, 1),
        "expression_basis": head.expression_basis.numpy().transpose(2, 0, 1),
        "identity_names": np.array([f"head_{i}" for i in range(60)]), "triangles": head.faces.numpy(),
        "joint_names": np.array(["neck", "head", "left_eye", "right_eye"]),
        "expression_names": np.array([f"lower_face_region_{i}" for i in range(50)]),
        "joint_parent_indices": np.array([-1, 0, 1, 1]), "skinning_weights": four, "joint_regressor": regressor,
        "pose_correctives_regressor": np.zeros((36, 3 * count)),
        "vertex_groups": np.stack(list(groups.values())).astype(np.float32),
        "vertex_group_names": np.array(["upper_teeth", "lower_teeth", "tongue"]),
    }  # fmt: skip
    np.savez(path, **(data | changed))
    return path


@pytest.mark.slow
def test_gnm(tmp_path):
    """GNM's names become a head with a jaw: lower teeth turn with it, upper ones stay, lips part."""
    head = convert_gnm(write_gnm(tmp_path / "gnm_head.npz"), tmp_path / "gnm.safetensors")
    assert head.num_expression == 50 and head.num_shape == 60 and "untried" in head.metadata["provenance"]
    moved = (head(jaw_pose=torch.tensor([[0.3, 0.0, 0.0]])).vertices - head().vertices)[0].norm(dim=-1)
    assert moved[head.region("teeth_lower")].min() > 0.01 and moved[head.region("teeth_upper")].max() < 1e-6
    own = ParametricHead.from_asset(None)
    assert (head().joints[0] - own().joints[0]).norm(dim=-1).max() < 0.003
    with pytest.raises(ConversionError, match="unexpected keys \\['hair'\\]"):
        convert_gnm(write_gnm(tmp_path / "gnm_head.npz", hair=np.zeros(3)), tmp_path / "other.safetensors")
    with pytest.raises(ConversionError, match="joint_regressor of shape"):
        convert_gnm(write_gnm(tmp_path / "g.npz", joint_regressor=np.zeros((4, 5))), tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()


def test_usage(convert_main, capsys):
    """The usage text names every command and what is out of scope; wrong usage is exit code 2."""
    with pytest.raises(SystemExit) as done:
        convert_main(["--help"])
    said = capsys.readouterr().out
    assert done.value.code == 0 and "Basel Face Model are out of scope" in said and "emotag prepare" in said
    for command in ("flame", "ict", "gnm", "retarget", "compare", "gaussian-avatars", "emotag-checkpoint"):
        assert f"convert {command} " in said
    with pytest.raises(SystemExit) as wrong:
        convert_main(["flame", "x.pkl"])
    assert wrong.value.code == 2
    assert convert_main(["ict", "nowhere", "-o", "x.safetensors"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("convert: ict: expected ICT-FaceKit")
