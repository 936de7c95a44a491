"""The user's own FLAME: read without running it, the same numbers as smplx makes of it, with a mouth and landmarks."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from convert.errors import ConversionError
from convert.flame import EXPRESSION_NAMES, convert_flame
from convert.flame_pickle import read_flame
from convert.register import Skin, register
from flame_standin import ORIGIN, SCALE, VERTICES, chumpy, flame_arrays, write_flame
from scipy import sparse

from emotag_hf import EmoTaGConfig, EmoTaGModel, ParametricHead


@pytest.fixture(scope="module")
def head(flame_head) -> ParametricHead:
    return ParametricHead.from_asset(flame_head)


def random_poses(batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    normal = lambda width, scale: torch.randn(batch, width, generator=g) * scale  # noqa: E731
    return {
        "shape": normal(300, 1.0), "expression": normal(100, 1.0), "jaw_pose": normal(3, 0.2),
        "neck_pose": normal(3, 0.3), "eyes_pose": normal(6, 0.3), "rotation": normal(3, 0.5),
        "translation": normal(3, 0.3),
    }  # fmt: skip


@pytest.mark.slow
def test_the_same_vertices_as_smplx(head, flame_file):
    """Protects the promise of item 6: smplx.FLAME on the same file gives the same vertices and joints to 1e-5 m."""
    smplx = pytest.importorskip("smplx", reason="smplx (extra [flame]) is not installed")
    embedding = flame_file.with_name("flame_static_embedding.pkl")
    embedding.write_bytes(pickle.dumps({"lmk_face_idx": np.zeros(51, int), "lmk_b_coords": np.full((51, 3), 1 / 3)}))
    with chumpy():
        oracle = smplx.FLAME(
            str(flame_file.parent), num_betas=300, num_expression_coeffs=100, use_face_contour=False, batch_size=6
        )
    poses = random_poses(6)
    theirs = oracle(
        betas=poses["shape"], expression=poses["expression"], global_orient=poses["rotation"],
        neck_pose=poses["neck_pose"], jaw_pose=poses["jaw_pose"], leye_pose=poses["eyes_pose"][:, :3],
        reye_pose=poses["eyes_pose"][:, 3:], transl=poses["translation"],
    )  # fmt: skip
    out = head(**poses)
    assert (out.vertices[:, :VERTICES] - theirs.vertices).abs().max() < 1e-5
    assert (out.joints - theirs.joints[:, :5]).abs().max() < 1e-5
    for name in ("jaw_pose", "neck_pose", "eyes_pose"):  # and each of them really moves something
        still = head(**{**poses, name: torch.zeros_like(poses[name])}).vertices
        assert (still - out.vertices).abs().max() > 1e-3, name


def test_faces_and_names_stay(head):
    """Gaussians are bound to FLAME's faces by number: ours come after them, never between."""
    arrays, _, _ = flame_arrays()
    assert np.array_equal(head.faces[: len(arrays["f"])].numpy(), arrays["f"])
    assert head.expression_names == EXPRESSION_NAMES and head.num_shape == 300


def test_landmarks_lie_where_the_open_head_has_them(head):
    """The stand-in is cut from the open head, so every landmark's true place is known, with the mouth open too."""
    own = ParametricHead.from_asset(None)
    for angle in (0.0, 0.3):
        jaw = torch.tensor([[angle, 0.0, 0.0]])
        got = head.landmarks(head(jaw_pose=jaw).vertices)[0]
        true = SCALE * own.landmarks(own(jaw_pose=jaw).vertices)[0] + torch.from_numpy(ORIGIN).float()
        away = (got - true).norm(dim=-1) * 1000
        assert away.mean() < 0.3 and away.max() < 3.0, (angle, away.mean(), away.max())


