"""A skill's answers, decoded as its YAML says: the same for benchmark, command line and served model."""

from __future__ import annotations

from collections.abc import Sequence

from gptcore.config_skill import Decoding
from gptcore.evaluation.baselines import lead_sentence
from gptcore.evaluation.consensus import most_alike
from gptcore.model.generate import generate
from gptcore.model.gpt import GPT
from gptcore.model.sampling import Sampling
from gptcore.text.tokenizer import TextTokenizer


def answers(
    model: GPT,
    tokenizer: TextTokenizer,
    prompts: Sequence[Sequence[int]],
    limits: int | Sequence[int],
    decoding: Decoding | None = None,
    texts: Sequence[str] = (),
) -> list[str]:
    """One answer to every prompt, without its end-of-text token; arguments as those of `chosen_answers`."""
    if decoding is None:
        return [tokenizer.decode(answer.tokens) for (answer,) in generate(model, prompts, limits, {tokenizer.eot})]
    return chosen_answers(model, tokenizer, prompts, limits, decoding, texts)


def chosen_answers(
    model: GPT,
    tokenizer: TextTokenizer,
    prompts: Sequence[Sequence[int]],
    limits: int | Sequence[int],
    decoding: Decoding,
    texts: Sequence[str],
    seed: int = 0,
) -> list[str]:
    """Of several answers drawn to every prompt the one most like the others.

    limits: new tokens at most. texts: what each prompt is about, whose first sentence may have a say. What is drawn
    follows from the seed and the prompt alone, so that an answer is the same whatever stands beside it.
    """
    draw, samples = Sampling(temperature=decoding.temperature), decoding.samples
    found = generate(model, prompts, limits, {tokenizer.eot}, draw, samples=samples, seed=seed)
    weight, least = decoding.lead_weight, decoding.least_agreement
    return [
        most_alike([tokenizer.decode(answer.tokens) for answer in group], lead_sentence(text), weight, least)
        for group, text in zip(found, texts, strict=True)
    ]
