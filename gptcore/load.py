"""Tokenizer and model put together: text in, text out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptcore.config import Skill
from gptcore.model.generate import generate
from gptcore.model.gpt import GPT
from gptcore.model.sampling import Sampling
from gptcore.model.weights import load_model
from gptcore.text.skills import encode_example
from gptcore.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Use:
    """How a fine-tuned model is asked: its skill and the limits it was tuned with."""

    skill: Skill
    max_input_tokens: int
    max_target_tokens: int


@dataclass(frozen=True)
class LoadedModel:
    """A model directory in memory."""

    model: GPT
    tokenizer: TextTokenizer
    use: Use | None
    """None for a base model."""

    def generate(
        self,
        texts: Sequence[str],
        max_new_tokens: int = 64,
        temperature: float | None = None,
        top_k: int | None = None,
        seed: int = 0,
    ) -> list[str]:
        """The continuation of each text; ValueError for an empty text or one longer than the context."""
        prompts = [self.tokenizer.encode(text) for text in texts]
        found = generate(
            self.model, prompts, max_new_tokens, {self.tokenizer.eot}, Sampling(temperature, top_k), seed=seed
        )
        return [self.tokenizer.decode(answer.tokens) for (answer,) in found]

    def answer(self, examples: Sequence[Mapping[str, str]]) -> list[str]:
        """The skill's output for each example's fields ({context, question} for qa); ValueError for a base model."""
        if self.use is None:
            raise ValueError("this is a base model, tuned for no skill: use generate, or a finetune-<skill> model")
        use = self.use
        prompts = [encode_example(use.skill, e, None, self.tokenizer, use.max_input_tokens)[0] for e in examples]
        found = generate(self.model, prompts, use.max_target_tokens, {self.tokenizer.eot})
        return [self.tokenizer.decode(answer.tokens).strip() for (answer,) in found]


def load(directory: str | Path, device: str = "cpu") -> LoadedModel:
    """The model in a directory that a pretrain or finetune stage left, or the base model that `hf:REF` names.

    ValueError or FileNotFoundError otherwise.
    """
    if str(directory).startswith("hf:"):
        from gptcore.adapters.pretrained import load_pretrained  # transformers, for those who ask for it

        model, tokenizer = load_pretrained(str(directory))
        return LoadedModel(model.to(device), tokenizer, None)
    folder = Path(directory)
    if not folder.is_dir():
        raise FileNotFoundError(f"model directory {folder} does not exist")
    use_file = folder / "skill.json"
    use = None
    if use_file.exists():
        values = json.loads(use_file.read_bytes())
        limits = values.pop("max_input_tokens"), values.pop("max_target_tokens")
        use = Use(Skill.model_validate_json(json.dumps(values)), *limits)
    return LoadedModel(load_model(folder, device).eval(), TextTokenizer.load(folder), use)
