"""METHOD 7's protocol on a small synthetic person: what training may know, what each mode is given, what is written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from person_clip import FRAMES, SIZE, TRAIN, person_clip

from emotag_hf import EmoTaGModel, default_model_path
from emotag_hf.audio.audio_io import AudioClip
from emotag_hf.constants import MOTION_DIMS
from emotag_hf.evaluation import trial as trial_module
from emotag_hf.evaluation.driving import sound_of
from emotag_hf.evaluation.protocol import evaluate, evaluate_modes, read_metrics, weights_sha256
from emotag_hf.evaluation.report import MODES
from emotag_hf.evaluation.split import SplitClip, follow, plate_for, split_frames
from emotag_hf.evaluation.trial import Trial
from emotag_hf.models.processing_emotag import EmoTaGProcessor
from emotag_hf.preprocessing.tracking.photometric import RefineOptions
from emotag_hf.rights.provenance import read_provenance
from emotag_hf.training.gaussians.adapt_arguments import AdaptArguments
from emotag_hf.video.cropping import FrameCrop
from emotag_hf.video.video_reader import read_video

TINY = AdaptArguments(
    steps=3,
    num_surface=800,
    num_beside=200,
    num_correctives=2,
    size=128,
    crop=64,
    validation_share=0.1,
    trial_steps=1,
)
OPTIONS = {
    "train_fraction": TRAIN / FRAMES,
    "arguments": TINY,
    "prior": None,
    "refine": RefineOptions(steps=1, size=64),
    "progress": False,
}
TEST = range(TRAIN, FRAMES)


@pytest.fixture(scope="module", autouse=True)
def no_mediapipe():
    """Scores without landmarks, as where MediaPipe is not installed: they have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_module, "is_available", lambda name: False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("protocol")


@pytest.fixture(scope="module")
def clean(folder):
    return person_clip(folder / "clean")


@pytest.fixture(scope="module")
def spoilt(folder):
    """The same, but all that belongs to the test frames is noise, and so is what the whole clip has in common."""
    return person_clip(folder / "spoilt", TEST)


@pytest.fixture(scope="module")
def training(clean):
    """The training part of the clean clip."""
    return SplitClip(clean, range(TRAIN))


@pytest.fixture(scope="module")
def followed(clean, training):
    """All its frames, with the identity of the training part."""
    return follow(clean, training.track.shape)


@pytest.fixture(scope="module")
def runs(folder, clean, spoilt):
    """Every mode on both."""
    return [evaluate_modes(clip, folder / f"{clip.path.name}_out", **OPTIONS) for clip in (clean, spoilt)]


def pictures(path) -> np.ndarray:
    return np.stack(list(read_video(path).frames()))


def test_test_frames_cannot_reach_the_weights(runs, folder, clean, spoilt):
    """Noise in the test frames' pixels, mattes, landmarks and features changes no bit of Gaussians, expression code,
    identity and personalised motion; of the test frames themselves, it changes everything."""
    one, other = runs
    assert clean.info["source"]["sha256"] != spoilt.info["source"]["sha256"]
    assert not torch.equal(clean.track.shape, spoilt.track.shape)
    for a, b in zip(one, other):
        assert a.weights == b.weights and set(a.weights) == {"base_motion", "avatar", "motion"}
        assert a.train_frames == b.train_frames == list(range(TRAIN)) and a.split == b.split == "later"
        assert a.scores["psnr"] > b.scores["psnr"] + 5
    # What is made from the sound alone is even the same picture.
    same = [np.array_equal(*(pictures(folder / f"{n}_out" / f"{m}.mp4") for n in ("clean", "spoilt"))) for m in
            ("audio_only", "driven", "oracle")]  # fmt: skip
    assert same == [True, False, False]


@pytest.mark.slow
def test_training_frames_do_reach_the_weights(runs, folder):
    """The test above can fail: noise that begins five frames earlier gives other weights."""
    clip = person_clip(folder / "touched", range(TRAIN - 5, FRAMES))
    touched = evaluate(clip, folder / "touched_out", **OPTIONS)
    assert touched.weights["avatar"] != runs[0][0].weights["avatar"]
    assert touched.weights["base_motion"] == runs[0][0].weights["base_motion"]


