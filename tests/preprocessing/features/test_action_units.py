"""Action units: from the fitted head alone, refined with blendshapes, and from OpenFace's CSV."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from emotag_hf.constants import ACTION_UNITS, EXPRESSION_NAMES, GRMN_ACTION_UNITS
from emotag_hf.models.modeling_head import ParametricHead
from emotag_hf.outputs import FlameMotion
from emotag_hf.preprocessing.features.action_units import (
    ACTION_UNIT_TABLE,
    action_units_from_track,
    calibrate,
    grmn_action_units,
    read_openface_csv,
    refine_with_blendshapes,
)
from emotag_hf.preprocessing.tracking.fit import fit_head
from emotag_hf.preprocessing.tracking.head_track import HeadTrack
from emotag_hf.preprocessing.tracking.landmarks import track_landmarks
from emotag_hf.rendering.cameras import Camera
from emotag_hf.video.video_reader import read_video

RESTING_LIDS = 0.2  # how far the head's lids are down in a relaxed face


@pytest.fixture(scope="module")
def head() -> ParametricHead:
    return ParametricHead.from_asset()


def resting(num_frames: int) -> FlameMotion:
    motion = FlameMotion.zeros(num_frames)
    motion.eyelids[:] = RESTING_LIDS
    return motion


def track_of(head: ParametricHead, motion: FlameMotion, shape: torch.Tensor | None = None) -> HeadTrack:
    """A track that found exactly this motion."""
    frames = len(motion)
    ones = torch.ones(frames)
    return HeadTrack(
        motion=motion, shape=torch.zeros(head.num_shape) if shape is None else shape, camera=Camera.portrait(512),
        valid=ones.bool(), confidence=ones, error=ones, held_out_error=ones, landmarks=torch.zeros(frames, 478, 3),
        head_sha256=head.sha256,
    )  # fmt: skip


def bumps(num_frames: int = 100) -> torch.Tensor:
    """`[T]` 0..1: rest, a hump, rest, a second one."""
    wave = torch.sin(torch.arange(num_frames) / num_frames * 4 * math.pi - math.pi / 2)
    return wave.clamp_min(0)


def set_expression(motion: FlameMotion, values: torch.Tensor, *names: str) -> None:
    for i, name in enumerate(EXPRESSION_NAMES):
        if name.removesuffix("_L").removesuffix("_R") in names:
            motion.expression[:, i] = values


MOVEMENTS = {
    "AU01": ("browInnerUp",), "AU02": ("browOuterUp",), "AU04": ("browDown",), "AU05": ("eyeWide",),
    "AU06": ("cheekRaiser", "mouthSmile"), "AU07": ("eyeSquint",), "AU09": ("noseSneer",), "AU12": ("mouthSmile",),
    "AU15": ("mouthFrown",), "AU17": ("mouthShrugLower", "mouthShrugUpper"), "AU20": ("mouthStretch",),
}  # fmt: skip
# What moves with it by the nature of the face, and is not held against the unit.
COMPANIONS = {
    "AU01": {"AU02"}, "AU02": {"AU01", "AU05"}, "AU06": {"AU07", "AU12", "AU17", "AU45"}, "AU12": {"AU06", "AU17"},
    "AU09": {"AU04", "AU06", "AU07", "AU12", "AU17"}, "AU15": {"AU17"}, "AU17": {"AU12"},
    "AU20": {"AU12", "AU15", "AU17"},
}  # fmt: skip


@pytest.mark.parametrize("unit", MOVEMENTS)
def test_each_unit_follows_its_movement(head, unit):
    """A movement of the face moves its own unit in step with it, and the units of other places little."""
    motion = resting(100)
    set_expression(motion, 0.7 * bumps(), *MOVEMENTS[unit])
    aus = action_units_from_track(track_of(head, motion), head)
    own = aus[:, ACTION_UNITS.index(unit)]
    assert aus.shape == (100, 14) and aus.dtype == np.float32 and 0 <= aus.min() and aus.max() <= 5
    assert own.max() > 1.2 and own[bumps().numpy() == 0].max() < 0.2
    assert np.corrcoef(own, bumps().numpy())[0, 1] > 0.9
    others = {u: aus[:, i].max() for i, u in enumerate(ACTION_UNITS) if u != unit and u not in COMPANIONS.get(unit, ())}
    assert max(others.values()) < 0.8, others


def test_lowered_brows_are_read_from_the_gap_between_them(head):
    """AU04 was read from browDown, which is ambiguous on real clips. In fear the inner brows go up, but the
    gap between them narrows; brows that only rise are not lowered."""
    peaks = []
    for down in (0.55, 0.0):
        motion = resting(100)
        set_expression(motion, 0.95 * bumps(), "browInnerUp")
        set_expression(motion, down * bumps(), "browDown")
        aus = action_units_from_track(track_of(head, motion), head)
        peaks.append(aus[:, ACTION_UNITS.index("AU04")].max())
    assert peaks[0] > 1.5 and peaks[1] < 0.2


def test_jaw_and_lips(head):
    """An open jaw is AU26 and AU25 and neither a smile nor a frown; lips held shut over it take AU25 away."""
    motion = resting(100)
    motion.jaw_pose[:, 0] = 0.3 * bumps()
    aus = action_units_from_track(track_of(head, motion), head)
    peak = dict(zip(ACTION_UNITS, aus.max(0), strict=True))
    assert peak["AU26"] > 3 and peak["AU25"] > 3 and max(peak["AU12"], peak["AU15"], peak["AU20"], peak["AU17"]) < 0.3
    set_expression(motion, 0.3 * bumps() / 0.442, "mouthClose")
    shut = action_units_from_track(track_of(head, motion), head)
    assert shut[:, ACTION_UNITS.index("AU25")].max() < 0.3


def test_blinks(head):
    """Shut lids are AU45 at its upper end, in a face whose resting lids are low as well as in one with open eyes."""
    for resting_lids in (0.0, 0.2, 0.4):
        motion = FlameMotion.zeros(100)
        motion.eyelids[:] = resting_lids
        motion.eyelids[40:44] = torch.tensor([0.6, 1.0, 1.0, 0.6])[:, None]
        blink = action_units_from_track(track_of(head, motion), head)[:, ACTION_UNITS.index("AU45")]
        assert blink[41:43].min() > 4.5 and blink[:39].max() == 0 and blink[45:].max() == 0
    motion.eyelids[:] = 1.0  # asleep: nobody knows this person's open eye
    asleep = action_units_from_track(track_of(head, motion), head)[:, ACTION_UNITS.index("AU45")]
    assert asleep.min() > 4


def test_pose_and_identity_do_not_matter(head):
    """Turning the head or being somebody else changes no unit."""
    motion = resting(100)
    set_expression(motion, 0.6 * bumps(), "mouthSmile", "browInnerUp")
    motion.jaw_pose[:, 0] = 0.1 * bumps()
    plain = action_units_from_track(track_of(head, motion), head)
    motion.rotation[:, 1], motion.neck_pose[:, 0], motion.translation[:, 2] = 0.7, 0.3, -0.2
    assert np.abs(action_units_from_track(track_of(head, motion), head) - plain).max() < 1e-3
    other = track_of(head, motion, torch.randn(head.num_shape, generator=torch.Generator().manual_seed(0)))
    difference = np.abs(action_units_from_track(other, head) - plain)
    difference[:, ACTION_UNITS.index("AU05")] = 0  # the opening of the eyes is the one absolute measure
    assert difference.max() < 0.6


def test_a_lasting_smile_stays(head):
    """Calibration must not take away an expression that lasts as long as the clip."""
    motion = resting(60)
    set_expression(motion, torch.full((60,), 0.7), "mouthSmile")
    smile = action_units_from_track(track_of(head, motion), head)[:, ACTION_UNITS.index("AU12")]
    assert smile.min() > 2


def test_calibration_rule():
    """Half of a resting offset goes, half an intensity at most either way; without valid frames nothing goes."""
    rest, valid = np.full(50, 0.8), np.ones(50, bool)
    assert np.allclose(calibrate(rest, valid, 0.5), 0.4)
    assert np.allclose(calibrate(rest + 3, valid, 0.5), 3.3)
    assert np.allclose(calibrate(np.where(np.arange(50) < 40, -2.0, 3.0), valid, 0.5), [0.0] * 40 + [3.5] * 10)
    assert np.allclose(calibrate(rest, ~valid, 0.5), 0.8)
    late = np.where(np.arange(50) < 10, 4.0, 0.8)
    assert np.allclose(calibrate(late, np.arange(50) >= 10, 0.5)[20:], 0.4)  # invalid frames have no say


def test_another_head_is_refused(head):
    """Numbers of one head asset mean nothing on another."""
    track = track_of(head, resting(3))
    track.head_sha256 = "0" * 64
    with pytest.raises(ValueError, match="^head: expected the head that the track was fitted with"):
        action_units_from_track(track, head)


def test_grmn_takes_six():
    """GRMN reads its six units in its own order."""
    aus = np.arange(28, dtype=np.float32).reshape(2, 14)
    six = grmn_action_units(aus)
    assert six.shape == (2, 6)
    for column, unit in enumerate(GRMN_ACTION_UNITS):
        assert (six[:, column] == aus[:, ACTION_UNITS.index(unit)]).all()


NAMES = ("_neutral", *sorted({name for rule in ACTION_UNIT_TABLE.values() for name in rule.blendshapes}))


def test_blendshapes_refine():
    """Half of what MediaPipe sees comes in; frames without a face and units that MediaPipe does not see stay."""
    aus = np.ones((20, 14), np.float32)
    shapes = np.zeros((20, len(NAMES)), np.float32)
    shapes[15:, [NAMES.index("mouthSmileLeft"), NAMES.index("mouthSmileRight")]] = 1.0
    shapes[19] = np.nan
    refined = refine_with_blendshapes(aus, shapes, NAMES)
    smile = refined[:, ACTION_UNITS.index("AU12")]
    assert np.allclose(smile[:15], 0.5, atol=0.05) and np.allclose(smile[15:19], 3.0, atol=0.05)
    assert (refined[19] == 1).all() and (refined[:, ACTION_UNITS.index("AU06")] == 1).all()
    assert (aus == 1).all()  # the caller's array is left alone


def test_blendshapes_that_do_not_fit():
    """Wrong lengths and missing names are said."""
    aus, shapes = np.zeros((5, 14), np.float32), np.zeros((5, len(NAMES)), np.float32)
    with pytest.raises(ValueError, match="^blendshapes: expected"):
        refine_with_blendshapes(aus, shapes[:4], NAMES)
    renamed = ["x" if name == "jawOpen" else name for name in NAMES]
    with pytest.raises(ValueError, match="^names: expected MediaPipe's blendshapes with jawOpen"):
        refine_with_blendshapes(aus, shapes, renamed)


def write_openface(path, num_rows: int, fps: float = 30.0, failed: range = range(0), drop: str = "") -> None:
    """OpenFace's table: AU12 grows by 1 a second, AU45 is 2; failed rows hold rubbish."""
    names = ["frame", "face_id", "timestamp", "confidence", "success", *[f"{u}_r" for u in ACTION_UNITS], "AU28_c"]
    lines = [", ".join(names)]
    for k in range(num_rows):
        values = dict.fromkeys(ACTION_UNITS, 0.0) | {"AU12": min(k / fps, 5.0), "AU45": 2.0}
        if k in failed:
            values = dict.fromkeys(ACTION_UNITS, 4.9)
        row = [k + 1, 0, k / fps, 0.98, int(k not in failed), *values.values(), 0]
        lines.append(", ".join(f"{v:.3f}" for v in row))
    text = "\n".join(lines)
    path.write_text(text.replace(drop, "other") if drop else text)


