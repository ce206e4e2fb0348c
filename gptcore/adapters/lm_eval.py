"""Our model as lm-eval sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gptcore.evaluation.answers import answers as skill_answers
from gptcore.model.gpt import GPT
from gptcore.text.stops import before
from gptcore.text.tokenizer import TextTokenizer

LOGITS = {"cpu": 1 << 25, "cuda": 1 << 29}
"""Logits computed at once: 128 MiB and 2 GiB in float32."""


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

        Batches hold rows of about one length, so that little of them is padding. Raises ValueError for a continuation
        longer than the model's context.
        """
        longest = max((len(after) for _, after in pairs), default=0)
        if longest > self.context:
            raise ValueError(f"a continuation of {longest} tokens exceeds the model's context of {self.context}")
        rows = [(before + after)[-(self.context + 1) :] for before, after in pairs]
        results: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        order = sorted((i for i in range(len(pairs)) if pairs[i][1]), key=lambda i: -len(rows[i]))
        done = 0
        while done < len(order):
            fits = LOGITS[self.model.device.type] // (self.model.config.vocab_size * len(rows[order[done]]))
            batch = order[done : done + max(1, fits)]
            scored = self._score([rows[i] for i in batch], [len(pairs[i][1]) for i in batch])
            for i, result in zip(batch, scored, strict=True):
                results[i] = result
            done += len(batch)
            self.on_progress(done, len(order))
        return results

    @torch.inference_mode()
    def _score(self, rows: list[list[int]], counts: list[int]) -> list[tuple[float, bool]]:
        """The last `counts[i]` tokens of each row, given those before. Padding stands right, where nothing attends."""
        length = max(map(len, rows)) - 1
        ids = torch.zeros(len(rows), length, dtype=torch.long)  # (B, T)
        wanted = torch.zeros(len(rows), length, dtype=torch.bool)  # (B, T)
        for i, (row, count) in enumerate(zip(rows, counts, strict=True)):
            ids[i, : len(row) - 1] = torch.tensor(row[:-1])
            wanted[i, len(row) - 1 - count : len(row) - 1] = True
        targets = torch.tensor([token for row, count in zip(rows, counts, strict=True) for token in row[-count:]])
        device = self.model.device
        hidden = self.model.hidden(ids.to(device))[wanted.to(device)]  # (N, C)
        logits = self.model.logits(hidden).float()  # (N, V)
        targets = targets.to(device)  # (N,)
        nats = -F.cross_entropy(logits, targets, reduction="none").double().cpu()  # (N,)
        greedy = (logits.argmax(-1) == targets).cpu()  # (N,)
        pieces = zip(torch.split(nats, counts), torch.split(greedy, counts), strict=True)
        return [(float(piece.sum()), bool(right.all())) for piece, right in pieces]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy text until the end-of-text token, a stop string, or `max_gen_toks`.

        `prompt_ids` among a request's arguments stand for its text; `decoding` is a skill's own, which may look at
        `text`. A prompt of text gets an answer of half the context at most, and loses its beginning where the two do
        not fit.
        """
        prompts, limits = [], []
        for request in requests:
            text, arguments = request.args
            if arguments.get("do_sample") or arguments.get("temperature"):
                raise ValueError(f"task {request.task_name} samples; only greedy generation is comparable between runs")
            limit = int(arguments.get("max_gen_toks", 256))
            prompt = arguments.get("prompt_ids")
            if prompt is None:
                limit = min(limit, self.context // 2)
                prompt = self.text.encode(text)[-(self.context - limit) :] or [self.text.eot]
            prompts.append(prompt)
            limits.append(limit)
        answers: list[str] = [""] * len(requests)
        order = sorted(range(len(requests)), key=lambda i: -len(prompts[i]))
        for start in range(0, len(order), self.batch_items):
            batch = order[start : start + self.batch_items]
            (decoding,) = {requests[i].args[1].get("decoding") for i in batch}  # a task's requests have the same
            texts = [requests[i].args[1].get("text", "") for i in batch]
            made = skill_answers(
                self.model, self.text, [prompts[i] for i in batch], [limits[i] for i in batch], decoding, texts
            )
            for i, text in zip(batch, made, strict=True):
                stops = requests[i].args[1].get("until") or []
                answers[i] = before(text, [stops] if isinstance(stops, str) else stops)
            self.on_progress(start + len(batch), len(order))
        return answers
