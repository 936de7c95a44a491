"""Speech whose sounds are known: sentences, phoneme times, and where they are in a recording."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "conversion_scripts"


@pytest.fixture(scope="module")
def speech():
    """The modules of `synthesize_speech`."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        from synthesize_speech import align, flite, generate, kokoro, sentences
    finally:
        sys.path.remove(str(SCRIPTS))
    return {"align": align, "flite": flite, "generate": generate, "kokoro": kokoro, "sentences": sentences}


def test_sentences_are_prose(speech, tmp_path):
    """Authors, numbers, drawings and scraps are left out; each sentence is there once, by language."""
    text = (
        "The cat sat on a very warm mat.  It did not want to move at all!\n\t\t-- Somebody\n%\n"
        "| +---+ |\n%\nWait.\n%\nIn 1984 it was otherwise, they said to us.\n%\nThe cat sat on a very warm mat.\n"
    )
    (tmp_path / "wisdom").write_text(text, encoding="utf-8")
    (tmp_path / "wisdom.dat").write_bytes(b"\0\1 This is no sentence of anybody at all.")
    (tmp_path / "de").mkdir()
    (tmp_path / "de" / "zitate").write_bytes("Über allen Gipfeln ist heute Ruh.\n".encode("latin-1"))
    found = speech["sentences"].read_sentences(tmp_path)
    assert found["en"] == ["It did not want to move at all!", "The cat sat on a very warm mat."]
    assert found["de"] == ["Über allen Gipfeln ist heute Ruh."] and "ru" not in found
    with pytest.raises(FileNotFoundError, match="fortunes"):
        speech["sentences"].read_sentences(tmp_path / "de" / "nowhere")


def test_flite_phonemes_become_shapes(speech):
    """A diphthong runs through two shapes; a long m opens into what follows."""
    parts = speech["flite"].parts_of("pau:0.2 m:0.4 ay:0.6 pau:0.7 ")
    assert [p[0] for p in parts] == ["sil", "p", "ə", "a", "ɪ", "sil"]
    assert parts[1][1:] == pytest.approx((0.2, 0.29)) and parts[-1][2] == pytest.approx(0.7)
    assert all(a[2] == pytest.approx(b[1]) for a, b in zip(parts, parts[1:]))


def test_parts_are_joined_without_holes(speech):
    """Silences in a row are one, nothing overlaps, and the recording is full to its end."""
    joined = speech["generate"].joined
    parts = joined([("sil", 0, 0.2), ("sil", 0.2, 0.5), ("a", 0.45, 0.7), ("p", 0.6, 0.65), ("sil", 0.8, 2.0)], 1.0)
    assert parts == [("sil", 0.0, 0.5), ("a", 0.5, 0.7), ("sil", 0.7, 1.0)]
    assert joined([], 0.4) == [("sil", 0.0, 0.4)]


def test_aligned_phonemes_become_shapes(speech, tmp_path):
    """Lips stay closed in a long m, open again behind a long p; recordings without text are left out."""
    align = speech["align"]
    phones = [("SIL", 0.0, 0.2), ("P", 0.2, 0.4), ("AY", 0.4, 0.6), ("M", 0.6, 0.8), ("SIL", 0.8, 0.9)]
    parts = align.parts_of(phones, 1.0)
    assert [p[0] for p in parts] == ["sil", "p", "ə", "a", "ɪ", "p", "sil", "sil"]
    assert parts[1][1:] == pytest.approx((0.2, 0.29)) and parts[5][1:] == pytest.approx((0.6, 0.8))
    assert parts[-1][2] == 1.0 and all(a[2] == pytest.approx(b[1]) for a, b in zip(parts, parts[1:]))
    texts = tmp_path / "ann.json"
    texts.write_text(
        '{"one": "a boat", "two": {"text": "no", "speaker": 7}, "three": {"text": null}, "four": null}', "utf-8"
    )
    assert align.read_texts(texts) == {"one": ("a boat", "ann"), "two": ("no", "7")}


def test_kokoros_times(speech, tmp_path):
    """Stress belongs to the vowel after it, length to the sound before; short gaps between words are none; the times
    are moved to where the sounds are heard. Pieces come back as they were said."""
    kokoro = speech["kokoro"]
    symbols, steps = "pˈA bː,m", np.array([8, 2, 1, 4, 1, 2, 2, 12, 4, 8], np.int16)
    parts = kokoro.parts_of(symbols, steps, 1.2)
    assert [p[0] for p in parts] == ["sil", "p", "e", "ɪ", "p", "ə", "sil", "p", "sil"]
    assert parts[0][2] == pytest.approx(8 * 0.025 - kokoro._LATE)
    assert parts[1][2] == pytest.approx(10 * 0.025 - kokoro._LATE) and parts[-1][2] == 1.2
    assert all(a[2] == pytest.approx(b[1]) for a, b in zip(parts, parts[1:]))
    piece = {
        "samples": np.arange(5, dtype=np.int16), "lengths": np.array([2, 3]), "voices": np.array(["af_a", "bm_b"]),
        "texts": np.array(["pay", "I am"]), "symbols": np.array(["pA", "Im"]), "steps": np.arange(8, dtype=np.int16),
    }  # fmt: skip
    np.savez(tmp_path / "train-0000.npz", **piece)
    (voice, said), (other, late) = kokoro.read_pieces(tmp_path, "train")
    assert (voice, said.text, said.symbols, said.steps.tolist()) == ("af_a", "pay", "pA", [0, 1, 2, 3])
    assert (
        other == "bm_b" and (late.samples * 32767).round().tolist() == [2, 3, 4] and late.steps.tolist() == [4, 5, 6, 7]
    )
    with pytest.raises(FileNotFoundError, match=r"heldout-\*"):
        list(kokoro.read_pieces(tmp_path, "heldout"))


def test_sounds_that_are_no_speech(speech):
    """Silence, noise, hum, clicks and music: bounded, the same for the same seed, and the mouth is shut throughout."""
    from synthesize_speech.augment import nonspeech

    made = [nonspeech(np.random.default_rng(seed), 16_000) for seed in range(24)]
    assert all(m.shape == (16_000,) and m.dtype == np.float32 and np.abs(m).max() <= 1 for m in made)
    assert np.array_equal(made[3], nonspeech(np.random.default_rng(3), 16_000))
    levels = [float(np.abs(m).max()) for m in made]
    assert min(levels) < 0.01 and max(levels) > 0.2  # loud ones are among them
    data = speech["generate"].build(0.003, None, 0, print)
    assert set(data["visemes"]) == {0} and not data["closures"].any() and not data["face"].any()
