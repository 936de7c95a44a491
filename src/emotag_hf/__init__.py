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
    "AdaptArguments": "training.gaussians.adapt_arguments",
    "AudioClip": "audio.audio_io",
    "Camera": "rendering",
    "Consent": "rights.consent",
    "EmoTaGConfig": "models.configuration_emotag",
    "EmoTaGGaussiansConfig": "models.configuration_emotag",
    "EmoTaGHeadConfig": "models.configuration_emotag",
    "EmoTaGModel": "models.modeling_emotag",
    "EmoTaGMotionConfig": "models.configuration_emotag",
    "EmoTaGPipeline": "pipelines.pipeline_emotag",
    "EmoTaGProcessor": "models.processing_emotag",
    "FlameMotion": "outputs",
    "GaussianPrior": "models.modeling_gaussian_prior",
    "GatedResidualMotionNetwork": "models.modeling_motion",
    "MotionStrengths": "motion.motion_strengths",
    "ParametricHead": "models.modeling_head",
    "PretrainArguments": "training.pretraining.pretrain_arguments",
    "Pretrainer": "training.pretraining.pretrain",
    "RiggedGaussians": "models.modeling_gaussians",
    "StreamedFrame": "pipelines.streaming",
    "TalkingHeadOutput": "pipelines.talking_head",
    "TalkingHeadPipeline": "pipelines.pipeline_talking_head",
    "TalkingHeadStream": "pipelines.streaming",
    "ProcessedClip": "preprocessing.data.clip",
    "FeatureOptions": "preprocessing.data.teachers",
    "HeadTrack": "preprocessing.tracking.head_track",
    "adapt": "training.adaptation.adapt",
    "default_model_path": "utils.asset_paths",
    "dub": "pipelines.dubbing",
    "evaluate": "evaluation.protocol",
    "save_motion": "export",
    "save_splats": "pipelines.output_files",
    "save_viewer": "pipelines.output_files",
    "save_with_alpha": "pipelines.alpha_video",
    "clips_dataset": "preprocessing.data.dataset",
    "examine": "preprocessing.doctor",
    "fit_head": "preprocessing.tracking.fit",
    "import_vhap": "preprocessing.data.vhap",
    "load_motion": "export",
    "prepare": "preprocessing.data.prepare",
    "push_avatar": "pipelines.push_avatar",
    "prepare_many": "preprocessing.data.prepare_many",
    "rasterize": "rendering",
    "read_provenance": "rights.provenance",
    "Retarget": "models.retarget",
    "solve_retarget": "models.retarget",
    "sample_path": "utils.asset_paths",
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

if TYPE_CHECKING:  # the same names for type checkers; `as` says that they are public
    from .audio.audio_io import AudioClip as AudioClip
    from .constants import EMOTIONS as EMOTIONS
    from .constants import EXPRESSION_NAMES as EXPRESSION_NAMES
    from .evaluation.protocol import evaluate as evaluate
    from .export import load_motion as load_motion
    from .export import save_motion as save_motion
    from .models.configuration_emotag import EmoTaGConfig as EmoTaGConfig
    from .models.configuration_emotag import EmoTaGGaussiansConfig as EmoTaGGaussiansConfig
    from .models.configuration_emotag import EmoTaGHeadConfig as EmoTaGHeadConfig
    from .models.configuration_emotag import EmoTaGMotionConfig as EmoTaGMotionConfig
    from .models.modeling_emotag import EmoTaGModel as EmoTaGModel
    from .models.modeling_gaussian_prior import GaussianPrior as GaussianPrior
    from .models.modeling_gaussians import RiggedGaussians as RiggedGaussians
    from .models.modeling_head import ParametricHead as ParametricHead
    from .models.modeling_motion import GatedResidualMotionNetwork as GatedResidualMotionNetwork
    from .models.processing_emotag import EmoTaGProcessor as EmoTaGProcessor
    from .models.retarget import Retarget as Retarget
    from .models.retarget import solve_retarget as solve_retarget
    from .motion.motion_strengths import MotionStrengths as MotionStrengths
    from .outputs import FlameMotion as FlameMotion
    from .pipelines.alpha_video import save_with_alpha as save_with_alpha
    from .pipelines.dubbing import dub as dub
    from .pipelines.output_files import save_splats as save_splats
    from .pipelines.output_files import save_viewer as save_viewer
    from .pipelines.pipeline_emotag import EmoTaGPipeline as EmoTaGPipeline
    from .pipelines.pipeline_talking_head import TalkingHeadPipeline as TalkingHeadPipeline
    from .pipelines.push_avatar import push_avatar as push_avatar
    from .pipelines.streaming import StreamedFrame as StreamedFrame
    from .pipelines.streaming import TalkingHeadStream as TalkingHeadStream
    from .pipelines.talking_head import TalkingHeadOutput as TalkingHeadOutput
    from .preprocessing.data.clip import ProcessedClip as ProcessedClip
    from .preprocessing.data.dataset import clips_dataset as clips_dataset
    from .preprocessing.data.prepare import prepare as prepare
    from .preprocessing.data.prepare_many import prepare_many as prepare_many
    from .preprocessing.data.teachers import FeatureOptions as FeatureOptions
    from .preprocessing.data.vhap import import_vhap as import_vhap
    from .preprocessing.doctor import examine as examine
    from .preprocessing.tracking.fit import fit_head as fit_head
    from .preprocessing.tracking.head_track import HeadTrack as HeadTrack
    from .rendering import Camera as Camera
    from .rendering import rasterize as rasterize
    from .rights.consent import Consent as Consent
    from .rights.provenance import read_provenance as read_provenance
    from .training.adaptation.adapt import adapt as adapt
    from .training.gaussians.adapt_arguments import AdaptArguments as AdaptArguments
    from .training.pretraining.pretrain import Pretrainer as Pretrainer
    from .training.pretraining.pretrain_arguments import PretrainArguments as PretrainArguments
    from .utils.asset_paths import default_model_path as default_model_path
    from .utils.asset_paths import sample_path as sample_path
