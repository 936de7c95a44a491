"""Registers the model type "emotag" and the task "talking-head" with transformers. In: nothing. Out: registrations."""

from __future__ import annotations

from .constants import TASK
from .utils.asset_paths import ASSETS, DEFAULT_MODEL


def register() -> None:
    """Registers with AutoConfig, AutoModel, AutoProcessor and the pipelines; safe to call twice."""
    from transformers import AutoConfig, AutoModel, AutoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from .models.configuration_emotag import EmoTaGConfig
    from .models.modeling_emotag import EmoTaGModel
    from .models.processing_emotag import EmoTaGProcessor
    from .pipelines.pipeline_talking_head import TalkingHeadPipeline

    AutoConfig.register(EmoTaGConfig.model_type, EmoTaGConfig, exist_ok=True)
    AutoModel.register(EmoTaGConfig, EmoTaGModel, exist_ok=True)
    AutoProcessor.register(EmoTaGConfig, EmoTaGProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=TalkingHeadPipeline,
            pt_model=AutoModel,
            default={"model": (str(ASSETS / DEFAULT_MODEL), None)},
            type="multimodal",
        )