def test_the_mouth_is_there_and_moves_with_the_jaw(head):
    """FLAME has no teeth: ours lie behind its lips, upper ones with the skull, lower ones with the jaw."""
    rest, wide = head().vertices[0], head(jaw_pose=torch.tensor([[0.3, 0.0, 0.0]])).vertices[0]
    moved = (wide - rest).norm(dim=-1)
    upper, lower, lips = (head.region(name) for name in ("teeth_upper", "teeth_lower", "lips"))
    assert moved[upper].max() < 1e-6 and moved[lower].min() > 0.005
    assert rest[upper, 2].max() < rest[lips, 2].max() and len(head.region("tongue")) > 50
    assert (rest[upper].mean(0) - rest[lips].mean(0)).norm() < 0.03
    born = head(shape=2 * torch.eye(300)[:1]).vertices[0]  # another identity's teeth stay behind its lips
    gap = lambda v: v[upper].mean(0) - v[lips].mean(0)  # noqa: E731
    assert (gap(born) - gap(rest)).norm() < 0.002


def test_lids_close(head):
    """FLAME has no lid parameter: the open head's, looked up on FLAME's skin, nearly shut the eyes."""
    points = lambda lids: head.landmarks(head(eyelids=lids).vertices)[0]  # noqa: E731
    opened, shut = points(torch.zeros(1, 2)), points(torch.ones(1, 2))
    for upper, lower in ((386, 374), (159, 145)):  # MediaPipe's middle of the left and the right lids
        gap = lambda p, u=upper, d=lower: (p[u] - p[d]).norm()  # noqa: E731
        assert gap(shut) < 0.4 * gap(opened)


def test_a_config_can_name_it(flame_head, tmp_path):
    """A FLAME head runs in a model once it is retargeted; before, one sentence says what is missing."""
    from convert.drive import drive

    head, _ = drive(flame_head, tmp_path / "driven.safetensors")
    config = EmoTaGConfig(
        head_config={"asset": str(tmp_path / "driven.safetensors"), "num_shape": 300, "sha256": head.sha256},
        gaussians_config={"num_gaussians": 4},
    )
    model = EmoTaGModel(config)
    model.save_pretrained(tmp_path / "model")
    again = EmoTaGModel.from_pretrained(tmp_path / "model")
    assert torch.equal(again.head.v_template, head.v_template)
    assert not [k for k in again.state_dict() if k.startswith("head.")]  # no number of FLAME leaves with the model
    with pytest.raises(ValueError, match=r"^head: expected the 50 expression directions .* retarget\.$"):
        EmoTaGModel(EmoTaGConfig(head_config={"asset": str(flame_head), "num_shape": 300}))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_protocols(tmp_path, protocol):
    """Old files are pickled by Python 2's protocols, new ones by Python 3's."""
    arrays, _, _ = flame_arrays()
    path = write_flame(
        tmp_path / "flame.pkl", {**arrays, "shapedirs": arrays["shapedirs"].astype(np.float32)}, protocol
    )
    got = read_flame(path)
    assert np.allclose(got["J_regressor"], arrays["J_regressor"]) and np.array_equal(got["f"], arrays["f"])
    assert np.allclose(got["shapedirs"], arrays["shapedirs"], atol=1e-7)


class _Hostile:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def _hostile(tmp_path: Path) -> dict[str, object]:
    import os

    mark = str(tmp_path / "was_run")
    return {
        "posix.system": _Hostile(os.system, f"touch {mark}"),
        "builtins.eval": _Hostile(eval, f"open({mark!r}, 'w')"),
        "subprocess.Popen": _Hostile(subprocess.Popen, ["touch", mark]),
        "builtins.getattr": _Hostile(getattr, "x", "upper"),
    }