def test_what_training_sees(clean, spoilt, training):
    """Track, plate and features of the training part are the same to the bit whatever the test part holds; other frames
    are refused, are not valid, and have no features."""
    one, other = training, SplitClip(spoilt, range(TRAIN))
    a, b = one.track.to_tensors()[0], other.track.to_tensors()[0]
    assert all(torch.equal(a[name], b[name]) for name in a.keys() - {"landmarks", "error", "held_out_error"})
    assert torch.equal(a["landmarks"][:TRAIN], b["landmarks"][:TRAIN]) and a["landmarks"][TRAIN:].isnan().all()
    assert one.valid[:TRAIN].all() and not one.valid[TRAIN:].any()
    assert np.array_equal(one.background[0], other.background[0])
    assert abs(one.background[0][5, 5].astype(int) - 76).max() < 6  # the wall, not what the spoilt clip's file says
    for name in ("action_units", "emotion", "emotion_score", "identity", "input_features"):
        assert torch.equal(one.features[name], other.features[name]), name
    assert not one.features["action_units"][TRAIN:].any() and one.features["emotion"][:TRAIN].sum() == pytest.approx(
        TRAIN
    )
    assert one.audio_offset == other.audio_offset
    assert np.array_equal(one.frame(3), clean.frame(3)) and np.array_equal(one.frames([2, 4])[1], clean.frame(4))
    for read in (one.frame, one.matte, one.depth, one.normals):
        with pytest.raises(ValueError, match=f"index: expected a frame that is trained on, got {TRAIN}, which is kept"):
            read(TRAIN)
    with pytest.raises(IndexError):
        one.frame(FRAMES)


def test_tracking_with_a_known_identity(clean, training, followed):
    """Test frames are followed with the identity of training, close to what the whole clip's own fit says of them."""
    shape = training.track.shape
    assert not torch.equal(shape, clean.track.shape)
    assert torch.equal(followed.shape, shape) and followed.valid.all()
    turn = lambda motion: (motion.rotation + motion.neck_pose)[TRAIN:]  # noqa: E731
    assert (turn(followed.motion) - turn(clean.track.motion)).abs().max() < 0.03  # rad


def test_what_each_mode_is_given(clean, training, followed):
    """Driven takes pose, gaze and lids of the test frames and not their expression; audio-only takes none of it; both
    are as many frames as are tested."""
    model = EmoTaGModel.from_pretrained(default_model_path())
    rest = {"rotation": [0.1, 0, 0], "neck_pose": [0, 0, 0], "translation": [0, 0, 0.05]}
    model.config.rest_pose = rest | {"body_translation": [0, 0.01, 0]}
    model.shape.copy_(training.track.shape)
    trial = Trial(model, EmoTaGProcessor(), clean, tuple(TEST), training, refine=RefineOptions(steps=0))
    trial.track = followed
    driven, heard = trial.motion("driven"), trial.motion("audio-only")
    assert len(driven) == len(heard) == len(TEST)
    for name in MOTION_DIMS:
        from_track = torch.allclose(getattr(driven, name), getattr(trial.track.motion, name)[TRAIN:], atol=1e-5)
        assert from_track == (name not in ("expression", "jaw_pose")), name
        if name != "eyelids":  # open in both
            assert not torch.equal(getattr(heard, name), getattr(trial.track.motion, name)[TRAIN:]), name
    torch.testing.assert_close(heard.rotation, torch.tensor([0.1, 0, 0]).expand(len(TEST), 3))
    other = trial.action_units.copy()
    trial.action_units[:] = 5 - other
    assert not torch.equal(trial.motion("driven").expression, driven.expression)
    assert torch.equal(trial.motion("audio-only").expression, heard.expression)


def test_the_folder(runs, folder, clean):
    """The videos hold the test frames alone, with their sound and marked as generated; metrics.json says which frames
    and weights, once, and gives the evaluations back. No real frame is written unless asked for."""
    out = folder / "clean_out"
    assert sorted(path.name for path in out.iterdir()) == ["audio_only.mp4", "driven.mp4", "metrics.json", "oracle.mp4"]
    for mode in MODES:
        video = read_video(out / f"{mode.replace('-', '_')}.mp4")
        assert pictures(video.path).shape == (len(TEST), SIZE, SIZE, 3)
        assert video.sound().duration == pytest.approx(len(TEST) / 25, abs=0.05)
        assert read_provenance(video.path)["ai_generated"] and read_provenance(video.path)["mode"] == mode
    content = json.loads((out / "metrics.json").read_text())
    assert content["test_frames"] == list(TEST) and content["train_frames"] == list(range(TRAIN))
    assert content["true_background"] is False and content["arguments"]["steps"] == TINY.steps
    assert content["personalised"]["status"] in ("personalised", "rolled back")
    assert read_metrics(out / "metrics.json") == runs[0]
    assert [one.mode for one in runs[0]] == list(MODES)
    assert {"tracking the training frames", "training", "motion", "video", "scores"} <= runs[0][0].seconds.keys()


