"""Tokenizer and model put together: text in, text out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, overload

import torch
from typing_extensions import Unpack

from gptcore.config import Skill
from gptcore.evaluation.labels import likeliest, probabilities
from gptcore.evaluation.scoring import score
from gptcore.home import home, tracking_uri
from gptcore.model.beams import Beams
from gptcore.model.generate import Answer, generate
from gptcore.model.gpt import GPT
from gptcore.model.int8 import quantized
from gptcore.model.sampling import Sampling
from gptcore.model.weights import load_model
from gptcore.presets import validated
from gptcore.text.skills import encode_prompt, encode_target
from gptcore.text.stops import Pieces, Stops, before
from gptcore.text.tokenizer import TextTokenizer
from gptcore.weight_files import read_object


class ContextFull(UserWarning):
    """An answer ended early because with its prompt it filled the context."""


class InputCut(UserWarning):
    """The end of an input was left out, because the prompt would be longer than those the model was tuned with."""


class How(TypedDict, total=False):
    """Settings of `LoadedModel.generate`; without any of the first five it takes the likeliest token.

    None is as good as not given.
    """

    temperature: float | None
    """Above 0; tokens are drawn, the higher the more evenly."""
    top_k: int | None
    """Draw only from so many likeliest tokens; like top_p and min_p it needs a temperature."""
    top_p: float | None
    """Draw only from the likeliest tokens that together reach this probability, (0, 1]."""
    min_p: float | None
    """Draw only from tokens at least this share as likely as the likeliest, (0, 1]."""
    num_beams: int | None
    """Answers that a beam search follows; it draws nothing, and takes no repetition penalty."""
    length_penalty: float | None
    """Of a beam search: above 0 favours long answers (1.0); -10 to 10."""
    repetition_penalty: float | None
    """Above 1 makes tokens that stand in the prompt or the answer less likely."""
    stop: str | Sequence[str] | None
    """An answer ends before any of these strings, or at a special token so named; it ends at the end of a text anyway.
    A beam search runs on, and its answers are cut."""
    seed: int | None
    """Of what is drawn: the same seed, the same text, whatever the batch around it (0)."""


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

    @overload
    def generate(
        self,
        texts: str,
        max_new_tokens: int = ...,
        *,
        num_return_sequences: None = ...,
        stream: Callable[[str], object] | None = ...,
        **how: Unpack[How],
    ) -> str: ...

    @overload
    def generate(
        self,
        texts: list[str] | tuple[str, ...],
        max_new_tokens: int = ...,
        *,
        num_return_sequences: None = ...,
        **how: Unpack[How],
    ) -> list[str]: ...

    @overload
    def generate(
        self, texts: str, max_new_tokens: int = ..., *, num_return_sequences: int, **how: Unpack[How]
    ) -> list[str]: ...

    @overload
    def generate(
        self,
        texts: list[str] | tuple[str, ...],
        max_new_tokens: int = ...,
        *,
        num_return_sequences: int,
        **how: Unpack[How],
    ) -> list[list[str]]: ...

    def generate(
        self,
        texts: str | list[str] | tuple[str, ...],
        max_new_tokens: int = 64,
        *,
        num_return_sequences: int | None = None,
        stream: Callable[[str], object] | None = None,
        **how: Unpack[How],
    ) -> str | list[str] | list[list[str]]:
        """The continuation of a text, or of each of several; with `num_return_sequences` a list of so many of each.

        stream: told the text piece by piece while it is written, of a single answer that is no beam search's.
        ValueError for an empty text, one that leaves no room in the context, an impossible setting. An answer that ends
        because the context is full is one of those a ContextFull warning counts.
        """
        one, prompts = isinstance(texts, str), [texts] if isinstance(texts, str) else list(texts)
        found = self._answers(prompts, max_new_tokens, num_return_sequences, stream, how)
        if num_return_sequences is None:
            return found[0][0] if one else [group[0] for group in found]
        return found[0] if one else found

    def _answers(
        self,
        texts: Sequence[str],
        max_new_tokens: int,
        count: int | None,
        stream: Callable[[str], object] | None,
        how: How,
    ) -> list[list[str]]:
        sampling, beams = _settings(how)
        for name, value in (("max_new_tokens", max_new_tokens), ("num_return_sequences", count)):
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} must be at least 1")
        if count is not None and count > 1 and beams is None and sampling.temperature is None:
            raise ValueError(f"num_return_sequences {count} would all be the same: give a temperature, or num_beams")
        if stream and (len(texts) > 1 or count is not None or beams):
            raise ValueError("stream tells the text of a single answer, and not of a beam search")
        stop, seed = how.get("stop"), how.get("seed")
        stops = [stop] if isinstance(stop, str) else list(stop or ())
        special = self.tokenizer.special
        pieces = Pieces(self.tokenizer, stops, stream) if stream else None
        found = generate(
            self.model,
            [self.tokenizer.encode(text) for text in texts],
            max_new_tokens,
            {self.tokenizer.eot, *(special[name] for name in stops if name in special)},
            sampling,
            samples=1 if count is None else count,
            beams=beams,
            seed=0 if seed is None else seed,
            until=Stops(self.tokenizer, stops) if stops else None,
            listen=None if pieces is None else lambda answer, token: pieces.take(token),
        )
        if pieces:
            pieces.end()
        written = [[self._text(answer, stops) for answer in group] for group in found]
        self._warn([full for group in written for _, full in group], max_new_tokens)
        return [[text for text, _ in group] for group in written]

    def _text(self, answer: Answer, stops: Sequence[str]) -> tuple[str, bool]:
        """What stands before a stop string; whether it ends there because the context is full."""
        whole = self.tokenizer.decode(answer.tokens)
        text = before(whole, stops)
        return text, answer.reason == "context" and text == whole

    def _warn(self, full: Sequence[bool], max_new_tokens: int) -> None:
        if any(full):
            warnings.warn(
                f"{sum(full)} of {len(full)} answers ended before max_new_tokens {max_new_tokens}: with their prompts "
                f"they fill the model's context of {self.model.config.context} tokens",
                ContextFull,
                stacklevel=4,
            )

    def answer(self, examples: Sequence[Mapping[str, str]]) -> list[str]:
        """The skill's output for each example's fields ({context, question} for qa); ValueError for a base model.

        A field too long for `Use.max_input_tokens` loses its end, which an InputCut warning tells.
        """
        use, prompts = self._prompts(examples)
        if use.skill.labels:
            return [likeliest(shares) for shares in self._shares(use, prompts)]
        found = generate(self.model, prompts, use.max_target_tokens, {self.tokenizer.eot})
        return [self.tokenizer.decode(answer.tokens).strip() for (answer,) in found]

    def label_probabilities(self, examples: Sequence[Mapping[str, str]]) -> list[dict[str, float]]:
        """For each example the probability of every label of the skill; ValueError for a model without labels."""
        use, prompts = self._prompts(examples)
        if not use.skill.labels:
            raise ValueError(f"the skill {use.skill.name} has no labels: use answer")
        return self._shares(use, prompts)

    def _prompts(self, examples: Sequence[Mapping[str, str]]) -> tuple[Use, list[list[int]]]:
        if self.use is None:
            raise ValueError("this is a base model, tuned for no skill: use generate, or a finetune-<skill> model")
        use = self.use
        prompts = [encode_prompt(use.skill, e, self.tokenizer, use.max_input_tokens) for e in examples]
        if cut := [prompt for prompt in prompts if prompt.lost]:
            lost, given = sum(prompt.lost for prompt in cut), sum(prompt.given for prompt in cut)
            warnings.warn(
                f"{len(cut)} of {len(prompts)} prompts were cut: their {use.skill.truncate} lost the last {lost} of "
                f"{given} tokens; the limit is {use.max_input_tokens} tokens a prompt",
                InputCut,
                stacklevel=3,
            )
        return use, [prompt.tokens for prompt in prompts]

    def _shares(self, use: Use, prompts: Sequence[list[int]]) -> list[dict[str, float]]:
        labels = list(use.skill.labels.values())
        ends = [encode_target(label, self.tokenizer) for label in labels]
        nats = [value for value, _ in score(self.model, [(prompt, end) for prompt in prompts for end in ends])]
        return [probabilities(labels, nats[i : i + len(labels)]) for i in range(0, len(nats), len(labels))]


def _settings(how: How) -> tuple[Sampling, Beams | None]:
    """How tokens are chosen; TypeError for an unknown setting, ValueError for an impossible one."""
    if unknown := sorted(how.keys() - How.__annotations__.keys()):
        raise TypeError(f"generate takes no {unknown[0]!r}; it takes {sorted(How.__annotations__)}")
    width, penalty = how.get("num_beams"), how.get("length_penalty")
    if width is None and penalty is not None:
        raise ValueError(f"length_penalty {penalty} without num_beams: nothing is searched; give beams, such as 4")
    sampling = Sampling(
        how.get("temperature"), how.get("top_k"), how.get("top_p"), how.get("min_p"), how.get("repetition_penalty")
    )
    return sampling, None if width is None else Beams(width, 1.0 if penalty is None else penalty)


def load(
    reference: str | Path,
    device: str = "cpu",
    quantize: Literal["int8"] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> LoadedModel:
    """The model that a directory holds, or that `hf:DIRECTORY-OR-ID`, `models:/NAME@ALIAS` or `RUN/STAGE` names.

    A directory that exists comes first. hf: is one of transformers, from disk or the hub; models:/NAME/VERSION works
    too. Runs and names are looked up in `$MLFLOW_TRACKING_URI` and `$GPTMILL_HOME`; `say` is told where that takes
    long. quantize: int8 keeps the matrices in a quarter of the memory, rounded (gptcore/model/int8.py), for a CPU.

    FileNotFoundError or ValueError where there is no such model, or it is damaged; ValueError for a device that is not
    there; TrackerAway where MLflow does not answer.
    """
    if quantize not in (None, "int8"):
        raise ValueError(f"quantize {quantize!r} is not int8, the only rounding there is; leave it out for float32")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here; cpu always can, cuda where torch finds it") from error
    if str(reference).startswith("hf:"):
        from gptcore.adapters.pretrained import load_pretrained  # transformers takes seconds

        (model, tokenizer), use = load_pretrained(str(reference)), None
        model = model.to(device)
    else:
        folder = _folder(str(reference), say)
        model, tokenizer, use = load_model(folder, device), TextTokenizer.load(folder), _use(folder)
        if tokenizer.vocab_size != model.config.vocab_size:
            raise ValueError(
                f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens, its config.json says "
                f"{model.config.vocab_size}; restore or rebuild it"
            )
    if quantize is not None:
        model = quantized(model)
    return LoadedModel(model.eval(), tokenizer, use)


def _folder(reference: str, say: Callable[[str], None]) -> Path:
    if not reference:
        raise ValueError("the model's name is empty; a model is a directory, hf:ID, models:/NAME@ALIAS, or RUN/STAGE")
    if Path(reference).is_dir():
        return Path(reference)
    if not reference.startswith("models:/") and (reference.startswith((".", "/", "~")) or "/" not in reference):
        raise FileNotFoundError(
            f"model directory {reference!r} does not exist; a model is a directory, hf:ID, models:/NAME@ALIAS, or "
            "RUN/STAGE"
        )
    from gptcore.adapters.model_reference import model_directory  # MLflow's client takes seconds

    return model_directory(reference, tracking_uri(home()), home(), say)


def _use(folder: Path) -> Use | None:
    file = folder / "skill.json"
    if not file.exists():
        return None
    values = read_object(file)
    limits = {name: values.pop(name, None) for name in ("max_input_tokens", "max_target_tokens")}
    for name, value in limits.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{file}: {name} {value!r} is not a positive whole number; restore or rebuild it")
    return Use(validated(Skill, values, str(file)), **limits)
