"""Scoring beside lm-eval's own `hf` model, by turns in one process: the same requests, weights, threads and float32.

A network of the gpt2 family with made-up weights around the frequencies of the text's tokens, a tokenizer of 32,768
trained on that text (docstrings of installed packages), and lm-eval's model on the exported directory:

1. four_choice: contexts of about 80 tokens, four endings of about 25 each, as hellaswag has them. 2. letters: five
common examples and a question, answered by ` A` to ` D`, as mmlu has it; lm-eval's cache of one-token answers is on.
3. rolling: whole documents of one to four windows. 4. generation: prompts of about 100 tokens, answers of 32 tokens at
most, with stop strings.

Timed is what lm-eval calls: `loglikelihood`, `loglikelihood_rolling`, `generate_until`, encoding and decoding of text
inside for both; models are loaded and requests made before. lm-eval's model gets the batch size that is fastest on a
part of the requests. A ratio is its time over ours, the median over rounds; `processor_s` is the processor time of all
threads. answers_equal: acc, acc_norm, greedy flags and generations; among the flags' requests are the model's own
generations. max_loglikelihood_difference: nats, over all requests. One JSON object last.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

VOCABULARY, CONTEXT = 32_768, 1024
BATCHES, LOGITS = (1, 4, 8, 16, 32, 64), 1 << 28
"""What is tried for the peer, as far as so many logits at once allow (1 GiB, twice that with their softmax)."""
LETTERS = (" A", " B", " C", " D")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8, help="of the network (8)")
    parser.add_argument("--width", type=int, default=256, help="of the network (256)")
    parser.add_argument("--vocab-size", type=int, default=VOCABULARY, help="of tokenizer and network (32768)")
    parser.add_argument("--items", type=int, default=32, help="of each case; an eighth of them whole documents (32)")
    parser.add_argument("--megabytes", type=float, default=8.0, help="of text (8)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (5)")
    parser.add_argument("--threads", type=int, default=2, help="of both (2)")
    parser.add_argument("--cases", default="four_choice,letters,rolling,generation", help="which (all)")
    options = parser.parse_args(arguments)
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="gptmill-score-") as folder:
        print(json.dumps(measure(options, Path(folder))))
    return 0


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All cases, one after the other."""
    from gptcore.model.gpt import parameter_count

    texts = documents(int(options.megabytes * 1e6))
    ours, theirs = models(folder, texts, options)
    draw, found, equal, difference = random.Random(1), {}, True, 0.0
    found |= {"parameters": parameter_count(ours.model), "threads": options.threads, "rounds": options.rounds}
    makers = {"four_choice": four_choice, "letters": letters, "rolling": rolling, "generation": generation}
    for case in options.cases.split(","):
        make = makers[case](texts, draw, options.items)
        kind = "loglikelihood" if case in ("four_choice", "letters") else make()[0].request_type

        def run(lm: Any, requests: list[Any], kind: str = kind) -> list[Any]:
            answers: list[Any] = getattr(lm, kind)(requests, disable_tqdm=True)
            return answers

        longest = (
            CONTEXT if case == "rolling" else max(len(ours.text.encode("".join(map(str, r.args)))) for r in make())
        )
        theirs.batch_size_per_gpu = fastest_batch(
            lambda requests: run(theirs, requests), theirs, make, longest, options
        )
        mine, others = run(ours, make()), run(theirs, make())
        if kind == "generate_until":
            equal &= mine == others
            flags = [
                request(("loglikelihood"), (r.args[0], text)) for r, text in zip(make(), mine, strict=True) if text
            ]
            mine, others = ours.loglikelihood(flags), theirs.loglikelihood(flags, disable_tqdm=True)
            found["greedy_flags"] = [sum(flag for _, flag in mine), len(flags)]
        if kind != "loglikelihood_rolling":
            equal &= [flag for _, flag in mine] == [flag for _, flag in others]
            mine, others = [value for value, _ in mine], [value for value, _ in others]
        if kind == "loglikelihood":
            equal &= verdicts(make(), mine) == verdicts(make(), others)
        difference = max(difference, *(abs(a - b) for a, b in zip(mine, others, strict=True)))
        times = in_turns(lambda make=make: run(ours, make()), lambda make=make: run(theirs, make()), options.rounds)
        ratios = [theirs_s / ours_s for (ours_s, _), (theirs_s, _) in zip(*times, strict=True)]
        found |= {
            f"{case}_ratio": round(statistics.median(ratios), 2),
            f"{case}_ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
            f"{case}_processor_ratio": round(
                statistics.median(b / a for (_, a), (_, b) in zip(*times, strict=True)), 2
            ),
            f"{case}_s": {
                side: round(statistics.median(s for s, _ in part), 3)
                for side, part in zip(("ours", "hf"), times, strict=True)
            },
            f"{case}_hf_batch_size": theirs.batch_size_per_gpu,
        }
        print(f"{case}: {found[f'{case}_ratio']} x {found[f'{case}_ratio_range']}", file=sys.stderr)
    return {**found, "max_loglikelihood_difference": float(f"{difference:.2e}"), "answers_equal": equal}


