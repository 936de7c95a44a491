"""Both pipelines, from a recording to an mp4, on the embedded avatar."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import emotag_hf
from emotag_hf import EmoTaGPipeline, default_model_path, sample_path
from emotag_hf.constants import EMOTIONS, EXPRESSION_NAMES
from emotag_hf.video.video_reader import read_video


@pytest.fixture(scope="module")
def speech():
    """1.3 seconds of the embedded sample, 16 kHz."""
    from emotag_hf.audio.audio_io import load_audio

    return load_audio(sample_path()).mono(16000)[4000:24800]


def test_three_lines(speech, tmp_path):
    """The promise of the README: import, pipeline, save; the video has the sound's length and is marked."""
    from transformers import pipeline

    out = pipeline("talking-head")({"array": speech, "sampling_rate": 16000}, size=128)
    out.save(tmp_path / "out.mp4")
    video = read_video(tmp_path / "out.mp4")
    frames = list(video.frames())
    assert len(frames) == len(out.frames) == int(np.ceil(len(speech) / 640)) and frames[0].shape == (128, 128, 3)
    assert video.audio is not None and abs(video.audio.duration - len(speech) / 16000) < 0.06
    assert emotag_hf.read_provenance(tmp_path / "out.mp4")["ai_generated"] is True


def test_both_pipelines_give_the_same_frames(pipe, speech):
    """They share every step; nothing is written twice."""
    from transformers import pipeline

    options = dict(size=96, emotion="happy", intensity=0.6, seed=3)
    ours = pipe(speech, sampling_rate=16000, **options)
    theirs = pipeline("talking-head", model=default_model_path())({"array": speech, "sampling_rate": 16000}, **options)
    assert np.array_equal(ours.frames[20], theirs.frames[20])


def test_same_seed_same_frames_to_the_bit_and_another_seed_others(pipe, speech):
    """Reproducible however the frames are read: in turn, by index, by slice."""
    a, b, c = (pipe(speech, sampling_rate=16000, size=128, seed=s) for s in (5, 5, 6))
    in_turn = list(a.frames)
    assert np.array_equal(in_turn[17], b.frames[17]) and np.array_equal(in_turn[17], b.frames[16:18][1])
    assert not np.array_equal(in_turn[17], c.frames[17])


def test_a_list_is_a_batch(pipe, speech):
    """Each of the list gets its own result, the same as alone."""
    both = pipe([{"array": speech, "sampling_rate": 16000}, {"array": speech[:8000], "sampling_rate": 16000}], size=64)
    alone = pipe(speech[:8000], sampling_rate=16000, size=64)
    assert [len(o.frames) for o in both] == [33, 13]
    assert np.array_equal(both[1].frames[5], alone.frames[5])


def test_output_types(pipe, speech):
    """np, pil, pt and motion, as documented."""
    kwargs = dict(sampling_rate=16000, size=(96, 64))
    array = pipe(speech, **kwargs).frames[0]
    assert array.shape == (64, 96, 3) and array.dtype == np.float32 and 0 <= array.min() and array.max() <= 1
    image = pipe(speech, output_type="pil", **kwargs).frames[0]
    assert isinstance(image, Image.Image) and image.size == (96, 64)
    tensor = pipe(speech, output_type="pt", **kwargs).frames[0]
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), array)
    motion = pipe(speech, output_type="motion", **kwargs)
    assert motion.frames is None and motion.motion.expression.shape == (33, 50)
    with pytest.raises(ValueError, match="motion only"):
        motion.save("never.mp4")


@pytest.mark.parametrize("fps", [10, 24, 29.97, 60])
def test_any_frame_rate_covers_the_sound(pipe, speech, fps):
    """Frames cover the recording at any rate, with the same motion in time."""
    out = pipe(speech, sampling_rate=16000, fps=fps, output_type="motion")
    assert len(out.motion) == int(np.ceil(len(speech) / 16000 * fps - 1e-6))
    reference = pipe(speech, sampling_rate=16000, output_type="motion").motion.jaw_pose[:, 0]
    at = np.interp(np.arange(len(out.motion)) / fps, np.arange(len(reference)) / 25, reference.numpy())
    np.testing.assert_allclose(out.motion.jaw_pose[:, 0], at, atol=2e-3)


