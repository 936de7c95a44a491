"""Photometric refinement: a disturbed track of the demo person is pulled back by the pictures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from emotag_hf import EmoTaGModel, FlameMotion, default_model_path
from emotag_hf.constants import MOTION_DIMS
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.preprocessing.tracking.photometric import RefineOptions, refine_photometric
from emotag_hf.utils.rotations import rotation_matrix

SIZE = 160


@pytest.fixture(scope="module")
def scene():
    """A thinned demo person, two true frames, their pictures, and a track that is off."""
    model = EmoTaGModel.from_pretrained(default_model_path())
    count = model.gaussians.num_gaussians
    model.gaussians.resize(torch.arange(0, count, 5))
    with torch.no_grad():
        model.gaussians.log_scales += math.log(2.0)
    true = FlameMotion.zeros(2)
    true.rotation[1, 1], true.jaw_pose[:, 0] = 0.25, 0.15
    camera = model.camera(SIZE)
    black = torch.zeros(SIZE, SIZE, 3)
    with torch.no_grad():
        images = model.render(model.pose(true), camera, background=black).images
    frames = (images * 255).round().byte().numpy()
    off = FlameMotion(**{name: getattr(true, name).clone() for name in MOTION_DIMS})
    off.rotation += torch.tensor([0.02, -0.02, 0.015])
    off.translation += torch.tensor([0.002, -0.001, 0.0])
    off.jaw_pose[:, 0] += 0.05
    nan = torch.full((2,), math.nan)
    yes = torch.ones(2, dtype=torch.bool)
    track = HeadTrack(off, model.shape, camera, yes, yes.float(), nan, nan, torch.zeros(2, 478, 3), model.head.sha256)
    return model, true, frames, track, black


def turned_apart(a: FlameMotion, b: FlameMotion) -> torch.Tensor:
    relative = rotation_matrix(a.rotation).transpose(1, 2) @ rotation_matrix(b.rotation)
    return (((relative.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)).acos()


@pytest.mark.parametrize("frame", [pytest.param([0], marks=pytest.mark.slow), [1]])
def test_refinement_finds_the_pose(scene, frame):
    """The picture's error falls by more than half, and the head turns back to where it truly was."""
    model, true, frames, track, black = scene
    options = RefineOptions(size=SIZE)
    found = refine_photometric(track, model, lambda i: frames[i], frame, black, options)
    assert (found.after < 0.5 * found.before).all()
    apart_before, apart_after = turned_apart(track.motion, true)[frame], turned_apart(found.track.motion, true)[frame]
    assert (apart_after < 0.4 * apart_before).all()


def test_only_the_named_frames_move(scene):
    """Other frames keep their motion to the bit, the given track is not written to, and a good frame stays good."""
    model, true, frames, track, black = scene
    before = track.motion.rotation.clone()
    options = RefineOptions(steps=3, size=SIZE)
    found = refine_photometric(track, model, lambda i: frames[i], [1], black, options)
    assert torch.equal(found.track.motion.rotation[0], before[0]) and torch.equal(track.motion.rotation, before)
    assert not torch.equal(found.track.motion.rotation[1], before[1])
    perfect = replace(track, motion=true)
    kept = refine_photometric(perfect, model, lambda i: frames[i], [0], black, options)
    assert kept.after[0] <= kept.before[0]


def test_wrong_frames_are_named(scene):
    """A frame of another size, and a frame that is not there, are said in one sentence."""
    model, _, frames, track, _ = scene
    with pytest.raises(ValueError, match="indices: expected frames 0 to 1"):
        refine_photometric(track, model, lambda i: frames[i], [2])
    with pytest.raises(ValueError, match="frame: expected 160x160"):
        refine_photometric(track, model, lambda i: np.zeros((8, 8, 3), np.uint8), [0])