def documents(size: int) -> list[str]:
    """Docstrings of installed packages, their white space made single spaces, in an order of chance."""
    found, total = [], 0
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):  # a package's own test of broken files
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
                words = text.split()
                if len(words) >= 120:
                    found.append(" ".join(words))
                    total += len(found[-1])
        if total >= size:
            break
    random.Random(0).shuffle(found)
    return found


def models(folder: Path, texts: Sequence[str], options: argparse.Namespace) -> tuple[Any, Any]:
    """Ours, and lm-eval's on the exported directory."""
    from lm_eval.models.huggingface import HFLM

    from gptcore.adapters.hf import export_hf
    from gptcore.adapters.lm_eval import GptmillLM
    from gptcore.config import Tokenizer
    from gptcore.model.families import build
    from gptcore.model.gpt import GPTConfig
    from gptcore.model.weights import load_model, save_model
    from gptcore.text.documents import Document, write
    from gptcore.text.tokenizer import TextTokenizer, train_tokenizer
    from gptcore.work import Work

    corpus, directory = folder / "corpus" / "documents", folder / "model"
    corpus.mkdir(parents=True)
    directory.mkdir()
    lines = (write(Document(str(i), "text", str(i), None, None, text)) for i, text in enumerate(texts))
    (corpus / "train-00000.jsonl").write_bytes(b"".join(lines))
    work = Work(directory, {"corpus": corpus.parent})
    train_tokenizer(Tokenizer(vocab_size=options.vocab_size, train_bytes=1 << 30), work)
    work.metrics.close()
    text = TextTokenizer.load(directory)
    model = build(GPTConfig("gpt2", options.layers, 8, options.width, CONTEXT, text.vocab_size)).initialise(0)
    around_frequencies(model, torch.tensor([token for one in texts[:2000] for token in text.encode(one)]))
    save_model(model, directory)
    export_hf(directory, directory / "hf")
    ours = GptmillLM(load_model(directory), text, batch_items=64)
    return ours, HFLM(str(directory / "hf"), device="cpu", dtype="float32", batch_size=16)


def around_frequencies(model: Any, tokens: torch.Tensor) -> None:
    """Weights large enough that contexts matter, and a coordinate of the table that tells frequent tokens from rare.

    So a token costs about 8 nats, as a weak model's does; those of first weights would all cost 10.4.
    """
    draw = torch.Generator().manual_seed(0)
    counts = torch.bincount(tokens, minlength=model.config.vocab_size) + 1.0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * parameter.shape[-1] ** -0.5)
        log = counts.log()
        model.wte.weight[:, 0] = (log - log.mean()) / 10
        model.ln_f.weight[0], model.ln_f.bias[0] = 0, 10


def request(kind: Any, arguments: tuple[Any, ...]) -> Any:
    """As lm-eval hands it over."""
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def parts(texts: Sequence[str], draw: random.Random, *sizes: int) -> Iterator[list[str]]:
    """For ever: pieces of so many words, one after the other, of a document chosen by chance."""
    while True:
        words = draw.choice(texts).split()
        if len(words) >= sum(sizes):
            at, pieces = draw.randrange(len(words) - sum(sizes) + 1), []
            for size in sizes:
                pieces.append(" ".join(words[at : at + size]))
                at += size
            yield pieces


