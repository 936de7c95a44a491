"""emotag_hf: emotion-aware 3D talking heads from speech, on any CPU (EmoTaG, arXiv 2603.21332).

Importing registers the model with transformers' Auto classes and the task "talking-head", which takes transformers and
torch along; diffusers, numba and the rest come when they are first used. No GPU, network or model is touched here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public name -> the module that has it, imported on first use.
_LAZY = {
    "AdaptArguments": "training.arguments",
    "AudioClip": "audio_io",
    "Camera": "rendering",
    "Consent": "consent",
    "EmoTaGConfig": "configuration_emotag",
    "EmoTaGGaussiansConfig": "configuration_emotag",
    "EmoTaGHeadConfig": "configuration_emotag",
    "EmoTaGModel": "modeling_emotag",
    "EmoTaGMotionConfig": "configuration_emotag",
    "EmoTaGPipeline": "pipeline_emotag",
    "EmoTaGProcessor": "processing_emotag",
    "FlameMotion": "outputs",
    "GaussianPrior": "modeling_gaussian_prior",
    "GatedResidualMotionNetwork": "modeling_motion",
    "MotionStrengths": "motion_controls",
    "ParametricHead": "modeling_head",
    "PretrainArguments": "training.pretrain_arguments",
    "Pretrainer": "training.pretrain",
    "RiggedGaussians": "modeling_gaussians",
    "StreamedFrame": "streaming",
    "TalkingHeadOutput": "talking_head",
    "TalkingHeadPipeline": "pipeline_talking_head",
    "TalkingHeadStream": "streaming",
    "ProcessedClip": "data.clip",
    "FeatureOptions": "data.teachers",
    "HeadTrack": "tracking.head_track",
    "adapt": "adaptation",
    "default_model_path": "hub_paths",
    "dub": "dubbing",
    "evaluate": "evaluation.protocol",
    "save_motion": "export",
    "save_splats": "output_files",
    "save_viewer": "output_files",
    "save_with_alpha": "alpha_video",
    "clips_dataset": "data.dataset",
    "examine": "doctor",
    "fit_head": "tracking.fit",
    "import_vhap": "data.vhap",
    "load_motion": "export",
    "prepare": "data.prepare",
    "push_avatar": "avatar_push",
    "prepare_many": "data.prepare_many",
    "rasterize": "rendering",
    "read_provenance": "provenance",
    "Retarget": "retarget",
    "solve_retarget": "retarget",
    "sample_path": "hub_paths",
    "EMOTIONS": "constants",
    "EXPRESSION_NAMES": "constants",
}

__all__ = sorted([*_LAZY, "__version__"])


def __getattr__(name: str):
    if name in _LAZY:
        value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


def _register() -> None:
    from .registration import register

    register()


_register()

if TYPE_CHECKING:
    from .adaptation import adapt
    from .alpha_video import save_with_alpha
    from .audio_io import AudioClip
    from .avatar_push import push_avatar
    from .configuration_emotag import EmoTaGConfig, EmoTaGGaussiansConfig, EmoTaGHeadConfig, EmoTaGMotionConfig
    from .consent import Consent
    from .constants import EMOTIONS, EXPRESSION_NAMES
    from .data.clip import ProcessedClip
    from .data.dataset import clips_dataset
    from .data.prepare import prepare
    from .data.prepare_many import prepare_many
    from .data.teachers import FeatureOptions
    from .data.vhap import import_vhap
    from .doctor import examine
    from .dubbing import dub
    from .evaluation.protocol import evaluate
    from .export import load_motion, save_motion
    from .hub_paths import default_model_path, sample_path
    from .modeling_emotag import EmoTaGModel
    from .modeling_gaussian_prior import GaussianPrior
    from .modeling_gaussians import RiggedGaussians
    from .modeling_head import ParametricHead
    from .modeling_motion import GatedResidualMotionNetwork
    from .output_files import save_splats, save_viewer
    from .outputs import FlameMotion
    from .pipeline_emotag import EmoTaGPipeline
    from .pipeline_talking_head import TalkingHeadPipeline
    from .processing_emotag import EmoTaGProcessor
    from .provenance import read_provenance
    from .rendering import Camera, rasterize
    from .streaming import StreamedFrame, TalkingHeadStream
    from .talking_head import TalkingHeadOutput
    from .tracking.fit import fit_head
    from .tracking.head_track import HeadTrack
    from .training.arguments import AdaptArguments
