"""lm-eval's own command line, with our model as `--model gptmill --model_args path=MODEL`."""

from __future__ import annotations

from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.registry import register_model

from gptcore.adapters.lm_eval import GptmillLM


class NamedModel(GptmillLM):
    """Our model as lm-eval's command line makes one: by name, with arguments as text."""

    def __init__(self, path: str, batch_size: int | str = 64, device: str | None = None, **_: Any) -> None:
        """path: any MODEL of gptmill. lm-eval's other arguments (max_batch_size) do not apply."""
        import gptcore

        loaded = gptcore.load(path)
        count = int(batch_size) if str(batch_size).isdigit() and int(batch_size) > 1 else 64
        super().__init__(loaded.model, loaded.tokenizer, count)


def main() -> None:
    """`python -m gptcore.adapters.lm_eval ...`."""
    register_model("gptmill")(NamedModel)
    cli_evaluate()
