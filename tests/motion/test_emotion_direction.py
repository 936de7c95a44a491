"""Everything a caller may say about emotion: what it becomes, what is refused, and that the words stay in sync."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from emotag_hf import EmoTaGPipeline, cli, sample_path
from emotag_hf.audio.audio_io import load_audio
from emotag_hf.constants import ACTION_UNITS, EMOTIONS, EXPRESSION_NAMES
from emotag_hf.motion.emotion_direction import CIRCUMPLEX, EmotionDirection, valence_arousal_mixture
from emotag_hf.motion.emotion_prototypes import (
    ACTION_UNIT_MOTIONS,
    action_unit_motions,
    emotion_mixture,
    emotion_to_logits,
    probabilities_to_logits,
)
from emotag_hf.pipelines.talking_head import SpeakOptions

TIMES = np.arange(100) / 25
LATE = np.array([2.0])  # any emotion has set in
HAPPY, SAD, NEUTRAL = (EMOTIONS.index(name) for name in ("happy", "sad", "neutral"))


def shown(emotion, intensity: float = 1.0, times=LATE) -> torch.Tensor:
    """g * p, `[T, 7]`: what the face shows of each class."""
    curves = EmotionDirection(emotion, intensity).at(times)
    return curves.gate * curves.probabilities


# --- the forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_a_name_in_any_case_is_that_class(emotion):
    """z_e is the class, g the intensity, and the name comes back in lower case for the video's mark."""
    direction = EmotionDirection(f" {emotion.title()} ", 0.7)
    curves = direction.at(LATE)
    assert curves.probabilities[0].argmax() == EMOTIONS.index(emotion) and curves.gate.item() == pytest.approx(0.7)
    assert curves.voice.max() == 0 and curves.units.abs().max() == 0 and direction.description == emotion


@pytest.mark.parametrize("emotion", [None, "auto", "AUTO"])
def test_auto_leaves_everything_to_the_network(emotion):
    """The network's z_e and g count from the first frame; intensity is a factor on its gate."""
    direction = EmotionDirection(emotion, 0.5)
    curves = direction.at(TIMES)
    assert curves.voice.eq(1).all() and curves.heard.eq(0.5).all() and curves.gate.max() == 0
    logits, gate = torch.randn(100, 7), torch.rand(100, 1)
    probabilities, mixed = curves.with_voice(logits, gate)
    torch.testing.assert_close(probabilities, logits.softmax(-1))
    torch.testing.assert_close(mixed, gate / 2)
    assert direction.description is None


def test_mixtures():
    """Weights below 1 leave neutral over, above 1 they are normalised; nothing of anything is neutral."""
    assert shown({"Happy": 0.7, "surprise": 0.3})[0].tolist() == pytest.approx([0, 0, 0, 0.7, 0, 0.3, 0], abs=1e-6)
    assert shown({"sad": 0.3})[0, [SAD, NEUTRAL]].tolist() == pytest.approx([0.3, 0.7])
    assert shown({"sad": 2, "happy": 2})[0, [SAD, HAPPY]].tolist() == pytest.approx([0.5, 0.5])
    assert shown({"happy": 0})[0, NEUTRAL] == 1


def test_one_way_from_probabilities_to_logits():
    """The pipeline and the network's own argument agree to the bit, and the softmax is what was asked for."""
    mixture = {"happy": 0.6, "surprise": 0.1}
    assert torch.equal(emotion_to_logits(mixture), probabilities_to_logits(torch.tensor(emotion_mixture(mixture))))
    torch.testing.assert_close(
        emotion_to_logits(mixture).softmax(-1), torch.tensor(emotion_mixture(mixture)), atol=1e-5, rtol=0
    )


def test_valence_and_arousal():
    """Each class is the strongest where it was measured, the origin is neutral, and calm has no strong face."""
    for name, place in CIRCUMPLEX.items():
        mixture = valence_arousal_mixture(*place)
        assert np.argmax(mixture) == EMOTIONS.index(name), name
        assert mixture[NEUTRAL] < 0.1 and sum(mixture) == pytest.approx(1)
    assert valence_arousal_mixture(0, 0)[NEUTRAL] == 1
    assert valence_arousal_mixture(0.5, -0.6)[NEUTRAL] > 0.8 and valence_arousal_mixture(0, -1)[NEUTRAL] > 0.6
    assert shown({"valence": 0.81, "arousal": 0.51}, 0.5)[0, HAPPY] == pytest.approx(0.5, abs=0.1)


