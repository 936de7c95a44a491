"""A driving clip in place of the generators: about the rest pose, in a loop without a jump, at any frame rate."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from emotag_hf.constants import ACTION_UNITS, EXPRESSION_NAMES
from emotag_hf.motion.driving_motion import UPPER_FACE, DrivingClip, driving_motion
from emotag_hf.motion.motion_generator import generate_upper_face
from emotag_hf.outputs import FlameMotion
from emotag_hf.utils.rotations import rotation_matrix, rotation_to_axis_angle

BROW, SMILE = EXPRESSION_NAMES.index("browInnerUp_L"), EXPRESSION_NAMES.index("mouthSmile_L")


def _motion(frames: int = 100) -> FlameMotion:
    """A head that is turned aside on the whole, moves about that, blinks once and raises its brows and mouth."""
    rng, t = np.random.default_rng(0), np.arange(frames) / 25
    motion = FlameMotion.zeros(frames)
    for name in ("rotation", "neck_pose", "translation", "eyes_pose"):
        rows = getattr(motion, name)
        for d in range(rows.shape[1]):
            rows[:, d] = torch.from_numpy(0.1 + 0.06 * np.sin(2 * np.pi * rng.uniform(0.2, 0.8) * t + d))
    motion.eyelids[:] = 0.2
    motion.eyelids[40:45] = 1.0
    motion.eyes_pose[40:45, [0, 3]] += 0.3  # what a blink looks like to a tracker
    motion.expression[60:80, BROW] = 0.5
    motion.expression[:, SMILE] = 0.7
    return motion


def test_a_person_driven_by_their_own_clip_moves_as_in_it():
    """Rest pose and driven motion, put together as `EmoTaGModel.on_rest_pose` does, give back the clip's head."""
    motion = _motion()
    driven = driving_motion(motion, np.arange(100) / 25, ("pose",)).values
    root, neck = (rotation_matrix(getattr(motion, n).double().mean(0)) for n in ("rotation", "neck_pose"))
    both = rotation_matrix(driven["rotation"].double()) @ neck @ rotation_matrix(driven["neck_pose"].double())
    head = rotation_matrix(motion.rotation.double()) @ rotation_matrix(motion.neck_pose.double())
    # Root and neck do not commute; on the way the clip's root turn is taken off the left.
    torch.testing.assert_close(rotation_to_axis_angle(root @ both), rotation_to_axis_angle(head), atol=1e-5, rtol=0)
    back = driven["translation"].double() @ root.T + motion.translation.double().mean(0)
    torch.testing.assert_close(back, motion.translation.double(), atol=1e-6, rtol=0)


def test_pose_is_about_the_clips_own_usual_pose():
    """Where the head is on the whole and where the clip's camera stood do not reach the avatar."""
    driven = driving_motion(_motion(), np.arange(100) / 25, ("pose",)).values
    assert set(driven) == {"rotation", "neck_pose", "translation", "eyes_pose"}
    for name in ("rotation", "neck_pose", "translation"):
        assert driven[name].mean(0).abs().max() < 0.01 and driven[name].abs().max() > 0.04, name
    assert driven["eyes_pose"].median(0).values.abs().max() < 0.03  # of frames with open eyes


def test_a_blink_does_not_throw_the_gaze():
    """A tracker sees eyes leap while lids are down; the gaze is taken from before and after."""
    driven = driving_motion(_motion(), np.arange(100) / 25, ("pose",)).values
    assert driven["eyes_pose"].diff(dim=0).abs().max() < 0.05


def test_expression_is_of_the_upper_face_alone():
    """Brows and lids come, the mouth stays the speech's; the usual opening of the lids is open."""
    driven = driving_motion(_motion(), np.arange(100) / 25, ("expression",)).values
    assert set(driven) == {"eyelids", "expression", "action_units"}
    assert driven["expression"][70, BROW] == 0.5 and driven["expression"][20, BROW] == 0
    others = [i for i in range(50) if i not in UPPER_FACE]
    assert driven["expression"][:, others].abs().max() == 0
    assert driven["eyelids"][20].max() == 0 and driven["eyelids"][42].min() == 1
    assert driven["action_units"][42, 5] == 5 and driven["action_units"][70, 0] == pytest.approx(1.25)


def test_a_clips_own_action_units_are_used():
    """A processed clip knows its units; the six that GRMN reads are taken."""
    units = torch.rand(100, len(ACTION_UNITS)) * 5
    track = SimpleNamespace(motion=_motion(), valid=torch.ones(100, dtype=torch.bool))
    driven = driving_motion(SimpleNamespace(track=track, features={"action_units": units}), np.arange(100) / 25)
    columns = [ACTION_UNITS.index(name) for name in ("AU01", "AU04", "AU05", "AU06", "AU07", "AU45")]
    torch.testing.assert_close(driven.values["action_units"], units[:, columns])