def test_openface_csv(tmp_path):
    """OpenFace's 30 rows a second come out at the clip's 25 frames a second, failed rows bridged."""
    write_openface(tmp_path / "a.csv", 120, failed=range(30, 40))
    aus = read_openface_csv(tmp_path / "a.csv", 100)
    assert aus.shape == (100, 14)
    assert np.allclose(aus[:, ACTION_UNITS.index("AU12")], np.arange(100) / 25, atol=2e-2)
    assert np.allclose(aus[:, ACTION_UNITS.index("AU45")], 2) and (aus[:, ACTION_UNITS.index("AU01")] == 0).all()


def test_openface_csv_that_does_not_fit(tmp_path):
    """A wrong file is said in one sentence: no such columns, another clip, no face, cut off, not a table."""
    path = tmp_path / "a.csv"
    write_openface(path, 120, drop="AU12_r")
    with pytest.raises(ValueError, match="lacks AU12_r"):
        read_openface_csv(path, 100)
    write_openface(path, 300)
    with pytest.raises(ValueError, match="expected a table of this clip's 4.00 s, but .* covers 10.00 s"):
        read_openface_csv(path, 100)
    write_openface(path, 120, failed=range(120))
    with pytest.raises(ValueError, match="all rows are marked as failed"):
        read_openface_csv(path, 100)
    write_openface(path, 120)
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match="in row 121 of .* cut off"):
        read_openface_csv(path, 100)
    path.write_text(path.read_text().replace("2.000", "9.000"))
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(ValueError, match="expected intensities from 0 to 5"):
        read_openface_csv(path, 100)
    path.write_bytes(b"\x00\xff\xfe\x80" * 100)
    with pytest.raises(ValueError, match="expected a CSV file"):
        read_openface_csv(path, 100)
    with pytest.raises(FileNotFoundError):
        read_openface_csv(tmp_path / "none.csv", 100)


