"""Motion for other programs: ARKit's names, signs and ranges, and an npz that comes back to the bit."""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile

import numpy as np
import pytest
import torch

from emotag_hf import EmoTaGModel, FlameMotion
from emotag_hf.constants import EXPRESSION_NAMES, MOTION_DIMS
from emotag_hf.export import load_motion, motion_files, save_motion
from emotag_hf.export.motion_files import ARKIT_NAMES, JAW_OPEN, arkit_blendshapes, pose_curves


def a_motion(num_frames=7, seed=0) -> FlameMotion:
    generator = torch.Generator().manual_seed(seed)
    fields = {name: torch.randn(num_frames, dim, generator=generator) * 0.2 for name, dim in MOTION_DIMS.items()}
    return FlameMotion(**fields, mouth_code=torch.randn(num_frames, 8, generator=generator), fps=29.97)


def one(**fields) -> dict[str, float]:
    """ARKit's values of a single frame with these fields set."""
    motion = FlameMotion.zeros(1)
    for name, value in fields.items():
        getattr(motion, name)[0] = torch.as_tensor(value, dtype=torch.float32)
    return {n: float(v) for n, v in zip(ARKIT_NAMES, arkit_blendshapes(motion)[0]) if v}


def expression(**values) -> torch.Tensor:
    out = torch.zeros(50)
    for name, value in values.items():
        out[EXPRESSION_NAMES.index(name)] = value
    return out


def test_names():
    """Apple's 52, each once."""
    assert len(ARKIT_NAMES) == len(set(ARKIT_NAMES)) == 52
    assert sum(name.startswith("eye") for name in ARKIT_NAMES) == 14


def test_sides_and_signs():
    """The person's left is Left; a mean where ARKit has one name for two sides; down, out, in as ARKit means them."""
    assert one(expression=expression(mouthSmile_L=0.5, browDown_R=0.25)) == {
        "mouthSmileLeft": 0.5,
        "browDownRight": 0.25,
    }
    assert one(expression=expression(browInnerUp_L=0.5, cheekPuff_L=1, cheekPuff_R=1)) == {
        "browInnerUp": 0.25, "cheekPuff": 1,
    }  # fmt: skip
    assert one(expression=expression(jawLeft=1, mouthLeft=0.5)) == {"jawLeft": 1, "mouthLeft": 0.5}
    assert one(jaw_pose=[JAW_OPEN / 2, 0, 0]) == {"jawOpen": 0.5}
    assert one(eyelids=[1, 0.5]) == {"eyeBlinkLeft": 1, "eyeBlinkRight": 0.5}
    quarter = math.radians(15)  # half of what an eyeLook shape does; + about x looks down, + about y to +x, the left
    close = lambda values: {name: round(value, 4) for name, value in values.items()}  # noqa: E731
    assert close(one(eyes_pose=[quarter, 0, 0, quarter, 0, 0])) == {"eyeLookDownLeft": 0.5, "eyeLookDownRight": 0.5}
    assert close(one(eyes_pose=[0, quarter, 0, 0, quarter, 0])) == {"eyeLookOutLeft": 0.5, "eyeLookInRight": 0.5}
    assert close(one(eyes_pose=[-quarter, -quarter, 0, 0, 0, 0])) == {"eyeLookInLeft": 0.5, "eyeLookUpLeft": 0.5}
    assert one(expression=expression(mouthPucker=1.7, mouthFunnel=-0.3)) == {"mouthPucker": 1}


def test_gaze_is_where_the_head_model_looks():
    """The signs above are those of the head: an eye turned by + about y looks to the person's left, about x down."""
    head = EmoTaGModel.from_pretrained("emotag-base-open").head
    pupil = head.region("pupil")
    eyes = torch.zeros(3, 6)
    eyes[1, [0, 3]], eyes[2, [1, 4]] = 0.3, 0.3
    still, down, left = head(eyes_pose=eyes).vertices[:, pupil].mean(1)
    assert down[1] < still[1] - 1e-3 and left[0] > still[0] + 1e-3


