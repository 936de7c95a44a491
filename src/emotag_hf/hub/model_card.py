"""The card and the licence file of a model that is not a person's avatar. Not in the paper.

In: a model. Out: README.md with the Hub's YAML header, and LICENSE.md if the licence is not Apache-2.0. Avatars have
the card of `avatar_card`. Names from a config are untrusted text and are escaped.
"""

from __future__ import annotations

from typing import Any

from ..constants import DEFAULT_EAR
from ..rights.provenance import package_version
from .avatar_card import (
    LIBRARY,
    PIPELINE_TAG,
    RESEARCH_LICENSE,
    TAGS,
    escape,
    hub_weights_license,
    research_license_text,
)

_LONGEST = 200  # characters of a name that are shown

_CARD = """---
{header}
---

# {title}

{what} Written by `emotag_hf` {version}.
{preview}
## Use
```python
{use}
```

## What is inside
{facts}

## Measured
No measurements came with these weights.

## Licence
{license}

## Limits and acceptable use
It shows nobody who was filmed. What it drives may be a real face: get consent before you animate one, do not deceive,
and leave the AI-generated mark of its videos in (`SECURITY.md` of the package).

## Citation
Xu, Cheng, Wang, Bi, Liu: *EmoTaG: Emotion-Aware Talking Head Synthesis on Gaussian Splatting with Few-Shot
Personalization*, CVPR 2026, arXiv 2603.21332. `emotag_hf` is an independent implementation, not affiliated with the
authors.
"""
_SPEAK = """from emotag_hf import EmoTaGPipeline

pipe = EmoTaGPipeline.from_pretrained("{repo_id}")
pipe("speech.wav", emotion="happy", intensity=0.7).save("out.mp4")"""
_LOAD = """import emotag_hf
from transformers import AutoModel

model = AutoModel.from_pretrained("{repo_id}")"""
_START = """from emotag_hf import adapt

adapt("me.mp4", "me_avatar", prior="{repo_id}")"""


def render_model_card(model, repo_id: str, *, whole: bool = False) -> str:
    """README.md of a model.

    Args:
        model: an `EmoTaGModel` or a `GaussianPrior`.
        repo_id: the repository it is for.
        whole: whether the repository also has the processor and preview.mp4, as `EmoTaGPipeline.push_to_hub` uploads
            them.
    """
    from huggingface_hub import ModelCardData

    config, license_name = model.config, model.config.weights_license
    is_prior = config.model_type == "emotag_gaussian_prior"
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=None if is_prior else PIPELINE_TAG,
        tags=["talking-head", "gaussian-splatting"] if is_prior else list(TAGS[:-1]),
        **hub_weights_license([license_name]),
    )
    rows = _prior_rows(config) if is_prior else _model_rows(model)
    name = repo_id if is_prior else config.avatar_name
    return _CARD.format(
        header=data.to_yaml().strip(),
        title=_plain(name),
        what="What `emotag_hf.adapt` starts from where a clip shows nothing."
        if is_prior
        else "Speech in, an emotional 3D talking head out, on any CPU.",
        version=_plain(package_version()),
        preview="\n[A video of it](preview.mp4), AI-generated and marked as such.\n" if whole else "",
        use=(_START if is_prior else _SPEAK if whole else _LOAD).format(repo_id=repo_id),
        facts="\n".join(["| | |", "|---|---|", *(f"| {key} | {_plain(value)} |" for key, value in rows)]),
        license=_plain(license_name) + (": `LICENSE.md`." if "license_name" in data.to_dict() else "."),
    )


def render_model_license(license_name: str) -> str | None:
    """LICENSE.md of a model; None if the licence in the card's YAML header is enough.

    Raises:
        FileNotFoundError: as `research_license_text`.
    """
    if "license_link" not in hub_weights_license([license_name]):
        return None
    text = f"# Rights in these weights\n\n{_plain(license_name)}\n"
    if license_name == RESEARCH_LICENSE:
        text += f"\n```\n{research_license_text().strip()}\n```\n"
    return text


def _model_rows(model) -> list[tuple[str, Any]]:
    config = model.config
    motion, gaussians = config.motion_config, config.gaussians_config
    ear = motion.audio_encoder or DEFAULT_EAR
    encoder, ahead = f"{ear}, blocks of Whisper base (MIT), which come with the package", "60 to 1000, as asked"
    if motion.audio_model:
        encoder = f"{motion.audio_model} at revision {motion.audio_revision}, not part of this repository"
        ahead = f"{motion.look_ahead_ms}"
    return [
        ("numbers in the motion network", f"{sum(p.numel() for p in model.motion.parameters()):,}"),
        ("hears the sound through", encoder),
        ("hears ahead, ms", ahead),
        ("Gaussians, of them in the mouth", f"{gaussians.num_gaussians:,}, {gaussians.num_mouth_gaussians:,}"),
        ("parametric head", f"{config.head_config.asset}, {model.head.license}; its numbers are in the package"),
    ]


def _prior_rows(config) -> list[tuple[str, Any]]:
    return [
        ("places on the head's surface", f"{config.num_surface:,}"),
        ("means over so many people", config.num_people),
    ]


def _plain(value: Any) -> str:
    """One line of plain text."""
    return escape(" ".join(str(value).split())[:_LONGEST])


__all__ = ["render_model_card", "render_model_license"]