@pytest.mark.parametrize("emotion", [e for e in EMOTIONS if e != "neutral"])
def test_each_emotion_changes_the_face_and_intensity_grades_it(pipe, speech, emotion):
    """z_e and g act from the first weights: brows or mouth move, more with more intensity."""
    run = lambda e, i: pipe(speech, sampling_rate=16000, emotion=e, intensity=i, output_type="motion")  # noqa: E731
    neutral = run("neutral", 1.0).motion.expression[-5:]
    changes = [(run(emotion, i).motion.expression[-5:] - neutral).abs().max().item() for i in (0.0, 0.5, 1.0)]
    assert changes[0] < 0.05 and changes[0] < changes[1] < changes[2] and changes[2] > 0.25
    assert torch.allclose(run(emotion, 0.5).gate[-5:], torch.tensor(0.5), atol=1e-5)


def test_lips_follow_the_speech_and_rest_in_silence(pipe, speech):
    """The jaw moves while the voice does, and is shut in digital silence around it."""
    padded = np.concatenate([np.zeros(16000, np.float32), speech, np.zeros(24000, np.float32)])
    jaw = pipe(padded, sampling_rate=16000, output_type="motion").motion.jaw_pose[:, 0]
    talking = jaw[27 : 25 + 31]
    assert talking.max() > 0.06 and talking.std() > 0.02
    assert jaw[5:20].max() < 0.03 and jaw[-20:].max() < 0.03


def test_articulation_scales_the_mouth_alone(pipe, speech):
    """Openings grow with it, a stream's as well; head, brows and silence do not change."""
    options = {"sampling_rate": 16000, "output_type": "motion", "emotion": "neutral"}
    mumbled, usual, acted = (pipe(speech, articulation=a, **options).motion for a in (0.5, 1.0, 1.5))
    jaw = [motion.jaw_pose[:, 0].max().item() for motion in (mumbled, usual, acted)]
    assert jaw[0] == pytest.approx(0.5 * jaw[1], rel=0.05) and jaw[2] == pytest.approx(1.5 * jaw[1], rel=0.05)
    brow = EXPRESSION_NAMES.index("browInnerUp_L")
    assert torch.equal(mumbled.rotation, acted.rotation) and torch.equal(mumbled.eyelids, acted.eyelids)
    assert torch.allclose(mumbled.expression[:, brow], acted.expression[:, brow], atol=1e-4)
    streamed = [f.motion for f in pipe.stream([speech], articulation=1.5, look_ahead="full", **options)]
    assert torch.allclose(torch.cat([m.jaw_pose for m in streamed]), acted.jaw_pose, atol=1e-5)
    assert pipe(np.zeros(16000, np.float32), articulation=1.5, **options).motion.jaw_pose.abs().max() < 1e-3


def test_the_head_blinks_and_moves(pipe, speech):
    """Audio alone gives a head that lives; `head_motion=0` keeps it still."""
    long = np.tile(speech, 8)
    moving = pipe(long, sampling_rate=16000, output_type="motion").motion
    assert moving.eyelids.max() > 0.9 and moving.rotation.abs().max() > 0.01
    assert pipe(long, sampling_rate=16000, output_type="motion", head_motion=0.0).motion.rotation.abs().max() == 0


