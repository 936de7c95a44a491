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
        from synthesize_speech import align, flite, generate, sentences, visemes
    finally:
        sys.path.remove(str(SCRIPTS))
    return {"align": align, "flite": flite, "generate": generate, "sentences": sentences, "visemes": visemes}


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


def test_sounds_are_found_where_they_are_heard(speech):
    """Likelihoods that show each sound at a place of its own: found to a step, silence too; a cut end is missing."""
    align, visemes = speech["align"], speech["visemes"]
    truth = [("sil", 0, 20), ("p", 20, 29), ("a", 29, 45), ("sil", 45, 60), ("m", 60, 66), ("i", 66, 90)]
    truth = [("p" if s == "m" else s, a, b) for s, a, b in truth]
    rng = np.random.default_rng(0)
    heard = rng.normal(0, 0.5, (90, len(align.VISEMES)))
    for shape, start, end in truth:
        heard[start:end, align.VISEMES.index(visemes.viseme_of(shape))] += 3
    expected = [(shape, 0.0, 0.1) for shape, _, _ in truth]
    found = align.align(heard, expected)
    assert [part[0] for part in found] == [part[0] for part in truth]
    assert np.abs(np.array([[a, b] for _, a, b in found]) * 100 - [[a, b] for _, a, b in truth]).max() <= 1
    short = align.align(heard[:60], expected)
    assert [part[0] for part in short] == ["sil", "p", "a", "sil"]


def test_what_is_seen_is_heard_later(speech):
    """The mouth is ahead of the sound: back in `targets_of`, a closure is where it was seen, to a frame."""
    align, visemes = speech["align"], speech["visemes"]
    seen = [("sil", 0.0, 0.4), ("a", 0.4, 0.6), ("p", 0.6, 0.7), ("a", 0.7, 1.0), ("sil", 1.0, 1.6)]
    heard = speech["generate"].joined(align.heard_parts(seen, 1.6), 1.6)
    _, names, closed = visemes.targets_of(heard, 1.6)
    (shut,) = np.flatnonzero(closed)
    assert abs(shut - 0.65 * visemes.FPS) <= 1 and names[shut] == "pp"


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
