"""Makes the person's model from a training.

In: a `GaussianTrainer` and the base model, whose motion network is kept. Out: `EmoTaGModel` with the clip's camera and
the person's neutral pose.
"""

from __future__ import annotations

import torch

from ...hub.avatar_card import is_open_license
from ...models.configuration_emotag import EmoTaGConfig
from ...models.modeling_emotag import EmoTaGModel
from .gaussian_trainer import GaussianTrainer


@torch.no_grad()
def make_model(trainer: GaussianTrainer, base: EmoTaGModel, name: str = "unnamed") -> EmoTaGModel:
    """The person's model: trained Gaussians (averaged weights), expression code, identity, camera and rest pose.

    Args:
        trainer: at any step.
        base: provides the motion network and its front end.
        name: of the avatar, for logs and cards.

    Raises:
        ValueError: the base model's head is another one than the clip was tracked with.
    """
    head = base.config.head_config
    if base.head.sha256 != trainer.head.sha256:
        raise ValueError("base_model: it is made for another head than the clip was tracked with.")
    gaussians = trainer.gaussians
    config = EmoTaGConfig(
        head_config=head.to_dict() | {"sha256": trainer.head.sha256},
        motion_config=base.config.motion_config.to_dict(),
        gaussians_config={
            "num_gaussians": gaussians.num_gaussians,
            "num_mouth_gaussians": gaussians.config.num_mouth_gaussians,
            "sh_degree": gaussians.config.sh_degree,
            "num_correctives": gaussians.config.num_correctives,
        },
        camera={
            "width": trainer.camera.width,
            "height": trainer.camera.height,
            "K": trainer.camera.K.tolist(),
            "viewmat": trainer.camera.viewmat.tolist(),
        },
        rest_pose=rest_pose(trainer),
        avatar_name=name,
        weights_license=_stricter(base, trainer),
    )
    model = EmoTaGModel(config)
    model.motion.load_state_dict(base.motion.state_dict())
    model.expression_code.load_state_dict(trainer.expression_code.state_dict())
    with trainer.averaged():
        model.gaussians.load_state_dict(gaussians.state_dict())
    model.shape.copy_(trainer.scene.shape)
    return model.eval()


def _stricter(base: EmoTaGModel, trainer: GaussianTrainer) -> str:
    """The stricter licence: that of the base's motion network, or of the prior if only that is restricted."""
    own = base.config.weights_license
    if trainer.prior is None or not is_open_license(own):
        return own
    return trainer.prior.config.weights_license


def rest_pose(trainer: GaussianTrainer) -> dict[str, list[float]]:
    """The mean pose of the training frames, as `EmoTaGConfig.rest_pose`; rotations are small enough to be averaged."""
    motion = trainer.offsets.motion(torch.tensor(trainer.frames))
    names = ("rotation", "neck_pose", "translation", "body_translation")
    return {name: [round(x, 6) for x in getattr(motion, name).mean(0).tolist()] for name in names}


__all__ = ["make_model", "rest_pose"]
