"""The model card and the licence file of an avatar. Not in the paper.

In: the facts of avatar.json and the consent. Out: README.md with the Hub's YAML header, rendered from
assets/avatar_card.md.template, and LICENSE.md. Text from users is escaped, so that a name cannot contain Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from string import Template
from typing import Any

from ..constants import MOTION_FPS
from ..rights.consent import PURPOSES, Consent
from ..utils.asset_paths import asset_path

RESEARCH_LICENSE = "emotag-research-weights-1.0"  # the file WEIGHTS_LICENSE; `weights_license` of such weights
LIKENESS_LICENSE = "avatar-by-consent"  # the Hub's `license_name` of an avatar of a real person
TAGS = ("talking-head", "audio-to-video", "gaussian-splatting", "flame", "emotion", "avatar")
PIPELINE_TAG = "image-to-video"  # what talking heads on the Hub use; it has no task from sound to video
LIBRARY = "emotag_hf"
LICENSE_MD = "LICENSE.md"

_SOURCE_ROWS = {
    "sha256": "SHA-256 of the recording",
    "seconds": "its length, s",
    "frames_used": "frames trained on, at 25 fps",
    "width": "width, pixels",
    "height": "height, pixels",
    "fps": "frames per second",
    "tracker_version": "version of the tracker",
}
_PART_ROWS = {"head": "parametric head", "motion": "motion network", "gaussian_prior": "prior of the Gaussians"}
_FRAMES = {
    "test": "frames of the recording that were held out of training",
    "validation": "frames of the recording that were kept aside, and said when to stop",
}
_MAX_ROWS = 60  # rows of a table; all of them are in avatar.json


def is_open_license(name: str) -> bool:
    """Whether a licence is a permissive one like the package's own, which only requires attribution."""
    return name.lower() == "apache-2.0"


def hub_license(consent: Consent, licenses: dict[str, str]) -> dict[str, str]:
    """`license`, and unless that is Apache-2.0 `license_name` and `license_link`, as the Hub's header has them."""
    if consent.is_synthetic:
        return hub_weights_license(licenses.values())
    # a person's likeness is not covered by a software licence, however free the weights are
    return {"license": "other", "license_name": LIKENESS_LICENSE, "license_link": LICENSE_MD}


def hub_weights_license(names: Iterable[str]) -> dict[str, str]:
    """The same for weights under the licences `names` that show no real person."""
    closed = {re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") for name in names} - {"apache-2.0"}
    if not closed:
        return {"license": "apache-2.0"}
    name = closed.pop() if len(closed) == 1 else "several-licenses"
    return {"license": "other", "license_name": name or "unnamed", "license_link": LICENSE_MD}


def render_card(
    facts: dict[str, Any],
    consent: Consent,
    *,
    has_preview: bool = False,
    has_video: bool = False,
    repo_id: str | None = None,
) -> str:
    """README.md of an avatar.

    Args:
        facts: the content of avatar.json.
        consent: whose avatar it is.
        has_preview, has_video: whether preview.png and preview.mp4 are there.
        repo_id: its name on the Hub, if it is uploaded.
    """
    person, source = escape(consent.person), facts["source"]
    template = Template(Path(asset_path("avatar_card.md.template")).read_text(encoding="utf-8"))
    return template.substitute(
        metadata=_header(facts, consent),
        title=f"{person} (synthetic person)" if consent.is_synthetic else f"Avatar of {person}",
        banner=_banner(consent),
        preview=_preview(person, has_preview, has_video),
        where=repo_id or "this folder, or its name on the Hub",
        person=person,
        package_version=escape(facts["package_version"]),
        seconds=f"{source['frames_used'] / MOTION_FPS:.1f} s",
        consent=_table(_consent_rows(consent)),
        statement=escape(consent.statement).replace("\n", "\n> "),
        source=_table([(words, source[key]) for key, words in _SOURCE_ROWS.items()]),
        training=_table(_flat(facts["training"])) if facts["training"] else "Not recorded.",
        metrics=_measured(facts["metrics"]),
        licenses=_table([(_PART_ROWS[part], name) for part, name in facts["licenses"].items()]),
        license_note=_license_note(consent, facts["licenses"]),
        base_model=facts["base_model"],
    )


def render_license(consent: Consent, licenses: dict[str, str]) -> str | None:
    """LICENSE.md of an avatar; None if the licence in the card's YAML header is enough.

    Raises:
        FileNotFoundError: a part is under the research licence, and this installation lacks its text.
    """
    if "license_link" not in hub_license(consent, licenses):
        return None
    parts = "\n".join(f"- {_PART_ROWS[part]}: {escape(name)}" for part, name in licenses.items())
    text = f"# Rights in this avatar\n\n## Weights\n{parts}\n\nThe strictest of them holds for the whole.\n"
    if not consent.is_synthetic:
        uses = "\n".join(f"- {PURPOSES[purpose]}" for purpose in consent.purposes)
        given = "The avatar itself may be" if consent.may_publish else "The avatar itself may not be"
        text += (
            f"\n## Likeness\nIt shows {escape(consent.person)}, who keeps every right in their likeness. It may be "
            "used for what was agreed to (`consent.json`, which is part of this licence), and for nothing else:\n\n"
            f"{uses}\n\n{given} given to others. Consent can be taken back; whoever is told so deletes their copies.\n"
        )
    if RESEARCH_LICENSE in licenses.values():
        text += f"\n## {RESEARCH_LICENSE}\n```\n{research_license_text().strip()}\n```\n"
    return text


def research_license_text() -> str:
    """The text of WEIGHTS_LICENSE, which has to accompany weights under it; read from the checkout or the installed
    wheel."""
    checkout = Path(__file__).parents[3] / "WEIGHTS_LICENSE"
    if checkout.is_file():
        return checkout.read_text(encoding="utf-8")
    try:
        text = distribution("emotag_hf").read_text("licenses/WEIGHTS_LICENSE")
    except PackageNotFoundError:
        text = None
    if not text:
        raise FileNotFoundError(
            "WEIGHTS_LICENSE has to accompany an avatar made with these weights, and this installation lacks it; "
            "install emotag_hf again from its wheel."
        )
    return text


def escape(text: str) -> str:
    """Escapes text for Markdown, so that no tags, links, tables or headings come of it. Keeps line breaks."""
    text = "\n".join(" ".join(line.split()) for line in text.splitlines())
    text = re.sub(r"([!#$&()*/<>@\[\\\]^_`{|}~])", r"\\\1", text)  # "/" and "@": or an address becomes a link
    return re.sub(r"^([-+=])", r"\\\1", text, flags=re.M)


def _header(facts: dict[str, Any], consent: Consent) -> str:
    from huggingface_hub import ModelCardData

    gate = {}
    if not consent.is_synthetic:
        uses = ", ".join(PURPOSES[purpose] for purpose in consent.purposes)
        gate["extra_gated_prompt"] = (
            f"This avatar shows a real person, who agreed to: {uses}. By asking for access you agree to use it for "
            "nothing else, and to say that its videos are AI-generated."
        )
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=PIPELINE_TAG,
        tags=[*TAGS, "synthetic"] if consent.is_synthetic else list(TAGS),
        base_model=facts["base_model"],
        base_model_relation="finetune",
        **hub_license(consent, facts["licenses"]),
        **gate,
        **_eval_results(facts),
    )
    return data.to_yaml().strip()