def test_valence_and_arousal_change_smoothly():
    """A walk in steps of 0.01 through the whole square never jumps, not even at the origin or behind it."""
    line = np.linspace(-1, 1, 201)
    walks = [[valence_arousal_mixture(x, f(x)) for x in line] for f in (lambda x: 0.0, lambda x: x, lambda x: -x)]
    walks += [[valence_arousal_mixture(v, x) for x in line] for v in (-1, -0.6, 0, 0.6, 1)]
    circle = np.linspace(0, 2 * math.pi, 601)
    walks += [[valence_arousal_mixture(0.7 * math.cos(a), 0.7 * math.sin(a)) for a in circle]]
    assert max(np.abs(np.diff(walk, axis=0)).max() for walk in walks) < 0.08
    intensity = [valence_arousal_mixture(0.81 * r, 0.51 * r)[HAPPY] for r in np.linspace(0, 1, 50)]
    assert (np.diff(intensity) > -1e-9).all() and intensity[-1] > 0.9


def test_action_units_are_read_in_both_spellings():
    """AU4 is AU04; classes stay neutral and the gate shut; intensity multiplies."""
    curves = EmotionDirection({"AU4": 2, "au12": 3.0}, 0.5).at(LATE)
    wanted = torch.zeros(14)
    wanted[ACTION_UNITS.index("AU04")], wanted[ACTION_UNITS.index("AU12")] = 1.0, 1.5
    torch.testing.assert_close(curves.units[0], wanted)
    assert curves.gate.max() == 0 and curves.probabilities[0, NEUTRAL] == 1
    assert EmotionDirection({"AU4": 2}).description == {"AU04": 2.0}


def test_action_unit_table_is_whole_and_names_real_directions():
    """All fourteen units move something; a misspelt direction would silently do nothing."""
    assert set(ACTION_UNIT_MOTIONS) == set(ACTION_UNITS)
    names = {name for values in ACTION_UNIT_MOTIONS.values() for name in values} - {"jaw", "eyelids"}
    assert all(name in EXPRESSION_NAMES or f"{name}_L" in EXPRESSION_NAMES for name in names)
    assert action_unit_motions().shape == (14, 52) and action_unit_motions().abs().amax(1).min() > 0


def test_json_says_the_same_as_python(tmp_path):
    """Text, a file, a file with a byte-order mark, and a path object."""
    keyframes = [{"time": 0, "emotion": "neutral"}, {"time": 2, "emotion": {"happy": 0.7}, "intensity": 0.8}]
    path = tmp_path / "moods.json"
    path.write_text(json.dumps(keyframes), encoding="utf-8-sig")
    for other in (json.dumps(keyframes), path, str(path)):
        direction = EmotionDirection(other)
        torch.testing.assert_close(direction.at(TIMES).gate, EmotionDirection(keyframes).at(TIMES).gate)
        assert direction.description == EmotionDirection(keyframes).description
    assert EmotionDirection('"happy"').description == "happy"
    assert EmotionDirection('{"happy": 0.5}').description == {"happy": 0.5}
    json.dumps(EmotionDirection(keyframes).description)
    again = EmotionDirection(EmotionDirection(keyframes).description)
    assert torch.equal(again.at(TIMES).probabilities, EmotionDirection(keyframes).at(TIMES).probabilities)


# --- over time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emotion", ["happy", {"AU12": 4}, [{"time": 0, "emotion": "happy"}]])
def test_everything_sets_in_smoothly(emotion):
    """From nothing to all of it within half a second, without a jump, and then it stays."""
    curves = EmotionDirection(emotion, 0.7).at(TIMES)
    curve = curves.gate[:, 0] / 0.7 if curves.gate.any() else curves.units[:, ACTION_UNITS.index("AU12")] / 2.8
    assert curve[0] == 0 and curve[10:].sub(1).abs().max() < 1e-6
    assert curve.diff().min() >= 0 and curve.diff().max() < 0.2


