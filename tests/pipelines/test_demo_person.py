"""The embedded person as a face detector sees it: what judges real people must be able to watch this face."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotag_hf import EXPRESSION_NAMES, FlameMotion, sample_path
from emotag_hf.utils.import_utils import is_available

pytestmark = pytest.mark.skipif(
    not is_available("mediapipe"), reason="MediaPipe is not installed: emotag setup tracking"
)


@pytest.fixture
def find_landmarks():
    """uint8 picture -> landmarks `[478, 2]` in pixels, or None where no face is found."""
    import mediapipe

    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True) as mesh:

        def find(image: np.ndarray):
            found = mesh.process(image).multi_face_landmarks
            height, width = image.shape[:2]
            return np.array([[p.x * width, p.y * height] for p in found[0].landmark]) if found else None

        yield find


def picture(pipe, yaw=0.0, **values) -> np.ndarray:
    """A 512x512 frame of the person under `values` (expression names or fields of FlameMotion)."""
    motion = FlameMotion.zeros(1)
    for name, value in values.items():
        if name in EXPRESSION_NAMES:
            motion.expression[0, EXPRESSION_NAMES.index(name)] = value
        else:
            getattr(motion, name)[0, : len(value)] = torch.tensor(value)
    model = pipe.model
    with torch.no_grad():
        image = model.render(model.pose(motion), model.camera(512, yaw=np.deg2rad(yaw))).images[0]
    return (image.numpy() * 255 + 0.5).astype(np.uint8)


def lip_gap(marks: np.ndarray) -> float:
    """Inner-lip gap over face height."""
    return np.linalg.norm(marks[13] - marks[14]) / np.linalg.norm(marks[10] - marks[152])


def eye_gap(marks: np.ndarray) -> float:
    """Lid gap over eye width, mean of both eyes."""
    gap = lambda a, b, c, d: np.linalg.norm(marks[a] - marks[b]) / np.linalg.norm(marks[c] - marks[d])  # noqa: E731
    return (gap(159, 145, 33, 133) + gap(386, 374, 362, 263)) / 2


def test_face_is_found_in_every_pose(pipe, find_landmarks):
    """Neutral, wide open, smiling, blinking, and turned from -30 to 30 degrees."""
    poses = [{}, {"jaw_pose": [0.3]}, {"mouthSmile_L": 1.0, "mouthSmile_R": 1.0}, {"eyelids": [1.0, 1.0]}]
    poses += [{"yaw": yaw} for yaw in (-30, -20, -10, 10, 20, 30)]
    missing = [p for p in poses if find_landmarks(picture(pipe, **p)) is None]
    assert not missing


def test_detector_sees_what_the_rig_does(pipe, find_landmarks):
    """Closed lips are closed, an open jaw opens, lids shut, brows rise, a smile widens the mouth."""
    neutral, opened, shut, brows, smile = (
        find_landmarks(picture(pipe, **p))
        for p in (
            {},
            {"jaw_pose": [0.25]},
            {"eyelids": [1.0, 1.0]},
            {n: 1.0 for n in EXPRESSION_NAMES if n.startswith(("browInnerUp", "browOuterUp"))},
            {"mouthSmile_L": 1.0, "mouthSmile_R": 1.0},
        )
    )
    assert lip_gap(neutral) < 0.02 and lip_gap(opened) > 0.08
    assert eye_gap(neutral) > 0.2 and eye_gap(shut) < 0.6 * eye_gap(neutral)
    brow = lambda m: (m[[105, 334], 1] - m[[159, 386], 1]).mean()  # noqa: E731
    assert brow(brows) < brow(neutral) - 3
    width = lambda m: np.linalg.norm(m[61] - m[291])  # noqa: E731
    assert width(smile) > width(neutral) * 1.05


def test_face_is_found_in_every_frame_of_speech_and_lips_follow_the_jaw(pipe, find_landmarks):
    """Two seconds of the sample: a face everywhere, and the seen lip gap correlates with the jaw that made it."""
    out = pipe(sample_path())
    frames = range(20, 70, 2)
    marks = [find_landmarks((out.frames[i] * 255 + 0.5).astype(np.uint8)) for i in frames]
    assert all(m is not None for m in marks)
    gap = np.array([lip_gap(m) for m in marks])
    jaw = out.motion.jaw_pose[list(frames), 0].numpy()
    assert np.corrcoef(gap, jaw)[0, 1] > 0.6
