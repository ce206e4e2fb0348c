"""`gptmill generate`, `summarize` and `ask`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from flows.commands.failures import refuse
from tasks.home import home, tracking_uri


def main(options: argparse.Namespace) -> int:
    """Print the model's text."""
    try:
        print(_said(options))
    except (ValueError, OSError) as problem:
        return refuse(problem)
    return 0


def _said(options: argparse.Namespace) -> str:
    if options.command == "generate" and options.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens {options.max_new_tokens} must be at least 1")
    if options.command == "ask":
        fields = {"question": options.question, "context": _text(options.context)}
    else:
        fields = {"document": _text(options.text)}
    directory: str | Path = options.model
    if not options.model.startswith("hf:") and not Path(options.model).is_dir():
        from gptcore.adapters.model_reference import model_directory

        directory = model_directory(
            options.model, tracking_uri(home()), home(), lambda line: print(line, file=sys.stderr)
        )
    from gptcore.load import load

    loaded = load(directory)
    if options.command == "generate":
        text = fields["document"]
        new = loaded.generate([text], options.max_new_tokens, options.temperature, seed=options.seed)
        return f"{text}{new[0]}"
    return loaded.answer([fields])[0]


def _text(given: str) -> str:
    text = sys.stdin.read() if given == "-" else given
    if not text.strip():
        raise ValueError("the text is empty")
    return text
