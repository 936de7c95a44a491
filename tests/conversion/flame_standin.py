"""A file in FLAME's format without anything of FLAME: 5,023 vertices cut from the open head, 300 + 100 directions, a
sparse joint regressor, arrays wrapped by a module that is called chumpy."""

from __future__ import annotations

import pickle
import sys
import types
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import sparse

from emotag_hf import ParametricHead

VERTICES = 5023
ORIGIN = np.array([0.002, 0.021, 0.028])  # where the eyes' middle goes; FLAME's origin is not between the eyes
SCALE = 1.04
LEFT_OUT = ("mouth_interior", "teeth_upper", "teeth_lower", "gums", "tongue")


@contextmanager
def chumpy():
    """A module `chumpy.ch` with a class `Ch`, as long as the block runs."""
    package, module = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")

    class Ch:
        def __init__(self, x):
            self.x = x

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.x, dtype)

        def __getitem__(self, index):
            return self.x[index]

        @property
        def shape(self):
            return self.x.shape

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    package.ch = module
    module.Ch = Ch
    before = {name: sys.modules.get(name) for name in ("chumpy", "chumpy.ch")}
    sys.modules.update({"chumpy": package, "chumpy.ch": module})
    try:
        yield Ch
    finally:
        for name, old in before.items():
            sys.modules.pop(name) if old is None else sys.modules.__setitem__(name, old)


@lru_cache(maxsize=1)
def flame_arrays(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """FLAME's arrays by name; which open-head vertex each one is; how the 50 directions were mixed, `[50, 100]`."""
    rng = np.random.default_rng(seed)
    head = ParametricHead.from_asset(None)
    template = head.v_template.numpy().astype(np.float64)
    gone = np.zeros(len(template), bool)
    for name in LEFT_OUT:
        gone[head.region(name).numpy()] = True
    eyes = np.concatenate([head.region("left_eye").numpy(), head.region("right_eye").numpy()])
    gone[eyes] = True
    skin = np.flatnonzero(~gone)
    skin = skin[np.argsort(-template[skin, 1] - 0.3 * template[skin, 2], kind="stable")][: VERTICES - len(eyes)]
    index = np.concatenate([np.sort(skin), eyes])
    local = np.full(len(template), -1)
    local[index] = np.arange(VERTICES)
    faces = local[head.faces.numpy()]
    faces = faces[(faces >= 0).all(1)]
    place = SCALE * template + ORIGIN
    mix = np.linalg.qr(rng.normal(size=(100, 50)))[0].T
    shape = np.zeros((VERTICES, 3, 300))
    shape[:, :, :60] = SCALE * head.shape_basis.numpy()[index]
    shape[:, :, 60:] = 0.02 * shape[:, :, rng.integers(0, 60, 240)] * rng.normal(size=240)
    expression = SCALE * head.expression_basis.numpy()[index] @ mix
    pose = np.zeros((36, len(template), 3))
    pose += head.pose_basis.numpy().reshape(36, -1, 3)
    pose = pose[:, index] + 1e-5 * rng.normal(size=(36, VERTICES, 3))
    weights = head.lbs_weights.numpy()[index].astype(np.float64)
    joints = SCALE * (head.joint_regressor.numpy() @ template) + ORIGIN
    arrays = {
        "v_template": place[index],
        "f": faces.astype(np.uint32),
        "shapedirs": np.concatenate([shape, expression], 2).astype(np.float32),
        "posedirs": pose.transpose(1, 2, 0),
        "J_regressor": _regressor(place[index], joints),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int64),
    }
    return arrays, index, mix


def _regressor(points: np.ndarray, joints: np.ndarray) -> np.ndarray:
    out = np.zeros((5, len(points)))
    for joint, goal in enumerate(joints):
        near = np.argsort(((points - goal) ** 2).sum(1))[:60]
        a = np.c_[np.ones(60), points[near]].T
        out[joint, near] = a.T @ np.linalg.solve(a @ a.T + 1e-12 * np.eye(4), np.r_[1, goal])
    return out


def write_flame(path: Path, arrays: dict[str, np.ndarray], protocol: int = 2, **more) -> Path:
    """The pickle as FLAME's authors write it: a dictionary with wrapped arrays and a sparse regressor."""
    with chumpy() as wrap:
        content = {
            **arrays,
            "v_template": wrap(arrays["v_template"]),
            "shapedirs": wrap(arrays["shapedirs"]),
            "posedirs": arrays["posedirs"],
            "weights": wrap(arrays["weights"]),
            "J_regressor": sparse.csc_matrix(arrays["J_regressor"]),
            "J": arrays["J_regressor"] @ arrays["v_template"],
            "bs_style": "lbs",
            "bs_type": "lrotmin",
            **more,
        }
        path.write_bytes(pickle.dumps(content, protocol))
    return path
