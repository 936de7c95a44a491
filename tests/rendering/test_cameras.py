"""The portrait camera's geometry and its checks."""

from __future__ import annotations

import math

import pytest
import torch

from emotag_hf.rendering import Camera


def _pixel(camera: Camera, point: list[float]) -> list[float]:
    x, y, z = (camera.viewmat @ torch.tensor([*point, 1.0]))[:3]
    u, v, w = camera.K @ torch.stack([x, y, z])
    assert z > 0
    return [(u / w).item(), (v / w).item()]


def test_portrait_sees_the_sitter_the_right_way_round() -> None:
    """A mirrored or upside-down head: the sitter's left (+x) is on the viewer's right, up (+y) is up."""
    camera = Camera.portrait((200, 100), target=(0.1, 0.2, 0.3), distance=2.0, focal=400.0)
    assert _pixel(camera, [0.1, 0.2, 0.3]) == pytest.approx([100, 50], abs=1e-3)
    assert _pixel(camera, [0.3, 0.2, 0.3]) == pytest.approx([140, 50], abs=1e-3)
    assert _pixel(camera, [0.1, 0.3, 0.3]) == pytest.approx([100, 30], abs=1e-3)
    assert camera.position.tolist() == pytest.approx([0.1, 0.2, 2.3], abs=1e-5)


def test_yaw_and_pitch_move_the_camera_and_keep_the_target_central() -> None:
    """Orbit directions: positive yaw towards +x, positive pitch upwards, always looking at the target."""
    camera = Camera.portrait(128, target=(0.0, 1.0, 0.0), yaw=math.pi / 2, pitch=0.3, distance=1.5)
    x, y, z = camera.position.tolist()
    assert x > 1.4 and y == pytest.approx(1.0 + 1.5 * math.sin(0.3), abs=1e-5) and abs(z) < 1e-5
    assert _pixel(camera, [0.0, 1.0, 0.0]) == pytest.approx([64, 64], abs=1e-3)
    rotation = camera.viewmat[:3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-6)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0, abs=1e-6)


def test_default_focal_is_four_times_the_width_and_resize_keeps_the_view() -> None:
    """Resizing must show the same view: points keep their place relative to the picture."""
    camera = Camera.portrait(512)
    assert camera.K[0, 0].item() == 2048
    small = camera.resize((256, 128))
    before, after = _pixel(camera, [0.05, 0.02, 0.1]), _pixel(small, [0.05, 0.02, 0.1])
    assert (small.width, small.height) == (256, 128)
    assert after == pytest.approx([before[0] / 2, before[1] / 4], rel=1e-4)


@pytest.mark.parametrize(
    ("argument", "build"),
    [
        ("width", lambda: Camera.portrait(0)),
        ("height", lambda: Camera.portrait((10, -1))),
        ("width", lambda: Camera.portrait((10.5, 10))),  # type: ignore[arg-type]
        ("distance", lambda: Camera.portrait(8, distance=0.0)),
        ("focal", lambda: Camera.portrait(8, focal=float("nan"))),
        ("yaw", lambda: Camera.portrait(8, yaw=float("inf"))),
        ("target", lambda: Camera.portrait(8, target=(0.0, 0.0))),
        ("K", lambda: Camera(8, 8, torch.zeros(3, 3), torch.eye(4))),
        ("K", lambda: Camera(8, 8, torch.tensor([[8.0, 1, 4], [0, 8, 4], [0, 0, 1]]), torch.eye(4))),
        ("viewmat", lambda: Camera(8, 8, torch.eye(3), torch.eye(3))),
        ("viewmat", lambda: Camera(8, 8, torch.eye(3), torch.full((4, 4), float("nan")))),
        ("width", lambda: Camera.portrait(8).resize(100_000)),
    ],
)
def test_bad_cameras_name_the_argument(argument: str, build) -> None:
    """A camera that cannot be must say which of its numbers is wrong, not fail later in a kernel."""
    with pytest.raises(ValueError, match=argument):
        build()
