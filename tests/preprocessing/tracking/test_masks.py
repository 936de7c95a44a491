"""Mattes and the background plate: filters against slow twins, and what a plate may never show."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from PIL import Image

from emotag_hf.preprocessing.tracking import masks
from emotag_hf.preprocessing.tracking.masks import (
    BackgroundPlate,
    GuidedFilter,
    PersonMatte,
    box_mean,
    combine,
    fill_unknown,
    near,
)

needs_mediapipe = pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe not installed")


def slow_box_mean(plane, radius):
    height, width = plane.shape
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            window = plane[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
            out[y, x] = window.mean(dtype=np.float64)
    return out


@pytest.mark.parametrize("radius", [0, 1, 4, 30])
def test_box_mean_and_near(radius):
    """Running sums give what the window's mean gives, also where a window is larger than the picture."""
    rng = np.random.default_rng(radius)
    planes = rng.random((2, 17, 23)).astype(np.float32)
    means = box_mean(planes, radius)
    for plane, mean in zip(planes, means):
        np.testing.assert_allclose(mean, slow_box_mean(plane, radius), atol=1e-6)
    mask = rng.random((17, 23)) > 0.97
    np.testing.assert_array_equal(near(mask, radius), slow_box_mean(mask.astype(np.float32), radius) > 0)


