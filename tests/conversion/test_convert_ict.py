"""ICT-FaceKit as a head with joints: its own shapes where it has them, joints that turn what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from convert.errors import ConversionError
from convert.ict import _hinge, convert_ict, drawn_parts, rig_ict
from convert.ict_source import EXPRESSIONS, IDENTITIES, NEUTRAL, _read_obj, read_ict

from emotag_hf import ParametricHead

NPZ = "data/heads/ict_facekit_f16.npz"


@pytest.fixture(scope="module")
def source(test_data):
    return read_ict(test_data / NPZ)


@pytest.fixture(scope="module")
def head(ict_head) -> ParametricHead:
    return ParametricHead.from_asset(ict_head)


@pytest.mark.real_data
def test_the_jaw_is_icts(head, source):
    """At the angle of jawOpen the posed head is ICT's jawOpen to a tenth of a millimetre: skinning and corrective."""
    rigged = rig_ict(source)
    kept = drawn_parts(source)[2]
    opening = source.expression["jawOpen"][kept]
    teeth = (kept >= 17039) & (kept < 21451)
    angle, _ = _hinge(rigged.v_template, opening, teeth)
    posed = head(jaw_pose=torch.tensor([[angle, 0.0, 0.0]])).vertices[0].numpy() - head().vertices[0].numpy()
    assert 0.3 < angle < 0.6
    assert np.abs(posed - opening).max() < 2e-4


@pytest.mark.real_data
def test_expressions_and_lids_are_icts(head, source):
    """Every other shape is taken over under its name; blinks are the lids."""
    kept = drawn_parts(source)[2]
    assert set(head.expression_names) == set(source.expression) - {"jawOpen", "eyeBlink_L", "eyeBlink_R"}
    name = "mouthSmile_L"
    got = head.expression_basis[:, :, head.expression_names.index(name)].numpy()
    assert np.abs(got - source.expression[name][kept]).max() < 1e-5
    lids = head(eyelids=torch.tensor([[1.0, 0.0]])).vertices[0] - head().vertices[0]
    assert np.abs(lids.numpy() - source.expression["eyeBlink_L"][kept]).max() < 1e-5


@pytest.mark.real_data
def test_neck_and_eyes_turn(head):
    """The neck turns the skull and leaves the shoulders; each eye turns about its own middle and nothing else."""
    rest = head().vertices[0]
    turned = head(neck_pose=torch.tensor([[0.0, 0.3, 0.0]])).vertices[0]
    top, bottom = rest[:, 1].argmax(), rest[:, 1].argmin()
    nose = rest[:, 2].argmax()
    assert (turned - rest)[nose].norm() > 0.02 and (turned - rest)[bottom].norm() < 1e-3, (top, bottom)
    gaze = head(eyes_pose=torch.tensor([[0.0, 0.3, 0.0, 0.0, 0.0, 0.0]])).vertices[0]
    still = (gaze - rest).norm(dim=-1)
    left = head.region("left_eye")
    others = torch.ones(len(rest), dtype=torch.bool)
    others[left] = False
    assert still[left].max() > 0.002 and still[others].max() == 0
    middle = head().joints[0, 3]
    assert ((gaze[left] - middle).norm(dim=-1) - (rest[left] - middle).norm(dim=-1)).abs().max() < 1e-5


@pytest.mark.real_data
def test_identity_carries_the_joints(head):
    """A wider face has its eyes' joints farther apart, where its eyeballs are."""
    for k in (0, 5):
        shape = torch.zeros(1, head.num_shape)
        shape[0, k] = 2.0
        out = head(shape=shape)
        for joint, name in ((3, "left_eye"), (4, "right_eye")):
            ball = out.vertices[0, head.region(name)]
            away = (ball - out.joints[0, joint]).norm(dim=-1)
            assert away.max() < 0.016 and (out.joints[0, joint, 0] > 0) == (joint == 3)


@pytest.mark.real_data
def test_landmarks(head):
    """MediaPipe's points lie where the open head, which was fitted to ICT, has them: within half a millimetre."""
    own = ParametricHead.from_asset(None)
    for angle in (0.0, 0.3):
        jaw = torch.tensor([[angle, 0.0, 0.0]])
        away = head.landmarks(head(jaw_pose=jaw).vertices) - own.landmarks(own(jaw_pose=jaw).vertices)
        assert away.norm(dim=-1).mean() < 2e-4 and away.norm(dim=-1).max() < 1e-3


def test_a_folder_of_obj_files_is_checked_by_name(tmp_path):
    """A missing shape, or one that ICT-FaceKit has not, is said by name, before anything is read."""
    names = [NEUTRAL, *(f"identity{i:03d}" for i in range(IDENTITIES)), *EXPRESSIONS]
    for name in names:
        (tmp_path / f"{name}.obj").touch()
    (tmp_path / "jawOpen.obj").unlink()
    (tmp_path / "wink.obj").touch()
    with pytest.raises(ConversionError, match=r"missing keys \['jawOpen'\], unexpected keys \['wink'\]"):
        convert_ict(tmp_path, tmp_path / "out.safetensors")
    (tmp_path / "wink.obj").rename(tmp_path / "jawOpen.obj")
    with pytest.raises(ConversionError, match="of shape"):
        convert_ict(tmp_path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_obj_files(tmp_path):
    """Vertices, quads and triangles of an OBJ file, texture and normal indices beside them; nonsense is refused."""
    path = tmp_path / "a.obj"
    path.write_text("# ICT\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1 4/1\nf 1 2 4\n")
    vertices, polygons = _read_obj(path)
    assert vertices.shape == (4, 3) and polygons.tolist() == [[0, 1, 2, 3], [0, 1, 3, -1]]
    path.write_text("v 0 0 zero\n")
    with pytest.raises(ConversionError, match="a.obj cannot be read as an OBJ file"):
        _read_obj(path)


def test_bad_npz(tmp_path):
    """An npz of other arrays, one with a pickle in it, and no npz at all: one sentence each."""
    path = tmp_path / "ict.npz"
    np.savez(path, neutral=np.zeros((3, 3)))
    with pytest.raises(ConversionError, match="missing keys"):
        read_ict(path)
    keys = ("neutral", "identity", "expression", "expression_names")
    np.savez(path, **dict.fromkeys(keys, np.zeros(1)), faces=np.array([{}], object))
    with pytest.raises(ConversionError, match="cannot be read as an npz"):
        read_ict(path)
    path.write_bytes(b"PK not really")
    with pytest.raises(ConversionError, match="cannot be read as an npz"):
        read_ict(path)
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_ict(tmp_path / "nothing.npz")
