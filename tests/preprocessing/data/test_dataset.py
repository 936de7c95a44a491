"""A folder of clips as a data set: rows that survive parquet and the way back, and frames for training."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import torch
from synthetic_clip import make_clip

from emotag_hf.preprocessing.data.clip import CLIP_JSON, ClipError, ProcessedClip
from emotag_hf.preprocessing.data.dataset import ClipFrames, clips_dataset, find_clips, restore

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` keeps goes with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips, one without sound, beside things that are no clips."""
    folder = tmp_path_factory.mktemp("clips")
    make_clip(folder / "anna", 9, seed=1)
    make_clip(folder / "bert v2", 6, (48, 64), sound=False, seed=2)
    (folder / "unfinished.partial").mkdir()
    (folder / "notes").mkdir()
    return folder


def same_files(a, b) -> bool:
    names = sorted(p.name for p in a.iterdir())
    return names == sorted(p.name for p in b.iterdir()) and all(
        (a / n).read_bytes() == (b / n).read_bytes() for n in names if n != CLIP_JSON
    )


def test_find_clips(folder, tmp_path):
    """Clips are found by what they hold; unfinished ones are none; one clip is a folder of one."""
    assert [p.name for p in find_clips(folder)] == ["anna", "bert v2"]
    assert find_clips(folder / "anna") == [folder / "anna"]
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="holds none"):
            find_clips(wrong)


def test_rows(folder):
    """One row a clip, with numbers to filter by and media that nobody tries to decode."""
    rows = clips_dataset(folder)
    assert rows["name"] == ["anna", "bert v2"] and rows["num_frames"] == [9, 6]
    assert np.array_equal(
        np.float32(rows[0]["action_units"]), ProcessedClip.open(folder / "anna").features["action_units"]
    )
    assert len(rows[0]["identity"]) == 512 and rows[1]["audio_flac"] is None and rows[0]["vhap_safetensors"] is None
    assert rows[0]["video_mp4"]["path"] == "video.mp4"  # and no path of the machine it was made on
    assert rows.filter(lambda row: row["num_frames"] > 6)["name"] == ["anna"]


@pytest.mark.parametrize("way", ["rows", "disk", "parquet"])
def test_round_trip(folder, tmp_path, way):
    """Through memory, save_to_disk or parquet (what push_to_hub writes), from a folder that is gone by then: the files
    come back to the byte."""
    gone = tmp_path / "gone"
    for path in find_clips(folder):
        gone.mkdir(exist_ok=True)
        (gone / path.name).mkdir()
        for file in path.iterdir():
            (gone / path.name / file.name).write_bytes(file.read_bytes())
    rows = clips_dataset(gone)
    gone.rename(tmp_path / "elsewhere")
    if way == "disk":
        rows.save_to_disk(tmp_path / "saved")
        rows = datasets.load_from_disk(tmp_path / "saved")
    elif way == "parquet":
        rows.to_parquet(tmp_path / "clips.parquet")
        rows = datasets.load_dataset(
            "parquet", data_files=str(tmp_path / "clips.parquet"), split="train", cache_dir=tmp_path
        )
    clips = restore(rows, tmp_path / "back")
    assert [clip.path.name for clip in clips] == ["anna", "bert v2"]
    for clip in clips:
        assert same_files(clip.path, folder / clip.path.name)
        assert clip.info == ProcessedClip.open(folder / clip.path.name).info
    assert restore(rows, tmp_path / "back")[0].num_frames == 9  # a second time nothing happens


def test_restore_stays_in_its_folder(folder, tmp_path):
    """A data set from anywhere cannot write outside the folder that was named, nor pass other bytes off as a clip."""
    row = clips_dataset(folder)[0]
    for name in ("../anna", "/tmp/anna", "..", "", "a/b", "anna.partial", ".hidden"):
        with pytest.raises(ClipError, match="plain folder name"):
            restore([row | {"name": name}], tmp_path / "back")
    with pytest.raises(ClipError, match="bytes of track.safetensors"):
        restore([row | {"track_safetensors": b"short"}], tmp_path / "back")
    info = json.loads(row["clip_json"]) | {"files": {**json.loads(row["clip_json"])["files"], "../evil": 4}}
    restored = restore([row | {"clip_json": json.dumps(info)}], tmp_path / "back")
    assert "../evil" not in restored[0].info["files"] and not (tmp_path / "evil").exists()
    with pytest.raises(ClipError, match="bytes of video.mp4, got None"):
        restore([row | {"video_mp4": {"bytes": None, "path": str(folder / "anna" / "video.mp4")}}], tmp_path / "no")
    with pytest.raises(ClipError, match="without clip_json"):
        restore([{"name": "x"}], tmp_path / "back")


def test_frames(folder):
    """Frames of several clips in one row, those without a valid track left out, each with its clip's number."""
    frames = ClipFrames(find_clips(folder)[:1])
    assert len(frames) == 8 and [int(item["index"]) for item in frames] == [0, 1, 2, 3, 5, 6, 7, 8]
    both = ClipFrames([folder / "anna", folder / "anna"], frames=[range(3), [8, 4]], valid_only=False)
    assert [(int(i["clip"]), int(i["index"])) for i in both] == [(0, 0), (0, 1), (0, 2), (1, 8), (1, 4)]
    with pytest.raises(ValueError, match="one entry for each of 1 clips"):
        ClipFrames([folder / "anna"], frames=[])
    with pytest.raises(IndexError):
        ClipFrames([folder / "anna"], frames=[[99]])


def test_loader(folder):
    """Batches from worker processes are the frames that the clip gives, in whatever order."""
    frames = ClipFrames([ProcessedClip.open(folder / "anna")])
    frames[0]  # opened in this process first: the workers are forked with it
    loader = torch.utils.data.DataLoader(frames, batch_size=3, shuffle=True, num_workers=2)
    clip, seen = ProcessedClip.open(folder / "anna"), []
    for batch in loader:
        for index, picture, jaw in zip(batch["index"].tolist(), batch["frame"], batch["jaw_pose"]):
            assert np.array_equal(picture.numpy(), clip.frame(index))
            assert torch.equal(jaw, clip.track.motion.jaw_pose[index])
            seen.append(index)
    assert sorted(seen) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_memory_is_flat(tmp_path):
    """Going through many clips keeps no more than eight of them open."""
    for i in range(12):
        make_clip(tmp_path / f"{i:02}", 4, sound=False, seed=i)
    frames = ClipFrames(tmp_path)
    tracemalloc.start()
    peaks = []
    for _ in range(3):
        for item in frames:
            assert item["frame"].shape == (48, 64, 3)
        peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(frames._open) == 8
    assert peaks[2] < peaks[0] + 200_000, peaks