def scene(size=128, seed=0):
    """A dark disc before a light wall, both with some texture: frame, true alpha, and a mask that is 3 pixels off."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] + 0.5
    truth = np.hypot(x - size / 2, y - size / 2) < size / 4
    coarse = np.hypot(x - size / 2 - 3, y - size / 2) < size / 4
    frame = np.where(truth[..., None], [70, 50, 40], [190, 200, 180]) + rng.normal(0, 4, (size, size, 3))
    return frame.clip(0, 255).astype(np.uint8), truth, coarse


def slow_guided_filter(guide, mask):
    """He, Sun and Tang 2013, equations 14 and 15 (colour guide), window by window."""
    height, width = mask.shape
    colours = guide / 255.0
    radius = masks._RADIUS
    model = np.zeros((height, width, 4))
    for y in range(height):
        for x in range(width):
            rows, columns = (slice(max(c - radius, 0), c + radius + 1) for c in (y, x))
            window, p = colours[rows, columns].reshape(-1, 3), mask[rows, columns].ravel()
            centred = window - window.mean(0)
            covariance = centred.T @ centred / len(p) + masks._EPSILON * np.eye(3)
            slope = np.linalg.solve(covariance, centred.T @ p / len(p))
            model[y, x] = *slope, p.mean() - slope @ window.mean(0)
    smooth = np.stack([slow_box_mean(model[..., i], radius) for i in range(4)], -1)
    value = (smooth[..., :3] * colours).sum(-1) + smooth[..., 3]
    low, high = masks._STRETCH
    return ((value - low) / (high - low)).clip(0, 1)


def test_guided_filter_against_its_definition():
    """The running sums, the closed-form 3x3 inverse and the per-pixel map give the filter of the paper."""
    frame, _, coarse = scene(28)
    guide = np.ascontiguousarray(frame.transpose(2, 0, 1), np.float32)
    fast = GuidedFilter(coarse.shape)(frame, guide, coarse.astype(np.float32)) / 255
    np.testing.assert_allclose(fast, slow_guided_filter(frame, coarse.astype(np.float64)), atol=0.01)


def test_guided_filter_finds_the_edge():
    """A mask that is off by pixels comes back on the picture's own edge, at four times the mask's size."""
    frame, truth, coarse = scene(256)
    small = Image.fromarray(frame).resize((64, 64), Image.Resampling.BOX)
    mask = np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((64, 64), Image.Resampling.BOX))
    guide = np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1), np.float32)
    alpha = GuidedFilter((64, 64))(frame, guide, mask) / 255
    before, after = np.abs(coarse - 1.0 * truth).mean(), np.abs(alpha - truth).mean()
    assert after < 0.4 * before, (before, after)
    assert alpha[128, 128] == 1 and alpha[5, 5] == 0


def test_steady_where_the_picture_stands_still():
    """Noise of the segmenter fades over a still picture; where the picture changes, the new mask counts alone."""
    rng = np.random.default_rng(0)
    guide = rng.uniform(0, 255, (3, 32, 32)).astype(np.float32)
    last = noisy = rng.random((32, 32)).astype(np.float32)
    for _ in range(20):
        noisy = rng.random((32, 32)).astype(np.float32)
        last = masks._steadied(guide, noisy, guide, last)
    assert last.std() < 0.6 * noisy.std()
    moved = masks._steadied(255 - guide, noisy, guide, last)
    assert np.abs(moved - noisy)[np.abs(255 - 2 * guide).min(0) > 80].max() < 0.01


def test_combine():
    """A hole inside the head is closed, the soft outline stays, and a head mask never adds a rim."""
    matte = np.full((100, 100), 40, np.uint8)
    matte[20:80, 20:80] = 255
    matte[45:55, 45:55] = 0
    head = np.zeros((100, 100), bool)
    head[18:82, 18:82] = True
    out = combine(matte, head)
    assert (out[45:55, 45:55] == 255).all()
    outline = np.ones_like(head)
    outline[20:80, 20:80] = False
    np.testing.assert_array_equal(out[outline], matte[outline])
    with pytest.raises(ValueError, match="head_mask: expected shape"):
        combine(matte, head[1:])


def make_wall(size=96):
    """A gradient and stripes."""
    y, x = np.mgrid[:size, :size]
    return np.stack([60 + x, 120 + 0 * x, 200 - y], -1) + 20.0 * (x // 8 % 2)[..., None]


def walk(frames=40, size=96, sloppy=()):
    """Somebody red sways before the wall; in `sloppy` frames the matte misses the hair."""
    rng = np.random.default_rng(3)
    x, wall = np.mgrid[:size, :size][1], make_wall(size)
    for i in range(frames):
        person = np.abs(x - size / 2 - 8 * np.sin(i / 4)) < 14
        hair = np.abs(x - size / 2 - 8 * np.sin(i / 4)) < 22
        frame = np.where(hair[..., None], [250, 10, 10], wall) + rng.normal(0, 2, wall.shape)
        matte = (person if i in sloppy else hair) * np.uint8(255)
        yield frame.clip(0, 255).astype(np.uint8), matte


def test_plate_is_the_wall():
    """What some frames show is there to a grey level; who never moved away is filled in from the sides, and said so."""
    plate, wall = BackgroundPlate(), make_wall()
    for frame, matte in walk():
        plate.add(frame, matte)
    picture, known = plate.picture()
    assert picture.dtype == np.uint8 and 0.4 < known.mean() < 0.8
    assert np.abs(picture - wall)[known].mean() < 1.5
    assert np.abs(picture - wall)[known].max() < 8
    assert np.abs(picture[:, :, 0] - wall[:, :, 0])[~known].max() < 60  # no red person
    assert picture[~known][:, 0].max() < 200 and picture[~known][:, 1].min() > 90


def test_plate_shows_no_ghost():
    """Hair that the matte missed in a quarter of the frames leaves no trace where other frames show the wall."""
    plate, wall = BackgroundPlate(), make_wall()
    for frame, matte in walk(sloppy=range(0, 40, 4)):
        plate.add(frame, matte)
    picture, known = plate.picture()
    seen = np.abs(np.arange(96) - 48) > 27  # beyond it, more frames show the wall than show hair without a matte
    assert known[:, seen].all()
    assert np.abs(picture - wall)[:, seen].max() < 8


def test_plate_forgets_a_passer_by():
    """Somebody whom the matte does not see at all stands there for a third of the clip, from its first frame."""
    plate, wall = BackgroundPlate(), np.full((32, 32, 3), 90, np.uint8)
    for i in range(30):
        frame = wall.copy()
        if i < 10:
            frame[8:24, 8:24] = 220
        plate.add(frame, np.zeros((32, 32), np.uint8))
    picture, known = plate.picture()
    assert known.all() and (picture == 90).all()


def test_plate_needs_no_more_memory_for_more_frames():
    """The plate holds sums, not frames."""
    plate, sizes = BackgroundPlate(), []
    for i, (frame, matte) in enumerate(walk(frames=12)):
        plate.add(frame, matte)
        if i in (0, 11):
            sizes.append(sum(v.nbytes for v in vars(plate).values() if isinstance(v, np.ndarray)))
    assert sizes[0] == sizes[1] <= 16 * 96 * 96


def test_fill_unknown():
    """Known pixels stay, a flat picture stays flat, a ramp goes on, and with nothing known there is grey."""
    rng = np.random.default_rng(1)
    picture = rng.uniform(0, 255, (37, 50, 3)).astype(np.float32)
    known = rng.random((37, 50)) > 0.5
    np.testing.assert_allclose(fill_unknown(picture, known)[known], picture[known], atol=1e-3)
    flat = np.full((37, 50, 3), 77.0, np.float32)
    np.testing.assert_allclose(fill_unknown(flat, known), flat, atol=0.01)
    ramp = np.repeat(np.linspace(0, 200, 64, dtype=np.float32)[None, :, None], 64, 0)
    hole = np.ones((64, 64), bool)
    hole[20:44, 20:44] = False
    assert np.abs(fill_unknown(ramp, hole) - ramp).max() < 30
    assert (fill_unknown(picture, np.zeros_like(known)) == 128).all()


def test_bad_frames():
    """One sentence that names the argument."""
    plate = BackgroundPlate()
    with pytest.raises(ValueError, match="frames: expected at least one"):
        plate.picture()
    with pytest.raises(ValueError, match="frame: expected a uint8 array"):
        plate.add(np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="a matte of that size"):
        plate.add(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9), np.uint8))


@needs_mediapipe
def test_matte_of_nobody(capfd):
    """A wall has no person in it, whatever its size and shape; MediaPipe's chatter does not reach the user."""
    with PersonMatte() as person:
        for shape in ((90, 160, 3), (256, 256, 3)):
            frame = np.random.default_rng(0).integers(90, 110, shape, dtype=np.uint8)
            frame.setflags(write=False)
            matte = person.matte(frame)
            assert matte.shape == shape[:2] and matte.dtype == np.uint8
            assert matte.mean() < 5
    assert capfd.readouterr().err == ""


@needs_mediapipe
@pytest.mark.real_data
def test_matte_and_plate_of_a_recording(test_data):
    """A head before a still background: the face is opaque, the corners are empty, the edge is soft, and the plate has
    the wall without the person."""
    av = pytest.importorskip("av")
    plate, mattes, frames = BackgroundPlate(), [], []
    with av.open(str(test_data / "data" / "clips" / "may_5s_512.mp4")) as video, PersonMatte() as person:
        for packet in video.decode(video=0):
            frames.append(packet.to_ndarray(format="rgb24"))
            mattes.append(person.matte(frames[-1]))
            plate.add(frames[-1], mattes[-1])
            if len(frames) == 30:
                break
    mattes = np.array(mattes)
    assert (mattes[:, 200:400, 200:300] == 255).all()
    assert (mattes[:, :40, :40] == 0).all() and (mattes[:, :40, -40:] == 0).all()
    soft = (mattes > 20) & (mattes < 235)
    assert 0.005 < soft.mean() < 0.1
    picture, known = plate.picture()
    assert 0.3 < known.mean() < 0.6
    assert np.abs(picture[known].astype(int) - frames[0][known]).mean() < 6
    assert not known[250, 256] and picture[250, 256].max() < 160  # no bright face
