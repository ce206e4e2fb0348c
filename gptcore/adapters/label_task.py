"""A skill of labels as an lm-eval task: the likeliest of a few fixed answers, nothing generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance

from gptcore.adapters.lm_eval import Spelt
from gptcore.adapters.lm_eval_tasks import MemoryTask
from gptcore.config import Skill
from gptcore.evaluation.labels import likeliest, probabilities
from gptcore.evaluation.scores import score
from gptcore.text.skills import Item


class LabelTask(MemoryTask):
    """A request of log-likelihood for each label of each item; prompt and label travel as token ids."""

    def __init__(
        self,
        skill: Skill,
        items: Sequence[Item],
        encode: Callable[[Item], list[int]],
        encode_label: Callable[[str], list[int]],
    ) -> None:
        """encode, encode_label: the ids of an item's prompt, and of a label with the end of the text."""
        self._labels = list(skill.labels.values())
        self._label_ids = [encode_label(label) for label in self._labels]
        documents = [
            {
                "id": item.id,
                "prompt": skill.template.format(**item.fields),
                "prompt_ids": encode(item),
                "labels": self._labels,
                "number": self._labels.index(item.target),
            }
            for item in items
        ]

        def scored(document: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
            right = self._labels[document["number"]]
            return score(skill.metrics, likeliest(probabilities(self._labels, [nats for nats, _ in results])), right)

        super().__init__(
            "labels",
            documents,
            task=skill.name,
            process_results=scored,
            metric_list=[{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in skill.metrics],
        )

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        """One request a label, with the ids beside the texts."""
        requests: list[Instance] = super().construct_requests(doc, ctx, **kwargs)
        for request, label, ids in zip(requests, self._labels, self._label_ids, strict=True):
            request.arguments = (Spelt(ctx, doc["prompt_ids"]), Spelt(label, ids))
        return requests

    def probabilities(self, sample: Mapping[str, Any]) -> dict[str, float]:
        """What a sample of lm-eval's log says of each label."""
        return probabilities(self._labels, [float(nats) for nats, _ in sample["filtered_resps"]])