def test_backgrounds(pipe, speech, tmp_path):
    """A colour, a picture on disk and an array; the corner of the frame shows it."""
    picture = tmp_path / "wall.png"
    Image.new("RGB", (40, 30), (0, 0, 255)).save(picture)
    corner = lambda b: pipe(speech, sampling_rate=16000, size=64, background=b).frames[0][0, 0]  # noqa: E731
    np.testing.assert_allclose(corner("#ff0000"), [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(corner(str(picture)), [0, 0, 1], atol=1e-3)
    np.testing.assert_allclose(corner(np.full((5, 5, 3), 0.5)), [0.5] * 3, atol=5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"emotion": "joyful"}, "emotion: expected one of angry"),
        ({"intensity": 1.5}, r"intensity: expected a number in \[0, 1\], got 1.5"),
        ({"intensity": float("nan")}, "intensity"),
        ({"size": 0}, "size: expected even numbers"),
        ({"size": 513}, "size: expected even numbers"),
        ({"size": "big"}, "size: expected pixels"),
        ({"fps": 5}, "fps: expected a number from 10 to 60"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"output_type": "gif"}, "output_type: expected one of np"),
        ({"background": "no-such-colour"}, "background: expected a colour"),
        ({"background": np.zeros((4, 4))}, "background: expected a colour, a picture or an array"),
        ({"background": np.full((4, 4, 3), 128)}, "background: expected a colour.* got int64 from 128 to 128"),
        ({"head_motion": 3}, "head_motion"),
        ({"articulation": 2}, r"articulation: expected a number in \[0.5, 1.5\], got 2; 1 is what was learned"),
    ],
)
def test_bad_arguments_are_one_clear_sentence(pipe, speech, options, message):
    """The argument, what was expected, what came, in both pipelines."""
    from transformers import pipeline

    with pytest.raises(ValueError, match=message) as caught:
        pipe(speech, sampling_rate=16000, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        pipeline("talking-head")({"array": speech, "sampling_rate": 16000}, **options)


def test_misspelt_arguments_are_named():
    """transformers' pipelines would drop an unknown keyword in silence."""
    from transformers import pipeline

    with pytest.raises(ValueError, match="unknown argument emotoin; expected"):
        pipeline("talking-head")(sample_path(), emotoin="happy")


def test_what_is_saved(pipe, tmp_path):
    """One flat folder, whose index names public classes."""
    pipe.save_pretrained(tmp_path / "avatar")
    assert {"config.json", "model.safetensors", "processor_config.json", "model_index.json"} <= set(
        os.listdir(tmp_path / "avatar")
    )
    # Format 0.1 named the module that a class lay in, so that moving a file would have broken every saved pipeline.
    index = json.loads((tmp_path / "avatar" / "model_index.json").read_text())
    assert index["model"] == ["emotag_hf", "EmoTaGModel"] and index["processor"] == ["emotag_hf", "EmoTaGProcessor"]


@pytest.mark.slow  # a process of its own imports transformers and diffusers; test_old_avatar.py does not need one
def test_one_flat_folder_serves_every_loader_without_network(pipe, tmp_path):
    """AutoConfig, AutoModel, AutoProcessor, pipeline() and EmoTaGPipeline read what EmoTaGPipeline saved, with every
    connection refused, in a fresh process, and speak the same frame."""
    pipe.save_pretrained(tmp_path / "avatar")
    script = textwrap.dedent(
        """
        import socket, sys
        def refuse(*args, **kwargs):
            raise AssertionError("network was used")
        socket.socket.connect = refuse
        socket.create_connection = refuse
        import numpy as np
        import emotag_hf
        from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
        folder = sys.argv[1]
        assert type(AutoConfig.from_pretrained(folder)).__name__ == "EmoTaGConfig"
        model = AutoModel.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
        assert type(model).__name__ == "EmoTaGModel" and type(processor).__name__ == "EmoTaGProcessor"
        talk = pipeline("talking-head", model=folder)
        talk.save_pretrained(folder + "-again")
        again = pipeline("talking-head", model=folder + "-again")
        audio = {"array": np.random.default_rng(0).normal(size=8000).astype("float32") * 0.1, "sampling_rate": 16000}
        frames = [p(audio, size=64).frames[6] for p in (talk, again, emotag_hf.EmoTaGPipeline.from_pretrained(folder))]
        assert all(np.array_equal(f, frames[0]) for f in frames)
        print("same frame", frames[0].shape)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "avatar")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "same frame (64, 64, 3)" in done.stdout


def test_half_precision_stays_close(speech):
    """`dtype` reaches the network, whose motion stays close."""
    half = EmoTaGPipeline.from_pretrained(dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    full = EmoTaGPipeline.from_pretrained()
    kwargs = dict(sampling_rate=16000, output_type="motion")
    names = [EXPRESSION_NAMES.index(n) for n in ("mouthFunnel", "mouthPucker")]
    a, b = (p(speech, **kwargs).motion for p in (half, full))
    torch.testing.assert_close(a.jaw_pose, b.jaw_pose, atol=0.02, rtol=0)
    torch.testing.assert_close(a.expression[:, names], b.expression[:, names], atol=0.1, rtol=0)
    assert np.isfinite(half(speech, sampling_rate=16000, size=64).frames[3]).all()


def test_two_threads_get_their_frames_and_torch_its_threads_back(pipe, speech):
    """A web server renders for several people; torch's thread count, the process's own, was left at one."""
    before = torch.get_num_threads()
    out = pipe(speech[:8000], sampling_rate=16000, size=64)
    alone = list(out.frames)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda _: list(out.frames), range(2)))
    assert all(np.array_equal(a, b) for frames in together for a, b in zip(frames, alone))
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before


def test_training_mode_does_not_change_the_frames(pipe, speech):
    """A trainer that makes samples leaves dropout on; the same seed is still the same motion."""
    first = pipe(speech, sampling_rate=16000, output_type="motion").motion.jaw_pose
    pipe.model.train()
    second = pipe(speech, sampling_rate=16000, output_type="motion").motion.jaw_pose
    assert pipe.model.training
    pipe.model.eval()
    assert torch.equal(first, second)


def test_batches_as_transformers_users_write_them(speech):
    """`batch_size` is an argument of every transformers pipeline; recordings stay apart all the same."""
    from transformers import pipeline

    talk = pipeline("talking-head")
    item = {"array": speech[:8000], "sampling_rate": 16000}
    assert [len(o.frames) for o in talk([item, item, item], batch_size=2, size=64)] == [13, 13, 13]
    assert len(talk((item, item), size=64)) == 2 and talk([]) == []


def test_intensity_without_an_emotion_scales_what_the_network_hears(pipe, speech):
    """It was ignored, and written into the video's metadata."""
    gates = [pipe(speech, sampling_rate=16000, intensity=i, output_type="motion").gate for i in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(gates[1], gates[2] * 0.5)
    assert gates[0].max() == 0 and gates[2].max() > 0


def test_results_can_be_pickled(pipe, speech):
    """For caches and worker processes."""
    out = pipe(speech, sampling_rate=16000, output_type="motion")
    again = pickle.loads(pickle.dumps(out))
    assert torch.equal(again.motion.expression, out.motion.expression)


@pytest.mark.parametrize("kwargs", [{"device_map": "cuda"}, {"tork_dtype": 3}])
def test_loading_names_what_it_does_not_know(kwargs):
    """diffusers' other arguments were dropped in silence."""
    with pytest.raises(ValueError, match=f"from_pretrained: unknown argument {next(iter(kwargs))}"):
        EmoTaGPipeline.from_pretrained(**kwargs)


@pytest.mark.parametrize("name", ["no-such-folder", "/no/such/folder"])
def test_a_model_that_is_nowhere_is_named(name):
    """Neither a folder nor a repository: one sentence instead of the Hub client's own."""
    with pytest.raises(FileNotFoundError, match=f"model: expected a folder or a repository .*'{name}'"):
        EmoTaGPipeline.from_pretrained(name)
