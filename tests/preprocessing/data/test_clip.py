"""The processed clip: frames exact in any order and from any process, whole or not there, nothing of others touched."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import threading

import numpy as np
import pytest
import torch
from synthetic_clip import make_clip, moving_matte, moving_picture

from emotag_hf.audio.audio_io import AudioClip, AudioError, decode
from emotag_hf.preprocessing.data.clip import (
    AUDIO,
    CLIP_JSON,
    FEATURES,
    FORMAT_VERSION,
    MATTES,
    TRACK,
    VIDEO,
    ClipError,
    ProcessedClip,
)
from emotag_hf.preprocessing.data.frame_files import FrameReader, FrameWriter
from emotag_hf.preprocessing.data.sound_file import cover, write_flac
from emotag_hf.preprocessing.data.writer import ClipWriter, check_output


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> ProcessedClip:
    return make_clip(tmp_path_factory.mktemp("clip") / "made")


@pytest.fixture
def fresh(tmp_path) -> ProcessedClip:
    """A clip that the test may break."""
    return make_clip(tmp_path / "made", 6)


def in_order(clip: ProcessedClip) -> list[np.ndarray]:
    return [clip.frame(i) for i in range(len(clip))]


def test_frames_are_the_ones_that_were_written(clip):
    """Frame i is picture i: close after h264, and the matte to the bit."""
    for i in (0, 1, 7, 22):
        truth = moving_picture(i, 64, 48).astype(float)
        errors = [np.abs(clip.frame(i) - truth).mean(), np.abs(clip.frame((i + 1) % 23) - truth).mean()]
        assert errors[0] < 0.5 * errors[1], (i, errors)  # pure noise is the hardest picture there is for 4:2:0
        assert np.array_equal(clip.matte(i), moving_matte(i, 64, 48))


def test_frames_in_any_order(clip):
    """Random access gives the same bits as decoding in order, whatever was read before."""
    truth = in_order(clip)
    order = [i for i in range(len(clip)) for _ in range(4)]
    random.Random(0).shuffle(order)
    other = ProcessedClip.open(clip.path)
    for i in order:
        assert np.array_equal(other.frame(i), truth[i]), i
        assert np.array_equal(other.matte(i), moving_matte(i, 64, 48)), i
    assert np.array_equal(other.frames([5, 2, 2, -1]), np.stack([truth[5], truth[2], truth[2], truth[22]]))
    assert np.array_equal(other.frames(slice(3, 20, 4)), np.stack(truth[3:20:4]))
    assert np.array_equal(other.frames(), np.stack(truth))


def test_frames_outside(clip):
    """An index that the clip does not have is an IndexError, so that a plain for loop ends."""
    with pytest.raises(IndexError):
        clip.frame(23)
    with pytest.raises(IndexError):
        clip.frame(-24)
    assert np.array_equal(clip.frame(-23), clip.frame(0))
    assert len(list(clip)) == 23


def test_a_frame_is_the_callers_own(clip):
    """Painting on a frame must not change what the next caller gets."""
    before = clip.frame(3)
    clip.frame(3)[:] = 0
    clip[3]["frame"].zero_()
    assert np.array_equal(clip.frame(3), before) and before.any()


def _read(clip: ProcessedClip, seed: int, queue) -> None:
    order = list(range(len(clip)))
    random.Random(seed).shuffle(order)
    queue.put({i: clip.frame(i).tobytes() for i in order})


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.skipif(os.name == "nt", reason="fork is not there")
def test_frames_from_two_processes(clip, method):
    """A clip that is already open is read by two processes at once: pickled into them, or forked with its open file,
    whose position they would otherwise share."""
    truth = in_order(clip)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=_read, args=(clip, seed, queue)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for _ in range(20):  # while they read
        assert np.array_equal(clip.frame(9), truth[9]) and np.array_equal(clip.frame(20), truth[20])
    for found in (queue.get(timeout=60) for _ in workers):
        assert all(found[i] == truth[i].tobytes() for i in range(len(clip)))
    for worker in workers:
        worker.join()


def test_frames_from_threads(clip):
    """Threads share one decoder without mixing frames up."""
    truth, wrong = in_order(clip), []

    def read(seed: int) -> None:
        order = random.Random(seed)
        wrong.extend(i for i in (order.randrange(23) for _ in range(60)) if not np.array_equal(clip.frame(i), truth[i]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pickle_is_small_and_whole(clip):
    """What travels to a worker is a path and a few numbers, not the decoded frames."""
    clip.frame(0), clip.track, clip.features
    packed = pickle.dumps(clip)
    again = pickle.loads(packed)
    assert len(packed) < 20_000
    assert all(np.array_equal(again.frame(i), clip.frame(i)) for i in (4, 17, 3)) and len(again.track) == 23


def test_what_a_clip_says(clip):
    """The numbers, the track, the features, the background and the sound come back as they were written."""
    assert (clip.num_frames, clip.fps, len(clip)) == (23, 25.0, 23)
    assert (clip.crop.width, clip.crop.height, clip.camera.width) == (64, 48, 64)
    assert torch.equal(clip.track.camera.K, clip.camera.K)
    assert clip.track.motion.expression.shape == (23, 50) and not clip.track.valid[11]
    assert clip.features["identity"].shape == (512,)
    picture, known = clip.background
    assert picture.shape == (48, 64, 3) and not known[10:20, 10:20].any() and known.sum() == 48 * 64 - 100
    assert np.array_equal(picture, moving_picture(0, 64, 48))
    samples = np.random.default_rng(0).integers(-9000, 9000, (23 * 1920, 1)).astype(np.float32) / 32768
    assert np.array_equal(clip.audio.samples, samples) and clip.audio.sampling_rate == 48000
    assert (clip.audio_offset.seconds, clip.audio_offset.confidence) == (-0.08, 0.7)
    assert "23 frames of 64x48" in repr(clip)


def test_no_sound(tmp_path):
    """A clip without sound says None, twice."""
    clip = make_clip(tmp_path / "mute", 3, sound=False)
    assert clip.audio is None and clip.audio_offset is None


def test_item(clip):
    """clip[i] is one frame of everything, and the default collate makes a batch of it."""
    item = clip[-2]
    assert item["index"] == 21 and item["valid"].dtype == torch.bool
    assert np.array_equal(item["frame"].numpy(), clip.frame(21))
    assert torch.equal(item["jaw_pose"], clip.track.motion.jaw_pose[21])
    batch = torch.utils.data.default_collate([clip[0], clip[11]])
    assert batch["frame"].shape == (2, 48, 64, 3) and batch["action_units"].shape == (2, 14)
    assert batch["valid"].tolist() == [True, False]


def test_split(clip):
    """Test frames are strictly later than training frames, and none is lost."""
    train, test = clip.split(0.8)
    assert [*train, *test] == list(range(23)) and len(train) == 18 and max(train) < min(test)
    for fraction in (0.0, 1.0, 0.01, -1):
        with pytest.raises(ValueError, match="fraction: expected"):
            clip.split(fraction)


def test_close_and_go_on(clip):
    """A closed clip opens its files again by itself."""
    before = clip.frame(5)
    clip.close()
    assert "track" not in vars(clip)
    assert np.array_equal(clip.frame(5), before)


def change_json(clip: ProcessedClip, **values) -> None:
    info = json.loads((clip.path / CLIP_JSON).read_text())
    (clip.path / CLIP_JSON).write_text(json.dumps(info | values))


def test_not_a_clip(tmp_path, fresh):
    """Each way of not being a clip has its own sentence."""
    with pytest.raises(FileNotFoundError, match="no folder"):
        ProcessedClip.open(tmp_path / "nowhere")
    with pytest.raises(ClipError, match=f"has no {CLIP_JSON}"):
        ProcessedClip.open(tmp_path)
    for text in ("", "[]", '{"format": "other"}', "\x00\xff", '{"format": "emotag-clip"}', "[" * 100_000):
        (fresh.path / CLIP_JSON).write_text(text, encoding="latin-1")
        with pytest.raises(ClipError, match="expected a processed clip"):
            ProcessedClip.open(fresh.path)


def test_newer_format(fresh):
    """A clip of a later version is refused with what to do."""
    change_json(fresh, format_version=FORMAT_VERSION + 1)
    with pytest.raises(ClipError, match="pip install -U emotag_hf"):
        ProcessedClip.open(fresh.path)


def test_missing_or_cut_off(fresh):
    """Files that are missing or shorter than they were are noticed when the clip is opened, not hours later."""
    (fresh.path / VIDEO).write_bytes((fresh.path / VIDEO).read_bytes()[:-1])
    with pytest.raises(ClipError, match=f"{VIDEO}, but it has"):
        ProcessedClip.open(fresh.path)
    (fresh.path / VIDEO).unlink()
    with pytest.raises(ClipError, match=f"{VIDEO}, but it is missing"):
        ProcessedClip.open(fresh.path)


@pytest.mark.parametrize("name", ["../made/video.mp4", "/etc/hostname", "notes.txt", "lock"])
def test_names_are_not_followed(fresh, name):
    """clip.json cannot make the reader look at a file outside the format, inside or outside the folder."""
    change_json(fresh, files={**fresh.info["files"], name: 1})
    with pytest.raises(ClipError, match="expected the files"):
        ProcessedClip.open(fresh.path)


def test_lengths_agree(fresh, tmp_path):
    """Track and features of another number of frames are refused; so are files of another video."""
    for name in (TRACK, FEATURES):
        other = make_clip(tmp_path / f"other-{name}", 5)
        (other.path / name).replace(fresh.path / name)
        change_json(fresh, files={**fresh.info["files"], name: (fresh.path / name).stat().st_size})
        with pytest.raises(ClipError, match=f"for 6 frames in .*{name}"):
            ProcessedClip.open(fresh.path)
        fresh = make_clip(tmp_path / f"again-{name}", 6)


@pytest.mark.parametrize(
    "values",
    [
        {"num_frames": 0},
        {"num_frames": "6"},
        {"crop": {}},
        {"camera": {"K": [[1]], "viewmat": 3}},
        {"camera": None},
        {"audio": None},
        {"audio_offset": {"hours": 1}},
    ],
)
def test_broken_json_values(fresh, values):
    """Values of the wrong kind are a ClipError, never a traceback out of numpy."""
    change_json(fresh, **values)
    with pytest.raises(ClipError):
        ProcessedClip.open(fresh.path)


def test_video_of_another_size(tmp_path):
    """A video that is not what clip.json says is refused when it is first read, as is one that ends early."""
    with FrameWriter(tmp_path / "v.mp4", 64, 48) as writer:
        for i in range(4):
            writer.write(moving_picture(i, 64, 48))
    with pytest.raises(ValueError, match="expected h264 48x64, got h264 64x48"):
        FrameReader(tmp_path / "v.mp4", 4, 48, 64)[0]
    with pytest.raises(ValueError, match="lacks 5"):
        FrameReader(tmp_path / "v.mp4", 6, 64, 48)[5]
    with pytest.raises(ValueError, match="even"):
        FrameWriter(tmp_path / "odd.mp4", 63, 48)


# Writing


def test_interrupted_work_goes_on(tmp_path):
    """A finished stage survives a crash with its file and its numbers; an unfinished one does not count."""
    request = {"sha256": "a", "size": 512}
    with pytest.raises(KeyboardInterrupt), ClipWriter(tmp_path / "c", request) as writer:
        writer.path(VIDEO).write_bytes(b"video")
        writer.finish("cut", {"num_frames": 3}, files=(VIDEO,))
        writer.path(MATTES).write_bytes(b"half")
        raise KeyboardInterrupt
    assert not (tmp_path / "c").exists()
    with ClipWriter(tmp_path / "c", request) as writer:
        assert writer.done("cut") and not writer.done("mattes")
        assert writer.info("cut") == {"num_frames": 3} and writer.path(VIDEO).read_bytes() == b"video"


def test_work_of_another_source_is_discarded(tmp_path, caplog):
    """Stages of another video or of other options are never mixed in, and the log says that they went."""
    with pytest.raises(OSError), ClipWriter(tmp_path / "c", {"sha256": "a"}) as writer:
        writer.path(VIDEO).write_bytes(b"a")
        writer.finish("cut")
        raise OSError("disk full")
    with ClipWriter(tmp_path / "c", {"sha256": "b"}) as writer:
        assert not writer.done("cut") and not writer.path(VIDEO).exists()
    assert "work on another video or with other options is discarded" in caplog.text


def test_bad_input_leaves_nothing(tmp_path):
    """What can never succeed leaves no folder behind."""
    with pytest.raises(ValueError), ClipWriter(tmp_path / "c", {}) as writer:
        writer.finish("landmarks")
        raise ValueError("no face")
    assert not any(tmp_path.iterdir())


def test_damaged_state_starts_over(tmp_path):
    """A state file that cannot be read means: begin again."""
    (tmp_path / "c.partial").mkdir()
    (tmp_path / "c.partial" / "state.json").write_text("{")
    with ClipWriter(tmp_path / "c", {}) as writer:
        assert not writer.done("cut")


def test_existing_clip(tmp_path):
    """The same request returns the clip as it is; another one needs overwrite, and then replaces it whole."""
    clip = make_clip(tmp_path / "made", 4, seed=1)
    assert ClipWriter(clip.path, {"seed": 1}).existing().num_frames == 4
    with pytest.raises(ClipError, match=r"overwrite=True \(--overwrite\)"):
        ClipWriter(clip.path, {"seed": 2}).existing()
    assert ClipWriter(clip.path, {"seed": 2}, overwrite=True).existing() is None
    (clip.path / TRACK).unlink()
    with pytest.raises(ClipError, match="damaged"):
        ClipWriter(clip.path, {"seed": 1}).existing()


def test_what_is_not_ours_is_never_deleted(tmp_path):
    """A folder with anything else in it is refused, with overwrite too; so are a file and a foreign .partial folder."""
    clip = make_clip(tmp_path / "made", 3)
    (clip.path / "diary.txt").write_text("mine")
    assert ClipWriter(clip.path, {"seed": 0}).existing() is not None  # it may lie there as long as nothing is replaced
    for folder in (clip.path, tmp_path):
        with pytest.raises(ClipError, match="not a processed clip and nothing else"):
            ClipWriter(folder, {"seed": 0}, overwrite=True).existing()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ClipError, match="is a file"):
        ClipWriter(tmp_path / "file", {}, overwrite=True).existing()
    (tmp_path / "c.partial").mkdir()
    (tmp_path / "c.partial" / "thesis.tex").write_text("mine")
    with pytest.raises(ClipError, match="in the way"), ClipWriter(tmp_path / "c", {}, overwrite=True):
        pass
    assert (tmp_path / "c.partial" / "thesis.tex").read_text() == (clip.path / "diary.txt").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such lock")
def test_two_at_once(tmp_path):
    """A second process (here: a second writer) on the same clip is sent away and breaks nothing."""
    with ClipWriter(tmp_path / "c", {}) as writer:
        writer.finish("cut")
        with pytest.raises(ClipError, match="another process is preparing c"), ClipWriter(tmp_path / "c", {}):
            pass
        assert writer.path("state.json").exists()


def test_an_empty_folder_will_do(tmp_path):
    """`mkdir clip` beforehand is fine."""
    (tmp_path / "made").mkdir()
    assert make_clip(tmp_path / "made", 3).num_frames == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made"]


# Sound


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_is_exact(tmp_path, channels):
    """16-bit and 24-bit samples come back to the bit, decoded floats within a step, beyond full scale too."""
    numbers = np.random.default_rng(0)
    whole = {
        16: numbers.integers(-(2**15), 2**15, (9001, channels)),
        24: numbers.integers(-(2**23), 2**23, (9001, channels)),
    }
    for bits, values in whole.items():
        samples = (values / 2.0 ** (bits - 1)).astype(np.float32)
        about = write_flac(tmp_path / AUDIO, AudioClip(samples, 44100))
        assert (about["bits"], about["gain"], about["num_samples"]) == (bits, 1.0, 9001)
        with (tmp_path / AUDIO).open("rb") as file:
            assert np.array_equal(decode(file, "flac").samples, samples)
    loud = numbers.uniform(-1.6, 1.6, (4000, channels)).astype(np.float32)
    about = write_flac(tmp_path / AUDIO, AudioClip(loud, 16000))
    with (tmp_path / AUDIO).open("rb") as file:
        again = decode(file, "flac").samples * about["gain"]
    assert about["gain"] > 1.5 and np.abs(again - loud).max() <= 2**-22


def test_sound_covers_the_pictures():
    """Sound after the last picture is cut, and said so; so is missing sound; a codec's padding is not worth a word."""
    audio = AudioClip(np.zeros((16000, 1), np.float32), 16000)
    cut, warnings = cover(audio, 0.99)
    assert len(cut.samples) == 15840 and not warnings
    assert "goes on after the last picture" in cover(audio, 0.5)[1][0] and not cover(audio, 0.5, cut=True)[1]
    short, warnings = cover(audio, 2.0)
    assert len(short.samples) == 16000 and "1.00 s before the last picture" in warnings[0]


