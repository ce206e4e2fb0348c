"""`gptmill bench generate`: how fast a model writes."""

from __future__ import annotations

import argparse
import json

from flows.commands.failures import refuse
from flows.commands.use_model import load


def main(options: argparse.Namespace) -> int:
    """Print one JSON object."""
    try:
        loaded = load(options)
        from gptcore.model.generation_times import generation_times

        sizes = (options.prompt_tokens, options.new_tokens, options.rows, options.rounds)
        times = generation_times(loaded.model, *sizes)
    except (ValueError, OSError) as problem:
        return refuse(problem)
    print(json.dumps({"model": options.model, "int8": options.int8, **times}))
    return 0
