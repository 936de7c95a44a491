"""Backgrounds and the over operator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from emotag_hf.rendering.compositing import composite, make_background


def test_over_keeps_what_is_opaque_and_shows_what_is_not():
    """alpha 1 is the head, alpha 0 the background, between them a mixture of premultiplied colour and background."""
    colors = torch.tensor([[[0.2, 0.4, 0.6], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]])
    alphas = torch.tensor([[[1.0], [0.5], [0.0]]])
    out = composite(colors, alphas, torch.full((1, 3, 3), 0.8))
    torch.testing.assert_close(out[0], torch.tensor([[0.2, 0.4, 0.6], [0.5, 0.6, 0.7], [0.8, 0.8, 0.8]]))


def test_backdrop_is_smooth_and_the_same_each_time():
    """A soft light without bands, with no random change between frames or runs."""
    a, b = (make_background(None, 64, 48) for _ in range(2))
    assert torch.equal(a, b) and a.shape == (48, 64, 3)
    assert a[12, 32].mean() > a[47, 0].mean() + 0.1


def test_pictures_fill_the_frame_without_stretching(tmp_path):
    """A wide picture is cropped at its sides: its middle stays in the middle."""
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 20:] = 255
    for source in (wide, Image.fromarray(wide), wide.astype(np.float32) / 255):
        out = make_background(source, 20, 20)
        assert out[:, :8].max() < 0.05 and out[:, 12:].min() > 0.95


@pytest.mark.parametrize("bad", ["not-a-colour", np.zeros((3, 3)), np.zeros((0, 3, 3)), 7])
def test_what_is_no_background_is_named(bad):
    """One sentence that says what was expected."""
    with pytest.raises(ValueError, match="background: expected a colour"):
        make_background(bad, 8, 8)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    """A text renamed to png."""
    path = tmp_path / "wall.png"
    path.write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        make_background(str(path), 8, 8)
