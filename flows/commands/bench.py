"""`gptmill bench generate`: how fast a model writes."""

from __future__ import annotations

import argparse
import json
import sys

from flows.commands.failures import refuse


def main(options: argparse.Namespace) -> int:
    """Print one JSON object."""
    import gptcore  # torch

    try:
        loaded = gptcore.load(
            options.model, quantize="int8" if options.int8 else None, say=lambda line: print(line, file=sys.stderr)
        )
        from gptcore.model.generation_times import generation_times

        sizes = (options.prompt_tokens, options.new_tokens, options.rows, options.rounds)
        times = generation_times(loaded.model, *sizes)
    except (ValueError, OSError) as problem:
        return refuse(problem)
    print(json.dumps({"model": options.model, "int8": options.int8, **times}))
    return 0
