"""Regions of a painted person whose truth is known: the open head's mesh with hair and clothes drawn around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.tracking.head_track import HeadTrack, camera_vertices
from emotag_hf.preprocessing.tracking.masks import near
from emotag_hf.preprocessing.tracking.regions import REGIONS, bare_head, head_mask, region_labels
from emotag_hf.rendering import Camera
from emotag_hf.rendering.mesh import rasterize_mesh

SIZE = 256
BACKGROUND, FACE, MOUTH, EYES, HAIR, NECK, TORSO, EARS = range(8)
PAINT = {BACKGROUND: (60, 130, 70), FACE: (215, 170, 140), HAIR: (70, 45, 30), TORSO: (40, 60, 150)}


@pytest.fixture(scope="module")
def head():
    return ParametricHead()


def make_track(head, yaw=0.0, frames=1):
    """A track of `frames` frames of the neutral head, turned to its left by `yaw` radians."""
    motion = FlameMotion.zeros(frames)
    motion.rotation[:, 1] = yaw
    nothing = torch.zeros(frames)
    return HeadTrack(
        motion=motion,
        shape=torch.zeros(head.num_shape),
        camera=Camera.portrait(SIZE, distance=1.44),
        valid=torch.ones(frames, dtype=torch.bool),
        confidence=nothing,
        error=nothing,
        held_out_error=nothing,
        landmarks=torch.zeros(frames, 478, 3),
        head_sha256=head.sha256,
    )


def paint(track, head, *, hair=True, strand=False, cloth=PAINT[TORSO], seed=0):
    """Frame, matte and truth: hair around the skull (`hair`), hanging to the shoulder at one side (`strand`), a torso.

    In the truth only background, face (all of the head but hair), hair and torso are told apart.
    """
    vertices = camera_vertices(track, [0], head)[0]
    buffers = rasterize_mesh(vertices, head.faces, track.camera.K, SIZE, SIZE)
    mesh = head_mask(buffers, head)
    skin = head_mask(buffers, head, scalp=False)
    y, x = np.mgrid[:SIZE, :SIZE]
    chin = head.landmarks(torch.from_numpy(vertices)[None])[0, 152].numpy() @ track.camera.K.numpy().T
    chin_y = chin[1] / chin[2]
    truth = np.full((SIZE, SIZE), BACKGROUND)
    truth[(y > chin_y + 14) & (np.abs(x - SIZE / 2) < 30 + 3 * (y - chin_y))] = TORSO
    truth[mesh] = FACE
    if hair:
        truth[near(mesh & ~skin, 9) & (y < SIZE // 2) & ~skin] = HAIR
    if strand:
        left = np.nonzero((truth == FACE)[int(chin_y) - 50])[0].min()
        truth[(x > left - 16) & (x < left + 6) & (y > chin_y - 70) & (y < chin_y + 45)] = HAIR
    colours = np.array([PAINT[BACKGROUND], PAINT[FACE], (0, 0, 0), (0, 0, 0), PAINT[HAIR], (0, 0, 0), cloth])
    frame = colours[truth] + np.random.default_rng(seed).normal(0, 6, (SIZE, SIZE, 3))
    return frame.clip(0, 255).astype(np.uint8), np.where(truth > 0, np.uint8(255), np.uint8(0)), truth


def overlap(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.mark.parametrize("yaw", [-0.6, 0.0, 0.8])
def test_a_painted_person(head, yaw):
    """Hair, head, clothes and background lie where they were painted, from the front and turned aside."""
    track = make_track(head, yaw)
    frame, matte, truth = paint(track, head)
    labels = region_labels(track, 0, matte, head, frame)
    assert labels.dtype == np.uint8 and labels.max() < len(REGIONS)
    assert overlap(labels == BACKGROUND, truth == BACKGROUND) > 0.99
    assert overlap(labels == HAIR, truth == HAIR) > 0.8
    assert overlap(bare_head(labels), truth == FACE) > 0.93
    assert overlap(labels == TORSO, truth == TORSO) > 0.85
    for part in (MOUTH, EYES, EARS, NECK):
        assert (labels == part).sum() > 20, REGIONS[part]


def test_parts_of_the_face(head):
    """Eyes above mouth above neck, all at their landmarks."""
    track = make_track(head)
    _, matte, _ = paint(track, head)
    labels = region_labels(track, 0, matte, head)
    points = head.landmarks(torch.from_numpy(camera_vertices(track, [0], head)))[0].numpy() @ track.camera.K.numpy().T
    x, y = (points[:, :2] / points[:, 2:]).astype(int).T
    assert labels[y[11], x[11]] == MOUTH and labels[y[1], x[1]] == FACE  # upper lip, tip of the nose
    assert labels[(y[159] + y[145]) // 2, x[159]] == EYES
    assert labels[y[152] - 3, x[152]] == FACE and labels[y[152] + 8, x[152]] == NECK  # the chin, and under it


def test_hanging_hair_is_told_by_its_colour(head):
    """A strand down to the shoulder is hair with the frame's colours and torso without them."""
    track = make_track(head)
    frame, matte, truth = paint(track, head, strand=True)
    y = np.mgrid[:SIZE, :SIZE][0]
    hanging = (truth == HAIR) & (y > np.nonzero((truth == TORSO).any(1))[0][0])
    assert hanging.sum() > 300
    labels = region_labels(track, 0, matte, head, frame)
    assert (labels == HAIR)[hanging].mean() > 0.85
    assert (labels == TORSO)[truth == TORSO].mean() > 0.85
    assert (region_labels(track, 0, matte, head) == HAIR)[hanging].mean() < 0.1