def test_keyframes_move_monotonously_and_never_too_far():
    """Between two keyframes every class goes one way, in small steps, and stops at what was asked for."""
    moods = [
        {"time": 0.5, "emotion": "happy", "intensity": 0.3},
        {"time": 1.5, "emotion": "angry"},
        {"time": 3.0, "emotion": {"sad": 0.5}, "intensity": 0.6},
    ]
    fine = np.arange(0.5, 4, 0.01)
    values = shown(moods, times=fine)
    for start, end in ((0.5, 1.5), (1.5, 3.0)):
        steps = values[(fine > start - 1e-9) & (fine < end + 1e-9)].diff(dim=0)
        assert ((steps >= -1e-6).all(0) | (steps <= 1e-6).all(0)).all()
    assert values.diff(dim=0).abs().max() < 0.02  # 1.5 / s^2 at most
    assert values[100, EMOTIONS.index("angry")] == pytest.approx(1) and values[-1, SAD] == pytest.approx(0.3)
    halfway = shown(moods, times=[1.0])[0]
    assert halfway[HAPPY].item() == pytest.approx(0.15, abs=1e-5)  # of both faces, not of both names
    assert shown(moods, times=[0.45])[0, HAPPY] == pytest.approx(0.3)  # holds before the first


def test_spans_hold_and_change_smoothly_even_where_they_touch():
    """`until` holds; spans that touch or nearly touch still take a moment to change."""
    touching = [{"time": 0, "until": 2, "emotion": "happy"}, {"time": 2, "until": 3, "emotion": "sad"}]
    values = shown(touching, times=TIMES)
    assert values[10:40, HAPPY].sub(1).abs().max() < 1e-6 and values[50:, SAD].sub(1).abs().max() < 1e-6
    assert values[10:].diff(dim=0).abs().max() < 0.2
    gap = shown([{"time": 0, "until": 1, "emotion": "happy"}, {"time": 3, "emotion": "sad"}], times=[1.0, 2.0, 3.0])
    assert gap[:, HAPPY].tolist() == pytest.approx([1, 0.5, 0])


def test_a_stream_gets_the_numbers_of_the_whole():
    """Functions of absolute time alone: any frame by itself, any chunk, any rate, to the bit."""
    moods = [
        {"time": 0.3, "emotion": "auto"}, {"time": 1.0, "until": 2.0, "emotion": {"AU12": 3, "AU45": 1}},
        {"time": 2.2, "emotion": {"valence": -0.5, "arousal": 0.5}, "intensity": 0.5},
    ]  # fmt: skip
    direction = EmotionDirection(moods, 0.9)
    whole = direction.at(TIMES)
    for name, values in vars(whole).items():
        one_by_one = torch.cat([getattr(direction.at([t]), name) for t in TIMES])
        assert torch.equal(values, one_by_one), name
        assert torch.equal(values[::2], getattr(direction.at(TIMES[::2]), name)), name
        assert values.isfinite().all() and values.dtype == torch.float32
    assert whole.probabilities.sum(-1).sub(1).abs().max() < 1e-5


def test_auto_and_a_class_mix_over_time():
    """From what the network hears to what was asked for: the face goes from one to the other, never anywhere else."""
    direction = EmotionDirection([{"time": 1, "emotion": "auto"}, {"time": 2, "emotion": "happy"}])
    curves = direction.at([0.5, 1.5, 3.0])
    logits = torch.full((3, 7), -20.0)
    logits[:, SAD] = 20.0
    probabilities, gate = curves.with_voice(logits, torch.full((3, 1), 0.4))
    values = gate * probabilities
    assert values[:, SAD].tolist() == pytest.approx([0.4, 0.2, 0], abs=1e-5)
    assert values[:, HAPPY].tolist() == pytest.approx([0, 0.5, 1], abs=1e-5)


# --- what is refused -------------------------------------------------------------------------------------------------