@pytest.mark.parametrize("fps", [25, 60])
@pytest.mark.parametrize("frames", [2, 10, 100])
def test_a_long_video_loops_without_a_jump(frames, fps):
    """Five times the clip's length: steps between frames never exceed what the clip itself and its fade do."""
    motion = _motion(frames)
    values = driving_motion(motion, np.arange(frames * 5 * fps // 25) / fps).values
    for name in ("rotation", "neck_pose", "translation"):
        own = getattr(motion, name)
        biggest = own.diff(dim=0).abs().max() * 25 / fps
        spread = (own.amax(0) - own.amin(0)).max()
        fade = min(0.6, (frames - 1) / 75) * fps
        assert values[name].diff(dim=0).abs().max() <= 1.05 * biggest + 1.9 * spread / fade + 1e-6, name
        if frames > 2:
            assert values[name][-len(own) :].std(0).min() > 0.3 * own.std(0).min()  # it goes on moving


def test_the_first_round_is_the_clip_itself_and_chunks_are_the_whole():
    """No smoothing of what was filmed; a stream gets the same bits."""
    motion, times = _motion(), np.arange(1000) / 25
    clip = DrivingClip(motion)
    whole = clip.at(times)
    assert torch.equal(whole.weight, torch.ones(1000))
    torch.testing.assert_close(whole.values["expression"][:100, BROW], motion.expression[:, BROW])
    for name in whole.values:
        parts = [clip.at(times[i : i + 7]).values[name] for i in range(0, 1000, 7)]
        assert torch.equal(torch.cat(parts), whole.values[name]), name


def test_a_later_start_takes_over_smoothly():
    """Before it the generated motion, after 0.6 s the clip's, nothing between that neither would do."""
    times = np.arange(200) / 25
    upper = generate_upper_face(times, np.full(200, 0.3), 0)
    driven = driving_motion(_motion(), times, start=4.0)
    mixed = driven.onto(upper)
    assert torch.equal(mixed.rotation[:100], upper.rotation[:100])
    torch.testing.assert_close(mixed.rotation[116:], driven.values["rotation"][116:])
    apart = (upper.neck_pose - driven.values["neck_pose"]).abs().max()
    own = upper.neck_pose.diff(dim=0).abs().max() + driven.values["neck_pose"].diff(dim=0).abs().max()
    assert mixed.neck_pose.diff(dim=0).abs().max() < own + apart * 0.16


def test_only_what_was_asked_for_is_replaced():
    """`pose_from` leaves brows and blinks, `expression_from` leaves the head; lids follow the clip's gaze."""
    times = np.arange(100) / 25
    upper = generate_upper_face(times, np.full(100, 0.3), 0)
    pose = driving_motion(_motion(), times, "pose").onto(upper)
    assert torch.equal(pose.expression, upper.expression) and torch.equal(pose.action_units, upper.action_units)
    assert pose.eyelids.max() == upper.eyelids.max() and not torch.equal(pose.eyelids, upper.eyelids)
    face = driving_motion(_motion(), times, ("expression",)).onto(upper)
    assert torch.equal(face.rotation, upper.rotation) and torch.equal(face.eyes_pose, upper.eyes_pose)
    assert not torch.equal(face.eyelids, upper.eyelids)
    with pytest.raises(ValueError, match="upper: expected 50 frames, as many as times, got 100"):
        driving_motion(_motion(), times[:50]).onto(upper)


def test_one_frame_is_held():
    """A photograph's pose: nothing moves, nothing fails."""
    values = driving_motion(_motion(1), np.arange(10) / 25).values
    assert values["rotation"].shape == (10, 3) and values["rotation"].diff(dim=0).abs().max() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ("mouth",)}, "parts: expected 'pose', 'expression' or both, got"),
        ({"parts": ()}, "parts: expected"),
        ({"times": np.array([0, np.nan])}, "times: expected finite seconds"),
        ({"start": float("inf")}, "start: expected finite seconds"),
        ({"source": "clip"}, "source: expected a ProcessedClip, a HeadTrack or a FlameMotion, got str"),
    ],
)
def test_bad_input_is_named(arguments, message):
    """One sentence each."""
    with pytest.raises(ValueError, match=message):
        driving_motion(**({"source": _motion(), "times": np.zeros(2)} | arguments))


def test_a_clip_without_a_face_is_refused():
    """Nothing to take motion from."""
    track = SimpleNamespace(motion=_motion(5), valid=torch.zeros(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="source: expected frames with a face"):
        driving_motion(track, np.zeros(2))