def test_head_rotation_is_root_and_neck_without_jumps():
    """A unit quaternion a frame, its sign never turning over between frames; root first, then neck."""
    motion = FlameMotion.zeros(40)
    motion.rotation[:, 1] = torch.linspace(0, 2 * math.pi, 40)  # through half a turn, where the sign is free
    motion.neck_pose[:, 0] = 0.3
    head = pose_curves(motion)["head_rotation"]
    np.testing.assert_allclose(np.linalg.norm(head, axis=1), 1, atol=1e-5)
    assert (head[1:] * head[:-1]).sum(1).min() > 0.9
    np.testing.assert_allclose(head[0], [math.cos(0.15), math.sin(0.15), 0, 0], atol=1e-6)
    quarter = FlameMotion.zeros(1)
    quarter.rotation[0, 1], quarter.neck_pose[0, 0] = math.pi / 2, math.pi / 2
    np.testing.assert_allclose(pose_curves(quarter)["head_rotation"][0], [0.5, 0.5, 0.5, -0.5], atol=1e-6)


def test_npz_comes_back_to_the_bit(tmp_path):
    """Every field, the optional ones too, and the frame rate; and it drives a head as the motion itself does."""
    motion = a_motion()
    motion.body_translation = torch.rand(7, 3)
    save_motion(motion, tmp_path / "m.npz", metadata={"seed": 3})
    again = load_motion(tmp_path / "m.npz")
    assert again.fps == 29.97
    for name in (*MOTION_DIMS, "mouth_code", "body_translation"):
        assert torch.equal(getattr(again, name), getattr(motion, name)), name
    save_motion(FlameMotion.zeros(2), tmp_path / "m.npz")
    assert load_motion(tmp_path / "m.npz").mouth_code is None
    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        assert file["arkit_names"].tolist() == list(ARKIT_NAMES) and file["arkit"].shape == (2, 52)


def test_json_and_csv_say_the_same(tmp_path):
    """52 curves and the pose a frame, to five digits; times by the frame rate."""
    motion = a_motion()
    facts = json.loads(open(save_motion(motion, tmp_path / "m.json", metadata={"ai_generated": True})).read())
    rows = list(csv.DictReader(io.StringIO(open(save_motion(motion, tmp_path / "m.csv")).read())))
    assert facts["num_frames"] == len(rows) == 7 and facts["metadata"]["ai_generated"] and facts["fps"] == 29.97
    np.testing.assert_allclose(facts["blendshapes"], arkit_blendshapes(motion), atol=6e-6)
    curves = [[float(row[name]) for name in facts["blendshape_names"]] for row in rows]
    assert curves == facts["blendshapes"] and float(rows[3]["seconds"]) == pytest.approx(3 / 29.97, abs=1e-5)
    for name, axes in (("head_rotation", "wxyz"), ("right_eye_rotation", "wxyz"), ("head_translation", "xyz")):
        assert [[float(row[f"{name}_{a}"]) for a in axes] for row in rows] == facts[name]


def test_bad_files_are_refused(tmp_path, monkeypatch):
    """A pickle in an npz, a bomb, another program's npz, NaN, no file, no such format: one sentence, and no file."""
    motion = a_motion()
    motion.jaw_pose[2, 1] = torch.nan
    with pytest.raises(ValueError, match="finite numbers in jaw_pose"):
        save_motion(motion, tmp_path / "m.json")
    with pytest.raises(ValueError, match="path: expected a name that ends in .json, .csv, .npz"):
        save_motion(a_motion(), tmp_path / "m.bvh")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_motion(tmp_path / "m.npz")

    class Bang:
        def __reduce__(self):
            return print, ("executed",)

    path = tmp_path / "m.npz"
    np.savez(path, expression=np.array([Bang()], dtype=object))
    assert b"executed" in path.read_bytes()
    with pytest.raises(ValueError, match="save_motion"):
        load_motion(path)
    np.savez(path, fps=25.0)
    with pytest.raises(ValueError, match="it lacks expression_names"):
        load_motion(path)
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(ValueError, match="save_motion"):
        load_motion(path)
    monkeypatch.setattr(motion_files, "_MAX_BYTES", 5_000_000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fps.npy", bytes(6_000_000))
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="unpacks to 6,000,000 bytes"):
        load_motion(path)