def test_a_fringe_covers_the_face(head):
    """Hair over the forehead is hair, although the mesh is face there; without colours it stays face."""
    track = make_track(head)
    frame, matte, truth = paint(track, head)
    eyes = np.nonzero((region_labels(track, 0, matte, head) == EYES).any(1))[0][0]
    top = np.nonzero((truth == FACE).any(1))[0][0]
    fringe = (truth == FACE) & (np.mgrid[:SIZE, :SIZE][0] < (top + eyes) // 2)
    frame[fringe] = np.random.default_rng(1).normal(PAINT[HAIR], 6, (fringe.sum(), 3)).clip(0, 255)
    assert (region_labels(track, 0, matte, head, frame) == HAIR)[fringe].mean() > 0.8
    assert (region_labels(track, 0, matte, head) == FACE)[fringe].mean() > 0.8


def test_a_jacket_like_the_hair_is_clothing(head):
    """Clothes in the very colour of the hair are no hair, because nothing joins them to the head."""
    track = make_track(head)
    frame, matte, truth = paint(track, head, cloth=PAINT[HAIR])
    labels = region_labels(track, 0, matte, head, frame)
    assert (labels == HAIR)[truth == TORSO].mean() < 0.05
    assert overlap(labels == HAIR, truth == HAIR) > 0.8


def test_somebody_behind_is_background(head):
    """A second person's head in the matte, apart from the first, is no hair of theirs."""
    track = make_track(head)
    frame, matte, truth = paint(track, head)
    matte[20:60, 4:30] = 255
    labels = region_labels(track, 0, matte, head, frame)
    assert (labels[20:60, 4:30] == BACKGROUND).all()


def test_a_hole_in_the_matte(head):
    """What the matte misses in the middle of the face is face all the same; beside the head it is background."""
    track = make_track(head)
    frame, matte, truth = paint(track, head)
    y, x = (int(c.mean()) for c in np.nonzero(truth == FACE))
    matte[y - 6 : y + 6, x - 6 : x + 6] = 0
    labels = region_labels(track, 0, matte, head, frame)
    assert (labels[y - 6 : y + 6, x - 6 : x + 6] != BACKGROUND).all()


def test_without_a_valid_fit(head):
    """Where the fit failed nobody knows where the head is: all person is torso."""
    track = make_track(head, frames=2)
    track.valid[1] = False
    frame, matte, _ = paint(track, head)
    labels = region_labels(track, 1, matte, head, frame)
    np.testing.assert_array_equal(labels, np.where(matte > 0, TORSO, BACKGROUND))


def test_a_head_outside_the_picture(head):
    """The fit may have left the crop: nothing breaks."""
    track = make_track(head)
    frame, matte, _ = paint(track, head)
    track.motion.translation[:, 0] = 2.0
    np.testing.assert_array_equal(region_labels(track, 0, matte, head, frame) == TORSO, matte > 0)


def test_pictures_of_another_size(head):
    """One sentence that names the argument."""
    track = make_track(head)
    frame, matte, _ = paint(track, head)
    with pytest.raises(ValueError, match="matte: expected 256x256 pixels"):
        region_labels(track, 0, matte[1:], head, frame)
    with pytest.raises(ValueError, match="frame: expected 256x256 pixels"):
        region_labels(track, 0, matte, head, frame[:, 1:])