AT_0 = {"time": 0, "emotion": "sad"}
WRONG = [
    ("joyful", r"emotion: expected one of angry, disgust.*got 'joyful'"),
    (7, "emotion: expected one of angry"),
    ({}, "emotion: expected one of angry"),
    (True, "emotion: expected one of angry"),
    ({"happy": 0.5, "AU12": 2}, "one kind at a time; got happy, AU12"),
    ({"joy": 0.5}, "expected the names of emotions .* got joy"),
    ({"AU23": 2}, "action units .*AU01, AU02.* got AU23"),
    ({"AU4": 2, "AU04": 1}, "expected each name once, got AU4, AU04"),
    ({"valence": 0.5}, "valence and arousal"),
    ({"valence": 0.5, "arousal": 1.5}, r"emotion: arousal: expected a number in \[-1, 1\], got 1.5"),
    ({"happy": -0.1}, "emotion: happy: expected a finite number of 0 or more, got -0.1"),
    ({"happy": float("nan")}, "emotion: happy: expected a finite number of 0 or more, got nan"),
    ({"happy": True}, "emotion: happy: expected"),
    ({"happy": "much"}, "emotion: happy: expected .* got 'much'"),
    ({"AU12": 6}, r"emotion: AU12: expected a number in \[0, 5\], got 6"),
    ({3: 0.5}, "expected the names of emotions"),
    ([], "emotion: expected at least one keyframe"),
    (["happy"], r"emotion: keyframe 1: expected a dict such as .* got 'happy'"),
    ([AT_0, {"time": 1}], "emotion: keyframe 2: expected a dict such as"),
    ([{"emotion": "sad"}], "emotion: keyframe 1: expected a dict such as"),
    ([{**AT_0, "strength": 1}], "keyframe 1: expected nothing but time, until, emotion, intensity, got strength"),
    ([{"time": -0.5, "emotion": "sad"}], "keyframe 1: time: expected a finite number of 0 or more, got -0.5"),
    ([{"time": float("nan"), "emotion": "sad"}], "keyframe 1: time: .* got nan"),
    ([{"time": float("inf"), "emotion": "sad"}], "keyframe 1: time: .* got inf"),
    ([{"time": "1", "emotion": "sad"}], "keyframe 1: time: .* got '1'"),
    ([AT_0, {"time": 1, "emotion": "bored"}], "emotion: keyframe 2: emotion: expected one of .* got 'bored'"),
    ([AT_0, {"time": 1, "emotion": [AT_0]}], "keyframe 2: emotion: expected one of"),
    ([{**AT_0, "intensity": 1.5}], r"keyframe 1: intensity: expected a number in \[0, 1\], got 1.5"),
    ([{**AT_0, "intensity": None}], r"keyframe 1: intensity: expected"),
    ([{"time": 2, "emotion": "sad"}, {"time": 1, "emotion": "sad"}], "in the order of time, each time once, got 1 s"),
    ([AT_0, AT_0], "in the order of time, each time once, got 0 s"),
    ([{**AT_0, "until": 2}, {"time": 1, "emotion": "happy"}], "spans that do not overlap, got keyframe 1 until 2 s"),
    ([{"time": 1, "until": 1, "emotion": "sad"}], "keyframe 1: expected until after its time, 1 s, got 1 s"),
    ("[{", "emotion: expected JSON, but a text cannot be read as such"),
    ('[{"time": NaN, "emotion": "sad"}]', "keyframe 1: time: .* got nan"),
    ('"bored"', "emotion: expected one of .* got 'bored'"),
]


@pytest.mark.parametrize(("emotion", "words"), WRONG)
def test_what_cannot_be_is_refused_in_one_sentence(emotion, words):
    """Unknown names, NaN, overlaps, duplicates, disorder, ...: which argument, what was expected, what came."""
    with pytest.raises(ValueError, match=words) as caught:
        EmotionDirection(emotion)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "."))


@pytest.mark.parametrize("value", [-0.1, 1.2, float("nan"), "0.5", None, True])
def test_intensity_outside_the_unit_interval(value):
    with pytest.raises(ValueError, match=r"intensity: expected a number in \[0, 1\]"):
        EmotionDirection("happy", value)


def test_files_that_are_not_there_or_not_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="emotion: expected a JSON file, but there is no file .*nowhere.json"):
        EmotionDirection(str(tmp_path / "nowhere.json"))
    with pytest.raises(FileNotFoundError, match="emotion: expected a JSON file"):
        EmotionDirection(tmp_path)
    path = tmp_path / "picture.json"
    for content in (b"\x89PNG\xff\xfe", b"", b"happy", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="emotion: expected JSON, but the file .*picture.json cannot be read"):
            EmotionDirection(path)


def test_times_past_the_end_of_the_sound():
    """Only who knows the sound can say so: `check_end`, which the network's and the command's callers use."""
    for late in ([AT_0, {"time": 9, "emotion": "sad"}], [{**AT_0, "until": 9}]):
        with pytest.raises(ValueError, match="within the sound, which ends at 4.20 s, got one at 9 s"):
            EmotionDirection(late).check_end(4.2)
        EmotionDirection(late).check_end(9.0)
    EmotionDirection("happy").check_end(0.0)


