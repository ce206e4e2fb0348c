"""How fast each step of `corpus.steps` is: megabytes of text a second, of one process.

The text is what the installed distributions say about themselves (prose, tables, code, addresses), in documents of
2,000 characters. Each step goes over all of it again and again for some seconds of processor time; what it loads at
its first document is not counted. One JSON object last.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import distributions
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {"language": {"keep": ["en"]}, "filter": {"profile": "docs"}}
"""Settings of the steps that have no default for each."""
CHARACTERS = 2_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of processor time a step, at least one round (2)")
    options = parser.parse_args(arguments)
    texts = documents()
    size = sum(len(text.encode()) for text in texts) / 1e6
    found = {kind: measure(make, texts, size, options.seconds) for kind, make in steps()}
    print(json.dumps({"documents": len(texts), "megabytes": round(size, 2), "steps": found}))
    return 0


def documents() -> list[str]:
    """The descriptions of the installed distributions, cut into pieces, in the order of their names."""
    told = {
        found.name: str(found.metadata.get("Description") or found.metadata.get_payload()) for found in distributions()
    }
    return [
        text[start : start + CHARACTERS]
        for text in (told[name] for name in sorted(told))
        for start in range(0, len(text), CHARACTERS)
    ]


def steps() -> list[tuple[str, Any]]:
    """(kind, step) of every step that looks at one document by itself."""
    from gptcore.text.steps.making import MODULES, make_step

    return [(kind, make_step({"kind": kind, **SETTINGS.get(kind, {})})) for kind in MODULES]


def measure(step: Any, texts: list[str], size: float, seconds: float) -> dict[str, Any]:
    """Speed, and how many documents the step kept as they are, changed and dropped."""
    from gptcore.text.steps.step import Dropped

    step(texts[0])
    rounds, started = 0, time.process_time()
    while rounds == 0 or time.process_time() - started < seconds:
        verdicts = [step(text) for text in texts]
        rounds += 1
    spent = time.process_time() - started
    dropped = sum(isinstance(verdict, Dropped) for verdict in verdicts)
    same = sum(not isinstance(v, Dropped) and v.text == text for v, text in zip(verdicts, texts, strict=True))
    return {
        "mb_per_second": round(size * rounds / spent, 1),
        "unchanged": same,
        "changed": len(texts) - same - dropped,
        "dropped": dropped,
    }


if __name__ == "__main__":
    sys.exit(main())
