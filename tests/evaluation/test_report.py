"""Reports of evaluations: what they refuse to claim, that nothing is lost on disk, and pictures in their places."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from emotag_hf.evaluation.report import (
    PUBLISHED,
    Evaluation,
    comparison_sheet,
    contact_sheet,
    markdown_table,
    write_metrics,
    write_table,
)
from emotag_hf.rights.provenance import package_version

HASH = "0123456789abcdef" * 4


def evaluation(**changes) -> Evaluation:
    facts = {
        "mode": "oracle",
        "clip": "someone",
        "train_frames": range(50),
        "test_frames": range(50, 90),
        "weights": {"motion": HASH, "prior": HASH[::-1]},
        "seconds": {"adapt": 61.5, "render": 4.0},
        "scores": {"frames": 40, "resized": False, "psnr": 31.25, "psnr_face_box": 28.0, "flicker": 1.5, "lip_lag": -1},
        "intervals": {"psnr": (30.5, 32.0)},
    }
    return Evaluation(**facts | changes)


def test_round_trip(tmp_path):
    """An evaluation comes back from its file as it was, with every frame index and hash in it as plain JSON."""
    one = evaluation(clip='a "clip" | ü')
    path = write_metrics(tmp_path / "metrics.json", one)
    assert Evaluation.from_json(path.read_text(encoding="utf-8")) == one
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["train_frames"] == list(range(50)) and content["test_frames"] == list(range(50, 90))
    assert content["weights"]["motion"] == HASH and content["version"] == package_version()
    assert content["split"] == "later" and content["intervals"]["psnr"] == [30.5, 32.0]
    assert len(path.read_text(encoding="utf-8").splitlines()) < 20  # long lists stay on their line


def test_what_is_refused():
    """Numbers from frames that were trained on, without weights' hashes, or of no known mode, cannot be reported."""
    for changes, sentence in (
        ({"test_frames": range(49, 90)}, "test_frames: .* got 1 that were, the first is 49"),
        ({"mode": "magic"}, "mode: expected one of oracle, driven, audio-only, got 'magic'"),
        (
            {"weights": {"motion": "none"}},
            "weights: expected the sha256 of motion as 64 .*, got 'none'",
        ),
        ({"weights": {}}, "weights: expected the sha256 of at least one file"),
        ({"test_frames": []}, "test_frames: expected one or more"),
        ({"train_frames": [-1, 3]}, "train_frames: expected one or more different frame numbers from 0 on"),
        ({"test_frames": [60, 60]}, "test_frames: expected one or more different"),
    ):
        with pytest.raises(ValueError, match=sentence):
            evaluation(**changes)
    for text in ("no", "[]", "{}", json.dumps({"format": "emotag-evaluation", "mode": "oracle"})):
        with pytest.raises(ValueError, match="text: expected"):
            Evaluation.from_json(text)


def test_splits():
    """Later frames, frames in between and another clip are told apart: only the first is METHOD 7's protocol."""
    assert evaluation().split == "later"
    assert evaluation(train_frames=[*range(15), *range(30, 45)], test_frames=range(15, 30)).split == "mixed"
    assert evaluation(train_clip="someone").split == "later"
    assert evaluation(train_clip="may_5s", test_frames=range(90)).split == "other clip"


def test_metrics_file_is_whole_or_not_there(tmp_path):
    """A number that JSON does not know, or a failed write, leaves the older file as it was and nothing beside it."""
    path = write_metrics(tmp_path / "metrics.json", {"psnr": 1.0})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="payload: expected finite numbers, got nan in 'scores'"):
        write_metrics(path, evaluation(scores={"psnr": float("nan")}))
    with pytest.raises(TypeError):
        write_metrics(path, {"psnr": object()})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_metrics(tmp_path / "nowhere" / "metrics.json", {})
    with pytest.raises(ValueError, match="is a folder"):
        write_metrics(tmp_path, {})