def test_sound_that_is_no_number(tmp_path):
    """The bug: NaN went into the file as some number."""
    samples = np.zeros((800, 1), np.float32)
    samples[7] = np.nan
    with pytest.raises(AudioError, match="NaN or infinity"):
        write_flac(tmp_path / AUDIO, AudioClip(samples, 16000))
    assert not (tmp_path / AUDIO).exists()


# Where the clip lies


def test_replaces_behind_a_link(tmp_path):
    """The bug: overwriting through a link emptied the clip it led to, and then failed."""
    make_clip(tmp_path / "disk" / "real", 3)
    (tmp_path / "clip").symlink_to(tmp_path / "disk" / "real")
    writer = ClipWriter(tmp_path / "clip", {"seed": 0})
    assert writer.existing().num_frames == 3 and writer.partial.parent == tmp_path / "disk"
    overwritten = _publish_again(tmp_path / "clip")
    assert overwritten.num_frames == 3 and (tmp_path / "clip").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


def _publish_again(target) -> ProcessedClip:
    """Writes the clip at `target` once more."""
    old = ProcessedClip.open(target)
    with ClipWriter(target, {"seed": 1}, overwrite=True) as writer:
        for name in old.info["files"]:
            writer.path(name).write_bytes((old.path / name).read_bytes())
        writer.finish("all")
        return writer.publish({k: v for k, v in old.info.items() if k not in ("request", "files")})


