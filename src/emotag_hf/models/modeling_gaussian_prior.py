"""GaussianPrior: initial values of a new person's Gaussians that their clip does not show (METHOD 2).

In: a checkpoint. Out: positions of Gaussians on the head's surface, and mean colours of the inside of the mouth
(cavity, teeth, tongue). It holds no person's face. A larger prior (sizes, opacities, colour changes with the
expression) was measured and brought nothing for unseen people (docs/adapting.md).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..hub.hub_transfer import Pushed, fetch
from ..hub.push_model import push_model
from ..hub.repo_contents import refuse_push
from ..utils.asset_paths import default_prior_path
from ..utils.typing import PathLike
from .checkpoints import check_loading, check_weights_file
from .configuration_emotag import StrictNames


@strict
class GaussianPriorConfig(StrictNames, PreTrainedConfig):
    """Sizes of a [`GaussianPrior`].

    Args:
        num_surface (`int`): Gaussians on the head's surface.
        head_sha256 (`str`, *optional*): hash of the head asset to which the triangles belong.
        num_people (`int`): number of people over which the means are taken.
        weights_license (`str`): licence of the prior.
    """

    model_type = "emotag_gaussian_prior"

    num_surface: int = 14000
    head_sha256: str | None = None
    num_people: int = 0
    weights_license: str = "apache-2.0"


class GaussianPrior(PreTrainedModel):
    """Means over people for S Gaussians on the surface of the head.

    Frozen: `faces [S]` and `barycentric [S, 3]`, the position of each; `inner_colors [S, 3]`, RGB in [0, 1] inside the
    mouth; `has_inner [S]`, for which Gaussians these are known.
    """

    config_class = GaussianPriorConfig
    base_model_prefix = "prior"
    main_input_name = "faces"

    def __init__(self, config: GaussianPriorConfig):
        super().__init__(config)
        s = config.num_surface
        self.register_buffer("faces", torch.zeros(s, dtype=torch.int64))
        self.register_buffer("has_inner", torch.zeros(s, dtype=torch.bool))
        self.barycentric = nn.Parameter(torch.zeros(s, 3), requires_grad=False)
        self.inner_colors = nn.Parameter(torch.zeros(s, 3), requires_grad=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: all numbers are in the checkpoint."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: PathLike, *args: Any, **kwargs: Any) -> GaussianPrior:
        """As in transformers, but strict: a corrupt file, a missing or an unexpected key is a ValueError."""
        names = ("revision", "token", "cache_dir", "local_files_only", "force_download")
        path = fetch(pretrained_model_name_or_path, **{name: kwargs.pop(name) for name in names if name in kwargs})
        check_weights_file(path)
        options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True} | kwargs
        prior, info = super().from_pretrained(path, *args, ignore_mismatched_sizes=True, **options)
        check_loading(path, info)
        return prior.eval()

    def save_pretrained(self, save_directory: PathLike, **kwargs: Any) -> None:
        """As in transformers, without `push_to_hub`: call `push_to_hub` instead."""
        refuse_push(kwargs)
        super().save_pretrained(save_directory, **kwargs)

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, token: str | None = None, commit_message: str | None = None
    ) -> Pushed:
        """Uploads config, weights and a card in one commit; a new repository is private unless said otherwise.

        Raises:
            ValueError: `repo_id` is no name on the Hub.
            HubError: a wrong token, no write permission or no connection; nothing was committed.
        """
        return push_model(self, repo_id, private=private, token=token, commit_message=commit_message)


def load_prior(prior: str | os.PathLike | GaussianPrior | None) -> GaussianPrior | None:
    """Loads a prior from its folder or repository; "default" is the embedded one. A `GaussianPrior` or None is returned
    unchanged."""
    if prior is None or isinstance(prior, GaussianPrior):
        return prior
    return GaussianPrior.from_pretrained(default_prior_path() if prior == "default" else prior)


__all__ = ["GaussianPrior", "GaussianPriorConfig", "load_prior"]