def test_table(tmp_path):
    """Each evaluation has its row with intervals, modes are averaged apart, the published numbers stand below, and
    every row has as many cells as the heading."""
    others = [evaluation(clip="b|c", scores={"psnr": 33.25, "flicker": 1.0}), evaluation(mode="driven")]
    path = write_table(tmp_path / "table.md", [evaluation(), *others])
    text = path.read_text(encoding="utf-8")
    assert text == markdown_table([evaluation(), *others])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3 + 1 + len(PUBLISHED)
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "31.25 [30.50, 32.00]" in rows[2] and "b\\|c" in rows[3]
    mean = next(line for line in rows if "mean of 2" in line)
    assert "32.25" in mean and "oracle" in mean and "28.00" not in mean  # one of the two has no face box
    assert sum("mean of" in line for line in rows) == 1
    emotag = next(line for line in rows if "EmoTaG, second halves" in line)
    assert "27.92" in emotag and "30.56" in emotag
    assert "diagnostic" in markdown_table([evaluation(train_frames=[0, 20], test_frames=[10, 11])])


def test_published_numbers():
    """They round to those that the aims are written in."""
    for name, aims in (("EmoTaG", (34.6, 27.9, 30.6)), ("InsTaG", (25.1, 17.6, 22.7))):
        scores = PUBLISHED[f"{name}, second halves of 5 scenes"]
        found = [scores[key] for key in ("psnr_face_box", "psnr_mouth", "psnr_eyes")]
        assert found == pytest.approx(aims, abs=0.06)


def flat(value: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.full((*size, 3), value, np.uint8)


def test_sheet_has_every_picture_in_its_place(tmp_path):
    """Rows go down, frames go right, after eight it goes on below; captions take a line above each band."""
    rows = [[flat(10 * column + 5 * row) for column in range(11)] for row in range(2)]
    path = contact_sheet(rows, tmp_path / "sheet.png", [f"frame {i}" for i in range(11)], width=60)
    sheet = np.asarray(Image.open(path))
    band = 14 + 2 * 40
    assert sheet.shape == (2 * band, 8 * 60, 3)
    for column in range(11):
        for row in range(2):
            y, x = column // 8 * band + 14 + row * 40 + 20, column % 8 * 60 + 30
            assert sheet[y, x].tolist() == [10 * column + 5 * row] * 3
    assert sheet[:14].min() < 100 and (sheet[band + 14 :, 3 * 60 :] == 255).all()
    plain = np.asarray(Image.open(contact_sheet(rows, tmp_path / "plain.png", width=30)))
    assert plain.shape == (2 * 2 * 20, 8 * 30, 3)


def test_comparison(tmp_path):
    """The truth stands above the prediction, every k-th frame, and the third row shows four times their difference
    around grey; a generator that paints into one array is not shown its last frame everywhere."""

    def painted(count: int, base: int):
        frame = flat(0)
        for index in range(count):
            frame[:] = 10 * index + base
            yield frame

    path = comparison_sheet(painted(7, 0), painted(9, 8), tmp_path / "sheet.png", every=3, difference=True, first=100)
    sheet = np.asarray(Image.open(path))
    height = (sheet.shape[0] - 14) // 3
    assert sheet.shape[1] == 3 * 192  # frames 0, 3, 6
    for column, index in enumerate((0, 3, 6)):
        values = [int(sheet[14 + row * height + height // 2, column * 192 + 96, 0]) for row in range(3)]
        assert values == [10 * index + 8, 10 * index, 128 - 4 * 8]
    two = comparison_sheet([flat(1)], [flat(2)], tmp_path / "two.png")
    assert Image.open(two).size == (192, 14 + 2 * 128)


def test_sheets_refuse(tmp_path):
    """Rows that do not match, other files and no pictures are refused; nothing is left behind."""
    one, path = flat(1), tmp_path / "sheet.png"
    for rows, captions in (
        ([], ()),
        ([[]], ()),
        ([[one], []], ()),
        ([[one], [flat(1, (20, 20))]], ()),
        ([[one]], "ab"),
    ):
        with pytest.raises(ValueError, match="rows: expected equally many uint8 pictures of one size"):
            contact_sheet(rows, path, captions)
    with pytest.raises(ValueError, match="float32"):
        contact_sheet([[one.astype(np.float32)]], path)
    with pytest.raises(ValueError, match=r"path: expected a name that ends in \.png"):
        contact_sheet([[one]], tmp_path / "sheet.jpg")
    with pytest.raises(ValueError, match="every: expected a number of frames from 1 on, got 0"):
        comparison_sheet([one], [one], path, every=0)
    assert not list(tmp_path.iterdir())
