"""Our model as lm-eval sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gptcore.evaluation.answers import chosen_answers
from gptcore.evaluation.scoring import score
from gptcore.evaluation.task_catalogue import samples
from gptcore.model.generate import generate
from gptcore.model.gpt import GPT
from gptcore.text.stops import NO_TEXT, Stops, before
from gptcore.text.tokenizer import TextTokenizer


class Spelt(str):
    """A text of a request, with the ids that stand for it."""

    ids: list[int]

    def __new__(cls, text: str, ids: list[int]) -> Spelt:
        """`ids`: those of special tokens too, which the text cannot tell from ordinary ones."""
        made = super().__new__(cls, text)
        made.ids = ids
        return made


class GptmillLM(TemplateLM):  # type: ignore[misc]
    """A GPT and its tokenizer behind lm-eval's three kinds of request; nothing is converted or copied."""

    def __init__(self, model: GPT, tokenizer: TextTokenizer, batch_items: int) -> None:
        """`batch_items`: prompts that generate together."""
        super().__init__()
        self.model = model.eval()
        self.text = tokenizer
        self.context: int = model.config.context
        self.batch_items = batch_items
        self.on_progress: Callable[[int, int], None] = lambda done, total: None
        """Called with requests done and in all."""

    @property
    def eot_token_id(self) -> int:
        """What a text is conditioned on when nothing precedes it."""
        return self.text.eot

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of ordinary text: special tokens spelled out in it stay text."""
        return self.text.encode(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if isinstance(context, Spelt) and isinstance(continuation, Spelt):
            return context.ids, continuation.ids
        pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
        return pair

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(nats, greedy) of each continuation after its context; a long context loses its beginning."""
        return list(super().loglikelihood(requests, disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        return self.continuations([(before, after) for _, before, after in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Nats of whole texts, each token scored once, in windows of the model's context."""
        windows: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            ids = self.text.encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.text.eot, max_seq_len=self.context, context_len=1):
                windows.append(make_disjoint_window(window))
                owners.append(owner)
        parts: list[list[float]] = [[] for _ in requests]
        for owner, (nats, _) in zip(owners, self.continuations(windows), strict=True):
            parts[owner].append(nats)
        return [math.fsum(part) for part in parts]

    def continuations(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """(nats, whether greedy decoding would give it) of each continuation's tokens after its context's.

        What they have in common is computed once (gptcore/evaluation/scoring.py). Raises ValueError for a continuation
        longer than the model's context.
        """
        return score(self.model, pairs, self.on_progress)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy text until the end-of-text token, a stop string, or `max_gen_toks`; what has ended leaves the batch.

        `prompt_ids` among a request's arguments stand for its text; `decoding` is a skill's own, which draws by `seed`
        and may look at `text`. A prompt of text gets an answer of half the context at most, and loses its beginning
        where the two do not fit.
        """
        prompts, limits, stops = [], [], []
        for request in requests:
            text, arguments = request.args
            if samples(arguments):
                raise ValueError(f"task {request.task_name} samples; only greedy generation is comparable between runs")
            limit = int(arguments.get("max_gen_toks", 256))
            prompt = arguments.get("prompt_ids")
            if prompt is None:
                limit = min(limit, self.context // 2)
                prompt = self.text.encode(text)[-(self.context - limit) :] or [self.text.eot]
            until = arguments.get("until") or []
            prompts.append(prompt)
            limits.append(limit)
            stops.append(tuple(filter(None, [until] if isinstance(until, str) else until)))
        answers: list[str] = [""] * len(requests)
        done = 0
        for strings in dict.fromkeys(stops):  # those that end alike go together, the longest prompts first
            ended = Stops(self.text, [string for string in strings if NO_TEXT not in string])
            order = sorted((i for i, s in enumerate(stops) if s == strings), key=lambda i: -len(prompts[i]))
            for start in range(0, len(order), self.batch_items):
                batch = order[start : start + self.batch_items]
                chosen = [prompts[i] for i in batch], [limits[i] for i in batch]
                decoding = requests[batch[0]].args[1].get("decoding")  # a task's requests have the same
                if decoding:
                    texts, seed = [requests[i].args[1]["text"] for i in batch], requests[batch[0]].args[1]["seed"]
                    written = chosen_answers(self.model, self.text, *chosen, decoding, texts, seed)
                else:
                    made = generate(self.model, *chosen, {self.text.eot}, until=ended)
                    written = [self.text.decode(answer.tokens) for (answer,) in made]
                for i, text in zip(batch, written, strict=True):
                    answers[i] = before(text, strings)
                done += len(batch)
                self.on_progress(done, len(requests))
        return answers


if __name__ == "__main__":
    from gptcore.adapters.lm_eval_command import main

    main()