@pytest.mark.slow
def test_diagnostics(folder, clean, runs):
    """Blocks by turns are no later frames; the true background stands where nobody is, and is owned up to. An earlier
    evaluation's files go, other files stay. Pictures of the real person come only when they are asked for."""
    out = folder / "diagnostic_out"
    out.mkdir()
    (out / "driven.mp4").write_bytes(b"old")
    (out / "mine.txt").write_text("stays")
    model = EmoTaGModel.from_pretrained(default_model_path())
    options = OPTIONS | {"refine": RefineOptions(steps=0)}
    one = evaluate(clean, out, blocks=True, model=model, true_background=True, truth=True, sheet=True, **options)
    assert one.split == "mixed" and one.test_frames == [*range(15, 30)] and one.train_frames == [*range(15), 30, 31]
    names = ["metrics.json", "mine.txt", "oracle.mp4", "sheet.png", "truth.mp4"]
    assert sorted(path.name for path in out.iterdir()) == names
    content = json.loads((out / "metrics.json").read_text())
    assert content["true_background"] is True and content["blocks"] is True and one.scores["true_background"] is True
    assert one.weights["avatar"] == weights_sha256(model.gaussians, model.expression_code, shape=model.shape)
    matte, truth, made = clean.matte(20), clean.frame(20).astype(int), pictures(out / "oracle.mp4")[5].astype(int)
    assert abs(made - truth)[matte == 0].mean() < 3 < abs(made - truth)[matte == 255].mean()
    assert abs(pictures(out / "truth.mp4")[5] - truth).mean() < 3


@pytest.mark.slow
def test_another_clip(folder, clean, spoilt):
    """Training on another clip: all of it, and any frame of this one is tested on."""
    options = OPTIONS | {"refine": RefineOptions(steps=0), "test_frames": range(4)}
    model = EmoTaGModel.from_pretrained(default_model_path())
    one = evaluate(clean, folder / "other_out", train_clip=spoilt, model=model, **options)
    assert one.split == "other clip" and one.train_clip == "spoilt" and len(one.train_frames) == FRAMES
    assert one.test_frames == [0, 1, 2, 3]


def test_split():
    """The first part trains, all later frames test, unless blocks or numbers are asked for."""
    assert split_frames(10).train == tuple(range(5)) and split_frames(10).test == tuple(range(5, 10))
    some = split_frames(100, fraction=0.25, test_frames=range(50, 60))
    assert some.train == tuple(range(25)) and some.test == tuple(range(50, 60))
    blocks = split_frames(50, blocks=True)
    assert blocks.train == (*range(15), *range(30, 45)) and blocks.test == (*range(15, 30), *range(45, 50))
    assert split_frames(5, train_count=7).train == tuple(range(7)) and len(split_frames(5, train_count=7).test) == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fraction": 1.0}, "train_fraction: expected a number between 0 and 1, got 1.0"),
        ({"fraction": 0.01}, "train_fraction: expected at least 2 frames"),
        ({"fraction": 0.95}, "test_frames: expected at least 2 frames"),
        (
            {"test_frames": range(9, 15)},
            "test_frames: expected frames later than the training frames, which end with 9",
        ),
        ({"test_frames": [12, 11]}, "test_frames: expected different frames from 0 to 19 in rising order"),
        ({"test_frames": range(15, 25)}, "test_frames: expected different frames from 0 to 19"),
        ({"test_frames": []}, "test_frames: expected at least 2 frames"),
        ({"blocks": True, "test_frames": range(3)}, "blocks: expected neither"),
    ],
)
def test_splits_that_cannot_be(options, sentence):
    """One sentence that names the argument."""
    with pytest.raises(ValueError, match=sentence):
        split_frames(20, **options)


