"""The `gptmill` program: arguments and exit codes. Each command's work is in a file of its own, imported when asked."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from flows.uncollected import uncollected

EXAMPLES = """examples:
  gptmill run quickstart                          the whole pipeline; again: seconds, everything reused
  gptmill run quickstart --set pretrain.seed=2    one knob changed: only what follows from it runs
  gptmill run quickstart --only benchmark-qa      one stage alone
  gptmill plan laptop                             what would run, why, and how long it took last time
  gptmill ask "What is the type of axis?" --context "axis : int, default 0"
  gptmill up                                      MLflow and Prefect UIs on this machine

exit codes: 0 done; 1 a stage failed, the same command resumes; 2 refused before any work;
            130, 143 interrupted, checkpoint saved
"""


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    top = argparse.ArgumentParser(
        prog="gptmill",
        description="From a dataset's name to a benchmarked, registered GPT.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, module: str, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(module=module)
        return sub

    def preset(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("preset", metavar="PRESET", help="a name in configs/, or the path of a YAML file")
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            dest="overrides",
            metavar="A.B=C",
            help="override one field; may be given again",
        )
        sub.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")

    run = command("run", "run", "run a preset's stages", "gptmill run quickstart --from finetune-qa")
    preset(run)
    run.add_argument("--only", metavar="STAGE", help="this stage alone; what it reads must be fresh")
    run.add_argument("--from", dest="first", metavar="STAGE", help="this stage and the later ones")
    run.add_argument("--until", dest="last", metavar="STAGE", help="up to and with this stage")
    run.add_argument("--force", action="append", default=[], metavar="STAGE", help="run it even if it is fresh")

    plan = command("plan", "plan", "show every stage's state and why", "gptmill plan quickstart --json")
    preset(plan)
    plan.add_argument("--refresh", action="store_true", help="look at the sources anew")

    runs = command("runs", "tracked_runs", "list past runs", "gptmill runs quickstart")
    runs.add_argument("preset", nargs="?", metavar="PRESET", help="only this preset's")
    runs.add_argument("--limit", type=int, default=20, metavar="N", help="how many (20)")
    runs.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")

    compare = command(
        "compare", "tracked_runs", "what differs between runs, beyond noise", "gptmill compare 3f9a1c2e latest"
    )
    compare.add_argument(
        "runs", nargs="+", metavar="RUN", help="the reference, then others: run ids, first 8 characters, or latest"
    )
    compare.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")

    tuned_help = "a directory, models:/NAME@ALIAS, or RUN/STAGE"
    model_help = f"hf:DIRECTORY, hf:ID of the Hugging Face hub, {tuned_help}"
    reproduce = command(
        "reproduce",
        "reproduce",
        "rebuild a run from its MLflow record, and compare every stage's digest",
        "gptmill reproduce 3f9a1c2e --until pretrain",
    )
    reproduce.add_argument("run", metavar="RUN", help="a run id, its first 8 characters, or latest")
    reproduce.add_argument(
        "--into", metavar="DIR", help="build there; a new folder, or one where this was begun (reproductions/RUN)"
    )
    reproduce.add_argument("--until", dest="last", metavar="STAGE", help="up to and with this stage")
    reproduce.add_argument("--anyway", action="store_true", help="build even from other data than the recorded")
    reproduce.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")

    generate = command("generate", "use_model", "continue a text", 'gptmill generate latest/pretrain "Return the"')
    generate.add_argument("model", metavar="MODEL", help=model_help)
    generate.add_argument("text", metavar="TEXT", help="the beginning; - reads standard input")
    generate.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="tokens to add at most (64)")
    generate.add_argument(
        "--temperature", type=float, metavar="T", help="draw tokens, above 0; without it the likeliest"
    )
    generate.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    generate.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest that together reach P")
    generate.add_argument("--min-p", type=float, metavar="P", help="draw from those P times as likely as the likeliest")
    generate.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1: fewer repetitions")
    generate.add_argument("--num-beams", type=int, metavar="N", help="beam search of so many beams")
    generate.add_argument("--length-penalty", type=float, metavar="E", help="of a beam search, -10 to 10 (1.0)")
    generate.add_argument("--stop", action="append", metavar="STRING", help="end before this; may be repeated")
    generate.add_argument("--num-return-sequences", type=int, metavar="N", help="print so many, a blank line between")
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)")

    summarize = command("summarize", "use_model", "summarize a text", "gptmill summarize - < docstring.txt")
    summarize.add_argument("text", metavar="TEXT", help="the text; - reads standard input")
    ask = command(
        "ask",
        "use_model",
        "answer a question from a text",
        'gptmill ask "What is the type of axis?" --context "axis : int, default 0"',
    )
    ask.add_argument("question", metavar="QUESTION", help="the question")
    ask.add_argument(
        "--context", required=True, metavar="TEXT", help="the text that answers it; - reads standard input"
    )
    apply = command(
        "apply",
        "use_model",
        "use a model of any skill",
        "gptmill apply sentiment --field text=很好 --model models:/zh-sentiment@champion",
    )
    apply.add_argument("skill", metavar="SKILL", help="what the model was tuned for")
    apply.add_argument(
        "--field",
        action="append",
        required=True,
        metavar="NAME=TEXT",
        help="a field of the skill's template, once for each; a TEXT of - reads standard input",
    )
    apply.add_argument("--model", required=True, metavar="MODEL", help=tuned_help)
    for sub, skill in ((summarize, "summarization"), (ask, "qa")):
        sub.add_argument("--model", default=f"models:/quickstart-{skill}@champion", metavar="MODEL", help=tuned_help)

    bench = command(
        "bench", "bench", "measure a model, or tokenizers", "gptmill bench generate latest/finetune-qa --rows 16"
    )
    kinds = bench.add_subparsers(dest="what", required=True, metavar="WHAT")
    speed = kinds.add_parser("generate", help="how fast it writes, as JSON", description="How fast a model writes.")
    speed.add_argument("model", metavar="MODEL", help=model_help)
    speed.add_argument("--prompt-tokens", type=int, default=128, metavar="N", help="of each prompt (128)")
    speed.add_argument("--new-tokens", type=int, default=64, metavar="N", help="written to each prompt (64)")
    speed.add_argument("--rows", type=int, default=1, metavar="N", help="prompts at once (1)")
    speed.add_argument("--rounds", type=int, default=5, metavar="N", help="times it is measured; medians are shown (5)")

    density = kinds.add_parser(
        "tokenizer",
        help="how densely tokenizers write, side by side",
        description="Bytes per token, tokens per word and encoding speed of tokenizers, by language and kind of text.",
    )
    density.set_defaults(module="bench_tokenizer")
    tokenizer_help = f"a directory with tokenizer.json, hf:ID, {tuned_help}; gpt2 or gpt4 from tiktoken's cache"
    density.add_argument("tokenizers", nargs="+", metavar="TOKENIZER", help=tokenizer_help)
    density.add_argument("--text", nargs="+", metavar="FILE", help="texts to measure, in place of the built-in ones")
    density.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")

    scores = kinds.add_parser(
        "lm-eval", help="scores in lm-eval's tasks", description="A model's scores in any of lm-eval's tasks."
    )
    scores.set_defaults(module="bench_lm_eval", int8=False)
    scores.add_argument("model", metavar="MODEL", help=model_help)
    scores.add_argument("--tasks", action="append", required=True, metavar="NAMES", help="with commas between them")
    scores.add_argument("--num-fewshot", type=int, default=0, metavar="K", help="examples in a prompt (0)")
    scores.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="measures with other examples; their mean (1)"
    )
    scores.add_argument("--limit", type=int, metavar="N", help="documents of each task at most")
    scores.add_argument("--data-dir", metavar="DIR", help="folder of datasets by hub id, or a mirror's address")
    scores.add_argument("--output", metavar="DIR", help="write scores.json and the samples of each task there")
    scores.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")

    for sub in (generate, summarize, ask, apply, speed):
        sub.add_argument("--int8", action="store_true", help="matrices rounded to 8 bits: a quarter of the memory")

    up = command("up", "servers", "start MLflow and Prefect UIs on loopback", "gptmill up")
    up.add_argument("--mlflow-port", type=int, default=5000, metavar="PORT", help="MLflow's port (5000)")
    up.add_argument("--prefect-port", type=int, default=4200, metavar="PORT", help="Prefect's port (4200)")
    command("down", "servers", "stop what `up` started", "gptmill down")

    verify = command("verify", "verify", "read every stored byte again and compare digests", "gptmill verify")
    verify.add_argument("stage", nargs="?", metavar="STAGE", help="only this stage's outputs")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code that docs/stages.md explains."""
    options = parser().parse_args(arguments)
    with uncollected():
        command = importlib.import_module(f"flows.commands.{options.module}")
    try:
        code: int = command.main(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        gc.freeze()  # the interpreter's last collections would take seconds, for memory that goes anyway
    return code


if __name__ == "__main__":
    sys.exit(main())
