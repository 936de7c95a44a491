"""The square of a picture that a clip is cut from."""

from __future__ import annotations

import numpy as np
import pytest
from fitted_face import landmarks_of

from emotag_hf.preprocessing.data.framing import choose_crop


def test_face_is_framed_like_published_clips():
    """A small face in a wide picture is cut to a square in which it takes half the height, slightly low."""
    crop, warnings = choose_crop(landmarks_of(20, 1920, 1080, size=0.5), 512)
    points = crop.to_crop(landmarks_of(20, 1920, 1080, size=0.5).points)[..., :2]
    height = np.median(np.ptp(points[..., 1], axis=1)) / 512
    middle = (points.min(1) + points.max(1)).mean(0) / 2 / 512
    assert 0.46 < height < 0.54 and abs(middle[0] - 0.5) < 0.02 and 0.51 < middle[1] < 0.57
    assert (crop.width, crop.height, crop.window_width) == (512, 512, crop.window_height) and not warnings


def test_what_is_framed_already_stays():
    """A square picture of a large face is taken whole; a wide one gives the square of its full height."""
    crop, _ = choose_crop(landmarks_of(20, 512, 512), 512)
    assert (crop.x, crop.y, crop.window_width, crop.window_height) == (0, 0, 512, 512)
    crop, _ = choose_crop(landmarks_of(20, 1920, 1080, size=0.9), 512)
    assert crop.window_width == crop.window_height == 1080 and crop.y == 0


@pytest.mark.parametrize("place", [(-0.75, -0.35), (0.8, 0.3)])
def test_window_stays_inside(place):
    """A face at the border shifts the window, it does not reach outside the picture."""
    crop, _ = choose_crop(landmarks_of(20, 1920, 1080, 0.4, *place), 512)
    assert crop.x >= 0 and crop.y >= 0
    assert crop.x + crop.window_width <= 1920 and crop.y + crop.window_height <= 1080


def test_wandering_face_is_never_cut():
    """Who walks through the picture gets a window that holds the whole way."""
    found = landmarks_of(50, 1280, 720, 0.3)
    found.points[..., 0] += np.linspace(-150, 150, 50, dtype=np.float32)[:, None]
    crop, _ = choose_crop(found, 256)
    points = crop.to_crop(found.points)[..., :2]
    assert points.min() > 0 and points.max() < 256


def test_outliers_do_not_move_the_window():
    """One frame in fifty with landmarks somewhere else changes next to nothing."""
    found = landmarks_of(100, 1920, 1080, 0.5)
    wrong = landmarks_of(100, 1920, 1080, 0.5)
    wrong.points[40] += 600
    a, b = choose_crop(found, 512)[0], choose_crop(wrong, 512)[0]
    assert abs(a.x - b.x) < 20 and abs(a.window_width - b.window_width) < 40


def test_whole_picture_and_few_pixels():
    """crop="whole" keeps the shape of the picture; a face of few pixels is said so."""
    crop, _ = choose_crop(landmarks_of(20, 1920, 1080), 512, "whole")
    assert (crop.width, crop.height, crop.window_width) == (910, 512, 1920)
    crop, warnings = choose_crop(landmarks_of(20, 224, 224), 512)
    assert crop.width == 512 and "Record closer" in warnings[0]
