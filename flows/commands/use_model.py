"""`gptmill generate`, `summarize`, `ask` and `apply`."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal

from flows.commands.failures import refuse

if TYPE_CHECKING:
    from gptcore.loaded import LoadedModel

SETTINGS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "num_beams",
    "length_penalty",
    "stop",
    "seed",
)


def main(options: argparse.Namespace) -> int:
    """Print the model's text, while it is written where that is possible."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
            _use(options)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as problem:
        return refuse(problem)
    return 0


def _use(options: argparse.Namespace) -> None:
    if options.command == "ask":
        if not options.question.strip():
            raise ValueError("the question is empty")
        fields = {"question": options.question, "context": _text(options.context)}
    elif options.command == "apply":
        fields = _fields(options.field)
    else:
        fields = {"document": _text(options.text)}
    loaded = load(options)
    from gptcore.loaded import ContextFull, InputCut

    warnings.simplefilter("always", ContextFull)
    warnings.simplefilter("always", InputCut)
    if options.command == "generate":
        _generate(loaded, fields["document"], options)
    elif options.command == "apply":
        _apply(loaded, options.skill, fields)
    else:
        print(loaded.answer([fields])[0])


def _fields(given: list[str]) -> dict[str, str]:
    """NAME=TEXT of a command line as fields."""
    fields: dict[str, str] = {}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not equals or name in fields:
            raise ValueError(f"--field {entry!r} must look like NAME=TEXT, each name once")
        fields[name] = _text(text)
    return fields


def _apply(loaded: LoadedModel, skill: str, fields: dict[str, str]) -> None:
    """Print what the model answers; of labels the likeliest with its probability, then the others."""
    own = loaded.use.skill.name if loaded.use else None
    if own != skill:
        raise ValueError(f"this model is tuned for {own or 'no skill'}, not for {skill}")
    if loaded.use and loaded.use.skill.labels:
        (shares,) = loaded.label_probabilities([fields])
        for label in sorted(shares, key=lambda label: -shares[label]):
            print(f"{label} {shares[label]:.3f}")
    else:
        print(loaded.answer([fields])[0])


def load(options: argparse.Namespace) -> LoadedModel:
    """The MODEL of a command line, ready to write."""
    import gptcore  # torch

    quantize: Literal["int8"] | None = "int8" if options.int8 else None
    loaded = gptcore.load(options.model, quantize=quantize, say=lambda line: print(line, file=sys.stderr))
    from gptcore.model.step import is_compiled

    if sys.stderr.isatty() and not is_compiled():
        print("note: compiling for this processor, once (about 20 seconds)", file=sys.stderr)
    return loaded


def _generate(loaded: LoadedModel, text: str, options: argparse.Namespace) -> None:
    how: dict[str, Any] = {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    many, limit = options.num_return_sequences, options.max_new_tokens
    if many is not None:
        print("\n\n".join(text + new for new in loaded.generate(text, limit, num_return_sequences=many, **how)))
    elif options.num_beams is not None:
        print(text + loaded.generate(text, limit, **how))
    else:
        _stream(loaded, text, limit, how)


def _stream(loaded: LoadedModel, text: str, limit: int, how: dict[str, Any]) -> None:
    begun = False

    def write(piece: str) -> None:
        nonlocal begun
        print(piece if begun else text + piece, end="", flush=True)
        begun = True

    loaded.generate(text, limit, stream=write, **how)
    print("" if begun else text)


def _text(given: str) -> str:
    text = sys.stdin.read() if given == "-" else given
    if not text.strip():
        raise ValueError("the text is empty")
    return text