def test_old_clip_stays_until_the_new_one_is_there(tmp_path, monkeypatch):
    """The bug: the old clip was deleted first, so that a failure at the last step left neither."""
    make_clip(tmp_path / "clip", 3)
    rename = os.rename

    def failing(source, target):
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        _publish_again(tmp_path / "clip")
    assert ProcessedClip.open(tmp_path / "clip").info["request"] == {"seed": 0}


def test_links_to_anything_else(tmp_path):
    """A link to nothing or to what is no clip is refused before the work."""
    (tmp_path / "nothing").symlink_to(tmp_path / "gone")
    with pytest.raises(ClipError, match="^output: .*link to nothing"):
        check_output(tmp_path / "nothing")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    with pytest.raises(ClipError, match="not a processed clip and nothing else"):
        ClipWriter(tmp_path / "link", {}, overwrite=True).existing()
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_output_that_cannot_be_written(tmp_path, monkeypatch):
    """The bug: these showed a bare error number, after minutes."""
    (tmp_path / "file").touch()
    with pytest.raises(ClipError, match="^output: expected a folder, but .*file is a file"):
        check_output(tmp_path / "file" / "sub" / "clip")
    with pytest.raises(ClipError, match="^output: .*cannot be written"):
        check_output(tmp_path / ("long" * 100))
    clip = make_clip(tmp_path / "clip", 3)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ClipError, match="^output: nothing can be written in"):
        check_output(tmp_path / "new" / "clip")
    with pytest.raises(ClipError, match="^output: nothing"):
        check_output(clip.path, overwrite=True)
    check_output(clip.path)  # it may be the one that is asked for
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_others_may_read_all_of_it(tmp_path):
    """The bug: the safetensors files could be read by nobody else, the rest of the clip could."""
    clip = make_clip(tmp_path / "clip", 3)
    assert len({path.stat().st_mode for path in clip.path.iterdir()}) == 1
