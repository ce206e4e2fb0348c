"""LoRA by `peft` (Hu et al. 2021): a product of two narrow matrices beside each matrix, trained while all else rests.

`peft` imports transformers, which takes seconds: only a run that asks for LoRA pays them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptcore import durable
from gptcore.config import Finetune
from gptcore.model.gpt import GPT
from gptcore.model.weights import write_tensors

ADAPTER_FILES = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
"""As peft names and reads them: `PeftModel.from_pretrained(base, "adapter")`."""


class Adapter:
    """A model's LoRA factors. While it is worn the model computes with them and trains nothing else."""

    def __init__(self, model: GPT, config: Finetune) -> None:
        """Wear a new one: the model changes in place, its logits do not, since the second factors start at zero.

        ValueError for targets that are no matrices inside the model's blocks.
        """
        from peft import LoraConfig, get_peft_model

        known = sorted({name.split(".")[-2] for name in model.stacks})
        unknown = sorted(set(config.lora_targets) - set(known))
        if unknown:
            raise ValueError(
                f"lora_targets {unknown} are no matrices inside the blocks of a {model.config.family} model; "
                f"those are {known}"
            )
        self.model = model
        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=list(config.lora_targets or known),
        )
        torch.manual_seed(config.seed)
        self._worn: Any = get_peft_model(model, lora)

    def save(self, directory: Path) -> None:
        """Write ADAPTER_FILES under the directory, each atomically."""
        from peft import get_peft_model_state_dict

        factors: dict[str, Tensor] = get_peft_model_state_dict(self._worn)
        config: dict[str, Any] = self._worn.peft_config["default"].to_dict()
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
        weights, settings = ADAPTER_FILES
        with durable.writing(directory / weights) as file:
            write_tensors(file, factors)
        durable.write_json(directory / settings, plain | {"inference_mode": True})

    def merge(self) -> None:
        """Add the products to the matrices: the model is then one like any other, with its own parameter names."""
        self._worn.merge_and_unload()