@pytest.mark.parametrize("name", ["posix.system", "builtins.eval", "subprocess.Popen", "builtins.getattr"])
def test_a_hostile_pickle_is_refused(tmp_path, name):
    """A pickle is a program: nothing of it runs, the name it asked for is said, and nothing is written."""
    path = tmp_path / "flame.pkl"
    path.write_bytes(pickle.dumps({"v_template": _hostile(tmp_path)[name]}))
    with pytest.raises(ConversionError, match=name.split(".")[1]) as error:
        convert_flame(path, tmp_path / "out.safetensors")
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flame.pkl"]


def test_the_command_says_one_sentence(tmp_path, capsys, convert_main):
    """On the command line a hostile file is one line on stderr and exit code 1, without a traceback."""
    path = tmp_path / "flame.pkl"
    path.write_bytes(pickle.dumps(_hostile(tmp_path)["posix.system"]))
    assert convert_main(["flame", str(path), "-o", str(tmp_path / "out.safetensors")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("convert: flame: flame.pkl asks for posix.system") and said.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flame.pkl"]


def test_what_is_not_flame_is_named(tmp_path):
    """Missing, unexpected and misshapen arrays are refused by name."""
    arrays, _, _ = flame_arrays()
    cases = {
        "missing keys \\['weights'\\]": {k: v for k, v in arrays.items() if k != "weights"},
        "unexpected keys \\['extra'\\]": {**arrays, "extra": np.zeros(3)},
        "v_template of shape": {**arrays, "v_template": arrays["v_template"][:-1]},
        "finite numbers in posedirs": {**arrays, "posedirs": np.full_like(arrays["posedirs"], np.nan)},
        "parents": {**arrays, "kintree_table": np.zeros((2, 5), np.int64)},
        "array of numbers as f": {**arrays, "f": "faces"},
        "a sparse matrix of 1000000 x 1000000": {**arrays, "J_regressor": sparse.csc_matrix((10**6, 10**6))},
    }
    for pattern, content in cases.items():
        (tmp_path / "flame.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ConversionError, match=pattern):
            read_flame(tmp_path / "flame.pkl")
    for content in (b"not a pickle", b"", pickle.dumps(arrays)[:1000], b"\x80\x02]q\x00(K\x01u."):
        (tmp_path / "flame.pkl").write_bytes(content)
        with pytest.raises(ConversionError, match="not a whole pickle"):
            read_flame(tmp_path / "flame.pkl")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_flame(tmp_path / "nothing.pkl")


@pytest.mark.real_data
@pytest.mark.parametrize("person", [0, 2, 4])
def test_landmarks_on_the_real_topology(test_data, person):
    """Heads of FLAME 2023 Open as they are published, without a rig: the open head lies within 0.4 mm of them, and the
    landmarks are where they can be told without it: tip of the nose, lips around the mouth's hole, left on the left."""
    data = np.load(test_data / "data/heads/flame2023open_5ids_headonly.npz")
    points, faces = data["vertices"][person].astype(np.float64), data["faces"]
    eyes = np.array([[0.0313, 0.024, 0.03], [-0.0313, 0.024, 0.03]])
    laid = register(Skin(points, None, faces, eyes, 0.0))
    assert laid.misfit < 4e-4
    found = (points[faces[laid.landmark_faces]] * laid.landmark_bary[..., None]).sum(1)
    tip = points[points[:, 2].argmax()]
    assert np.linalg.norm(found[[1, 4]] - tip, axis=1).min() < 0.006
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    single = {tuple(e) for e in edges.tolist()} - {(b, a) for a, b in edges.tolist()}
    hole = points[sorted({v for edge in single for v in edge})]
    hole = hole[hole[:, 1] > -0.1]  # the other open edge is the neck's
    upper, lower = found[[82, 13, 312]].mean(0), found[[87, 14, 317]].mean(0)
    assert hole[:, 1].min() - 0.006 < lower[1] < upper[1] + 0.0015 < hole[:, 1].max() + 0.006  # shut lips touch
    assert found[263, 0] > 0.03 > -0.03 > found[33, 0] and found[291, 0] > 0.015 > -0.015 > found[61, 0]
