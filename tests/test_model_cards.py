"""The cards: valid for the Hub, at one with the configs of the weights that they describe, and with themselves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from hub_fixtures import CONSENT, SOURCE
from huggingface_hub import ModelCard
from safetensors import safe_open
from stand_in_hub import card_errors

from emotag_hf.hub.avatar_card import is_open_license, render_card
from emotag_hf.utils.asset_paths import ASSETS

pytest_plugins = ["hub_fixtures"]
ROOT = Path(__file__).parents[1]
CARDS = sorted(path for path in (ROOT / "model_cards").glob("*.md") if path.name != "README.md")
FACTS = {
    "package_version": "0.1.0", "base_model": "emotag-base", "source": SOURCE, "training": {"steps": 800},
    "metrics": None,
    "licenses": {"head": "Apache-2.0", "motion": "apache-2.0", "gaussian_prior": "apache-2.0"},
}  # fmt: skip
needs_checkout = pytest.mark.skipif(not CARDS, reason="only in a checkout of the repository")


def numbers_of_motion(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", framework="np") as file:
        return sum(prod(file.get_slice(k).get_shape()) for k in file.keys() if k.startswith("motion."))  # noqa: SIM118


@needs_checkout
def test_every_model_has_a_card():
    """What is embedded and what is described are the same."""
    models = {path.parent.name for path in ASSETS.glob("*/config.json")}
    assert models == {path.stem for path in CARDS}


@needs_checkout
@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)
def test_cards_agree_with_their_weights(path, hub):
    """The Hub takes the header; licence and sizes are those of the config; measured numbers of the header stand in the
    card's own tables."""
    text = path.read_text(encoding="utf-8")
    card, body = ModelCard(text), text.split("\n---\n", 1)[1]
    card.validate()
    assert ("POST", "/api/validate-yaml") in hub.requests
    config = json.loads((ASSETS / path.stem / "config.json").read_text(encoding="utf-8"))
    if is_open_license(config["weights_license"]):
        assert card.data.license == "apache-2.0"
    else:
        assert (card.data.license, card.data.license_name) == ("other", config["weights_license"])
    for result in card.data.eval_results or ():
        value = result.metric_value
        assert re.search(rf"(?<![\d.])({value:.2f}|{100 * value:.0f} %)", body), f"{result.metric_name}: {value}"
    if "num_surface" in config:
        assert f"{config['num_surface']:,} places" in body
    if found := re.search(r"([\d,]+) parameters in the motion network", body):
        count = numbers_of_motion(ASSETS / path.stem)
        assert abs(int(found[1].replace(",", "")) - count) < 1000, count
    if found := re.search(r"([\d,]+) Gaussians, ([\d,]+) of them inside the mouth", body):
        sizes = config["gaussians_config"]
        assert [int(n.replace(",", "")) for n in found.groups()] == [
            sizes["num_gaussians"],
            sizes["num_mouth_gaussians"],
        ]


@needs_checkout
def test_these_tests_see_something():
    """The patterns above find what they look for in at least one card; else they prove nothing."""
    texts = "".join(path.read_text(encoding="utf-8") for path in CARDS)
    assert "parameters in the motion network" in texts and "of them inside the mouth" in texts
    assert texts.count("pearsonr") >= 4


@pytest.mark.parametrize(
    "name",
    [
        "# Zoë\\", "--- ", "license: mit", "a: [b", "$title ${banner}", "{repo_id}", "<img src=x onerror=alert(1)>",
        "x | y", "](javascript:alert(1))", "`code`", "&lt;b&gt;", "https://evil.example", "@everyone",
        "- item", "!!python/object",
    ],
)  # fmt: skip
def test_names_are_text(name):
    """Whatever a person is called, the header stays what it is and the body shows the name as it was typed."""
    text = render_card(FACTS, replace(CONSENT, person=name, revocation_contact=name), has_video=True, repo_id="ada/me")
    plain = render_card(FACTS, CONSENT, has_video=True, repo_id="ada/me")
    assert text.split("\n---\n")[0] == plain.split("\n---\n")[0] and not card_errors(text)
    body = text.split("\n---\n", 1)[1]
    assert body.count("\n#") == plain.count("\n#") and body.count("\n|") == plain.count("\n|")
    raw = re.sub(r"\\.", "", body)  # what is left when every escaped letter is gone
    for sign in ("<img", "](java", "https://evil", "@every", "x | y", "`code`", "${", "&lt;"):
        assert sign not in raw, sign


def test_measured_numbers_are_results():
    """Held-out numbers, and those of the frames kept aside, are eval results of their own splits; texts and unknown
    values are none; without numbers there is no model-index."""
    assert ModelCard(render_card(FACTS, CONSENT)).data.eval_results is None
    facts = FACTS | {"metrics": {"oracle": {"psnr_mouth": 27.5, "note": "x", "lip_r": None}, "frames": 12}}
    facts |= {"training": {"validation_psnr_face_box": 31.2}}
    text = render_card(facts, CONSENT)
    found = {(r.dataset_split, r.metric_name, r.metric_value) for r in ModelCard(text).data.eval_results}
    assert found == {
        ("test", "oracle, psnr_mouth", 27.5), ("test", "frames", 12), ("validation", "PSNR of the face box, dB", 31.2),
    }  # fmt: skip
    assert not card_errors(text)


def test_the_stand_in_refuses_wrong_headers():
    """The judge of the tests above says no where the Hub's documentation does."""
    good = "license: other\nlicense_name: my-terms\nlicense_link: LICENSE.md"
    assert not card_errors(f"---\n{good}\n---\n# x\n")
    for wrong in (
        "license: stolen", "license: other", good.replace("LICENSE.md", "WEIGHTS_LICENSE"),
        good + "\npipeline_tag: dance",
        "a: [b", "- x", good + "\ntags: [1]", good.replace("my-terms", "My Terms"),
    ):  # fmt: skip
        assert card_errors(f"---\n{wrong}\n---\n# x\n"), wrong
    assert card_errors("# x\n") and card_errors("---\nx\n---\n")