# --- on a face -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe() -> EmoTaGPipeline:
    """The embedded model with the prototypes of the source, whatever its weights were trained from."""
    pipe = EmoTaGPipeline.from_pretrained()
    pipe.model.motion.emotion_decoder.use_prototypes_()
    return pipe


@pytest.fixture(scope="module")
def speech() -> dict:
    clip = load_audio(sample_path())
    return {"array": clip.mono(16_000)[: 16_000 * 3], "sampling_rate": 16_000}


def bench():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("bench_emotion")
    finally:
        sys.path.remove(folder)


def speak(pipe, speech, emotion, **options):
    return pipe(speech, emotion=emotion, output_type="motion", **options)


@pytest.mark.slow
def test_lips_keep_their_words_while_the_face_changes(pipe, speech):
    """Lip-lock: opening correlated 0.9 or more, no shift, p b m shut; its own units change by 1.5 or more."""
    for emotion, row in bench().measure(pipe, speech, intensities=(0.3, 0.6, 1), seed=1).items():
        assert row["r"] > 0.9 and row["shift"] == 0, (emotion, row)
        assert row["num_shut"] >= 3 and row["kept_shut"] > 0.85 and 0.85 < row["range"] < 1.4, (emotion, row)
        assert min(row["units"].values()) >= 1.5 and row["monotone"], (emotion, row)


@pytest.mark.parametrize("units", [("AU12", "AU26"), pytest.param(("AU04", "AU25"), marks=pytest.mark.slow)])
def test_action_units_show_and_the_lips_keep_their_words(pipe, speech, units):
    """What is asked for is what the face reads, more or less; an open jaw or parted lips still shut on p, b, m."""
    found = bench().measure_units(pipe, speech, units, (2, 5), seed=1)
    for unit, row in found.items():
        assert 0 < row["read"][0] < row["read"][1] and row["read"][1] > 1.2, (unit, row)
        assert row["r"] > 0.74 and row["shift"] == 0 and row["kept_shut"] > 0.7, (unit, row)
    if "AU12" in units:
        assert found["AU12"]["read"] == pytest.approx([2, 5], abs=1)


def test_lids_shut_with_au45_and_blinks_go_on(pipe, speech):
    """AU45 closes the lids from where they are; without it they are the generated ones."""
    plain, shut = (speak(pipe, speech, {"AU45": value}).motion.eyelids for value in (0, 5))
    half = speak(pipe, speech, {"AU45": 2.5}).motion.eyelids
    assert shut[15:].min() > 0.999 and torch.equal(plain, speak(pipe, speech, "sad").motion.eyelids)
    assert (half >= plain - 1e-6).all() and half[15:].min() > 0.49


def test_keyframes_reach_the_pipeline(pipe, speech):
    """The face of the second keyframe is that of its emotion alone, and the mark says what was asked for."""
    moods = [{"time": 0, "emotion": "neutral"}, {"time": 2, "emotion": "happy", "intensity": 0.5}]
    out, half = speak(pipe, speech, moods), speak(pipe, speech, "happy", intensity=0.5)
    torch.testing.assert_close(out.motion.expression[51:], half.motion.expression[51:], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.motion.expression[:1], speak(pipe, speech, "neutral").motion.expression[:1])
    assert out.metadata["emotion"] == EmotionDirection(moods).description
    with pytest.raises(ValueError, match="within the sound"):
        speak(pipe, speech, [{"time": 60, "emotion": "happy"}])
    hear = [{"time": 0, "emotion": "auto"}, {"time": 2, "emotion": "auto"}]
    torch.testing.assert_close(speak(pipe, speech, hear).motion.expression, speak(pipe, speech, None).motion.expression)


def test_options_and_the_command_refuse_before_any_work(tmp_path, capsys):
    """The command's line is one sentence that names the argument."""
    assert SpeakOptions(emotion="HAPPY").emotion == "happy" and SpeakOptions(emotion="auto").emotion is None
    for said, words in (
        ("bored", "emotion: expected one of"),
        ('{"AU99": 1}', "emotion: expected the names of"),
        (str(tmp_path / "no.json"), "emotion: expected a JSON file, but there is no file"),
        ('[{"time": 999, "emotion": "sad"}]', "emotion: expected keyframes within the sound"),
    ):
        assert cli.main(["speak", "--sample", "-o", str(tmp_path / "out.mp4"), "--emotion", said]) == 2
        error = capsys.readouterr().err
        assert error.startswith("emotag: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "out.mp4").exists()