def _eval_results(facts: dict[str, Any]) -> dict[str, Any]:
    """`eval_results` and `model_name` of the header: what was measured on frames that were not trained on."""
    from huggingface_hub import EvalResult

    measured = [("test", name, value) for name, value in _flat(facts["metrics"] or {})]
    measured.append(("validation", "PSNR of the face box, dB", facts["training"].get("validation_psnr_face_box")))
    results = [
        EvalResult(
            task_type=PIPELINE_TAG,
            dataset_type="private",
            dataset_name=_FRAMES[split],
            dataset_split=split,
            metric_type="psnr" if "psnr" in name.lower() else name,
            metric_name=name,
            metric_value=value,
        )
        for split, name, value in measured[:_MAX_ROWS]
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    return {"eval_results": results, "model_name": "avatar"} if results else {}


def _preview(person: str, has_preview: bool, has_video: bool) -> str:
    text = f"![A rendering of {person}](preview.png)" if has_preview else ""
    if has_video:
        text += "\n\n[A video of the package's synthetic sample speech](preview.mp4), AI-generated and marked as such."
    return f"\n{text.strip()}\n" if text else ""


def _banner(consent: Consent) -> str:
    if consent.is_synthetic:
        return "This person does not exist."
    if not consent.may_publish:
        return "**Private: the person did not agree to publication. Do not upload this folder or give it to others.**"
    return "A real person, who agreed to the uses below and to no others."


def _consent_rows(consent: Consent) -> list[tuple[str, Any]]:
    if consent.is_synthetic:
        return [("who agreed", "nobody had to: the person is synthetic")]
    who = consent.person
    if consent.agreed_by == "guardian":
        who = f"{consent.guardian_name} ({consent.guardian_relation}), for {consent.person}"
    return [
        ("who agreed", who),
        ("when", consent.date),
        ("until", consent.expires or "taken back"),
        ("uses", ", ".join(PURPOSES[purpose] for purpose in consent.purposes)),
        ("may be published", consent.may_publish),
        ("whom to write to, to take it back", consent.revocation_contact or "not given"),
        ("how", {"terminal": "typed at a terminal"}.get(consent.how, f"handed over as {consent.how}")),
    ]


def _measured(metrics: dict[str, Any] | None) -> str:
    if not metrics:
        return "Nothing was held out of the recording, so nothing was measured."
    return "On frames of the recording that were held out of training:\n\n" + _table(_flat(metrics))


def _license_note(consent: Consent, licenses: dict[str, str]) -> str:
    notes = []
    if not consent.is_synthetic:
        notes.append("The likeness belongs to the person: `LICENSE.md`.")
    if RESEARCH_LICENSE in licenses.values():
        notes.append("Research and other non-commercial use only: `LICENSE.md` has the text.")
    return "\n" + " ".join(notes) if notes else ""


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Table rows of nested facts. Lists, such as frame numbers, are left out; avatar.json has them."""
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}, ")
        elif not isinstance(value, list):
            rows.append((prefix + key, value))
    return rows


def _table(rows: list[tuple[str, Any]]) -> str:
    lines = [f"| {escape(words)} | {_cell(value)} |" for words, value in rows[:_MAX_ROWS]]
    if len(rows) > _MAX_ROWS:
        lines.append(f"| and {len(rows) - _MAX_ROWS} more | `avatar.json` |")
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value)).replace("\n", " ")


__all__ = ["RESEARCH_LICENSE", "render_card", "render_license"]