@pytest.fixture(scope="module")
def clip(test_data, head):
    """A clip's file to its action units, MediaPipe's blendshapes of it (two independent looks), and their names."""
    pytest.importorskip("mediapipe")

    def look(name: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        video = read_video(test_data / "data" / name)
        model = test_data / "models" / "face_landmarker.task"
        found = track_landmarks(video.frames(25.0), video.width, video.height, face_landmarker=model)
        track = fit_head(found, head=head)
        return action_units_from_track(track, head), found.blendshapes, found.blendshape_names

    return look


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "units"),
    [("clips/mead_M003like_happy_512.mp4", ("AU01", "AU12", "AU26")), ("motion/lrs3_OzA6jRYjVQs_00004.mp4", ("AU45",))],
)
def test_units_agree_with_blendshapes(clip, name, units):
    """Brow raise, smile, jaw and blink of the fitted head alone follow what MediaPipe's network sees in the picture."""
    aus, shapes, names = clip(name)
    for unit in units:
        column = shapes[:, [names.index(n) for n in ACTION_UNIT_TABLE[unit].blendshapes]].mean(1)
        there = np.isfinite(column)
        r = np.corrcoef(aus[there, ACTION_UNITS.index(unit)], column[there])[0, 1]
        assert r >= 0.8, (unit, r)
