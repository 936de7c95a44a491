"""Run by torchrun from test_pretrain: the gradient of one step over all processes, and how many there were."""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from toy_speech import heard_people, small_config

from emotag_hf.training.pretraining.motion_losses import MotionWeights
from emotag_hf.training.pretraining.pretrain import Pretrainer
from emotag_hf.training.pretraining.pretrain_arguments import PretrainArguments

OPTIONS = PretrainArguments(steps=20, batch_size=4, window=40, synthetic_share=0.0)


def first_gradient(accelerator) -> dict[str, torch.Tensor]:
    trainer = Pretrainer(
        heard_people()[:4], arguments=OPTIONS, weights=MotionWeights(made_up=0.0), config=small_config(),
        accelerator=accelerator,
    )  # fmt: skip
    batch, known, driven = trainer.load(3)
    trainer.model.train()
    loss = sum(trainer.model(batch, driven, known).values())
    trainer.accelerator.backward(loss)
    return {name: p.grad for name, p in trainer.network.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    accelerator = Accelerator(cpu=True)
    gradient = first_gradient(accelerator)
    if accelerator.is_main_process:
        torch.save({"processes": accelerator.num_processes, "gradient": gradient}, sys.argv[1])
    accelerator.wait_for_everyone()