def test_bad_input(folder, clean, tmp_path):
    """Said before any work; nothing is written."""
    with pytest.raises(ValueError, match="modes: expected one or more different ones of oracle, driven, audio-only"):
        evaluate(clean, tmp_path / "out", mode="magic", **OPTIONS)
    mute = person_clip(tmp_path / "mute", sound=False)
    with pytest.raises(ValueError, match="modes: driven and audio-only need sound, and the clip has none"):
        evaluate(mute, tmp_path / "out", mode="driven", **OPTIONS)
    with pytest.raises(ValueError, match="train_clip: expected another video than the clip's, got the same"):
        evaluate(clean, tmp_path / "out", train_clip=clean, **OPTIONS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="output: expected a folder or nothing"):
        evaluate(clean, tmp_path / "file", **OPTIONS)
    with pytest.raises(FileNotFoundError):
        evaluate(tmp_path / "nobody.mp4", tmp_path / "out", **OPTIONS)
    with pytest.raises(ValueError, match="path: expected the metrics.json of an evaluation"):
        read_metrics(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="expected a metrics.json"):
        read_metrics(tmp_path / "gone")
    clean.track.landmarks[:2] = torch.nan
    with pytest.raises(ValueError, match="train_frames: expected a face in at least one of 2 frames"):
        SplitClip(clean, [0, 1]).track  # noqa: B018
    clean.close()  # forgets it


def test_sound_of_frames():
    """The sound of a stretch of frames; what comes late is fetched from later on, and silence stands where there is
    none."""
    audio = AudioClip(np.arange(25 * 40, dtype=np.float32)[:, None] / 1000, 1000)
    assert np.array_equal(sound_of(audio, range(2, 4)).samples, audio.samples[80:160])
    assert np.array_equal(sound_of(audio, range(2, 4), late=1.5).samples, audio.samples[140:220])
    early = sound_of(audio, range(1, 3), late=-2).samples
    assert not early[:40].any() and np.array_equal(early[40:], audio.samples[:40])
    end = sound_of(audio, range(23, 25), late=1).samples
    assert np.array_equal(end[:40], audio.samples[-40:]) and len(end) == 80 and not end[40:].any()


def test_plate_of_another_window():
    """A plate is moved and scaled so that a place of the source picture stays that place."""
    y, x = np.mgrid[:100, :100]
    picture = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    made = FrameCrop(0, 0, 100, 100, 100, 100, 100, 100)
    assert plate_for(picture, made, made) is picture
    half = plate_for(picture, made, FrameCrop(25, 25, 50, 50, 100, 100, 100, 100))
    assert (
        abs(half[50, 50].astype(int) - (50, 50, 0)).max() <= 1 and abs(half[2, 90].astype(int) - (70, 26, 0)).max() <= 1
    )
    double = plate_for(picture, made, FrameCrop(0, 0, 200, 200, 60, 60, 200, 200))
    assert double.shape == (60, 60, 3) and abs(double[30, 30].astype(int) - (50, 50, 0)).max() <= 1
    apart = plate_for(picture, made, FrameCrop(200, 0, 50, 50, 20, 20, 400, 400))
    assert apart.shape == (20, 20, 3)


@pytest.mark.slow
@pytest.mark.real_data
def test_a_real_person(test_data, tmp_path, monkeypatch):
    """A video of a real person, a short training: later frames are clearly that person, lips move with theirs, action
    units are compared, and driving by pixels beats driving by landmarks."""
    monkeypatch.setattr(trial_module, "is_available", lambda name: True)
    video = test_data / "data" / "clips" / "mead_angry_L1_512.mp4"
    options = {"arguments": AdaptArguments(steps=150, validation_share=0.0), "prior": None, "action_units": True}
    one = evaluate(video, tmp_path, refine=RefineOptions(steps=15, size=256), **options)
    assert one.split == "later" and one.scores["psnr_face_box"] > 27 and one.scores["lip_r"] > 0.8
    assert one.scores["aue_lower"] < 5 and one.intervals["psnr"][0] < one.scores["psnr"]
    clip = tmp_path / "mead_angry_L1_512_clip"
    other = evaluate(clip, tmp_path, refine=RefineOptions(steps=0), **options)
    assert other.weights == one.weights
    assert other.scores["psnr_face_box"] < one.scores["psnr_face_box"] - 1