def four_choice(texts: Sequence[str], draw: random.Random, items: int) -> Callable[[], list[Any]]:
    """A text and four ways on, one of them its own."""
    made = []
    for _, (context, own) in zip(range(items), parts(texts, draw, 46, 14), strict=False):
        endings = [own, *(ending for _, (ending,) in zip(range(3), parts(texts, draw, 14), strict=False))]
        draw.shuffle(endings)
        made += [(context, f" {ending}") for ending in endings]
    return lambda: [request("loglikelihood", pair) for pair in made]


def letters(texts: Sequence[str], draw: random.Random, items: int) -> Callable[[], list[Any]]:
    """Questions with four lettered answers behind five examples."""

    def question() -> str:
        text, *answers = next(parts(texts, draw, 30, 6, 6, 6, 6))
        return "\n".join(
            [text, *(f"{letter.strip()}. {a}" for letter, a in zip(LETTERS, answers, strict=True)), "Answer:"]
        )

    examples = "\n\n".join(question() + draw.choice(LETTERS) for _ in range(5))
    made = [(f"{examples}\n\n{asked}", letter) for asked in (question() for _ in range(items)) for letter in LETTERS]
    return lambda: [request("loglikelihood", pair) for pair in made]


def rolling(texts: Sequence[str], draw: random.Random, items: int) -> Callable[[], list[Any]]:
    """Documents of about one to four windows."""
    made = []
    for place in range(max(items // 8, 2)):
        words = (600, 1200, 1800, 2300)[place % 4]
        joined: list[str] = []
        while len(joined) < words:
            joined += draw.choice(texts).split()
        made.append((" ".join(joined[:words]),))
    return lambda: [request("loglikelihood_rolling", one) for one in made]


def generation(texts: Sequence[str], draw: random.Random, items: int) -> Callable[[], list[Any]]:
    """Questions about a text."""
    until = {"until": ["\n", "Question:", "."], "max_gen_toks": 32, "do_sample": False}
    made = []
    for _, (context, asked) in zip(range(items), parts(texts, draw, 48, 10), strict=False):
        made.append(f"{context}\nQuestion: {asked}?\nAnswer:")
    return lambda: [request("generate_until", (prompt, json.loads(json.dumps(until)))) for prompt in made]


def fastest_batch(
    run: Callable[[list[Any]], object],
    theirs: Any,
    make: Callable[[], list[Any]],
    longest: int,
    options: argparse.Namespace,
) -> int:
    """The peer's best batch size, on half of the requests; each tried twice, the faster time counts."""
    most = LOGITS // (options.vocab_size * longest)
    times: dict[int, float] = {}
    for size in BATCHES:
        if size > max(most, 1) or size > len(make()):
            continue
        theirs.batch_size_per_gpu = size
        tries = []
        for _ in range(2):
            requests = make()
            began = time.perf_counter()
            run(requests[: max(len(requests) // 2, 1)])
            tries.append(time.perf_counter() - began)
        times[size] = min(tries)
    return min(times, key=lambda size: times[size])


def verdicts(requests: Sequence[Any], nats: Sequence[float]) -> list[tuple[int, int]]:
    """The answers that acc and acc_norm look at: the likeliest of four, and the likeliest for its length."""
    found = []
    for first in range(0, len(nats), 4):
        of_item = nats[first : first + 4]
        normed = [value / len(r.args[1]) for value, r in zip(of_item, requests[first : first + 4], strict=True)]
        found.append((of_item.index(max(of_item)), normed.index(max(normed))))
    return found


Times = list[tuple[float, float]]


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[Times, Times]:
    """Seconds of each round, on the clock and of the processors."""
    times: tuple[Times, Times] = ([], [])
    for _ in range(rounds):
        for side, work in zip(times, (ours, theirs), strict=True):
            began, before = time.perf_counter(), time.process_time()
            work()
            side.append((time.perf_counter() - began, time.process_time() - before))
    return times


if __name__ == "__main__":
    sys.exit(main())
