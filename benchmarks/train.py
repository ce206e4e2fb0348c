"""The training engine beside nanoGPT: time to its final validation loss, tokens a second, memory; one JSON object last.

The peer's own train.py runs unchanged, from its checkout (`git clone https://github.com/karpathy/nanoGPT`), on the same
tokens and the same split; ours is the pretrain stage, as a pipeline runs it. Everything is a process of its own, peer
and ours in turns, nothing beside it. Times are those spent in updates: evaluations and saves count for neither, and
each side's first update as its mean one. A machine's speed drifts, so ours is held against iterations of the peer timed
just before and just after it.

small: nanoGPT's CPU recipe (4 layers, 128 wide, 64 characters, batch 12, 2,000 iterations).
12m: 12.3 M parameters (6 layers, 384 wide, 256 tokens of 4,096, batch 8, 395 iterations, the best of three rates).

A ratio of times is ours over the peer's, and so is that of memory (peak above an idle interpreter that has imported
torch); a ratio of throughputs too. Whole, it takes an hour and a half; --parts picks some.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = ("small", "12m", "throughput_small", "throughput_12m")
RATES = (5e-4, 1e-3, 2e-3)
"""Of the peer at 12.3 M: its own 1e-3, half and twice that."""

EVAL_EVERY = 10
"""Updates between looks at the validation loss: how finely the time to a loss is known."""


@dataclass(frozen=True)
class Scale:
    """A size at which both are measured."""

    n_layer: int
    n_head: int
    n_embd: int
    context: int
    batch: int
    iterations: int
    """The peer's whole run."""
    rates: tuple[float, ...]
    """The peer's, of which the best counts."""
    seeds: int
    """Runs of ours."""
    ours: dict[str, Any]
    """The sections `model` and `pretrain` of our recipe."""
    timed: int
    """Iterations of a throughput run."""


MUON = {
    "optimizer": "muon", "matrix_turns": 3, "matrix_momentum": 0.85, "beta1": 0.8, "beta2": 0.99,
    "schedule": "wsd", "decay_share": 0.8, "min_lr_ratio": 0.0,
}  # fmt: skip
SMALL = Scale(
    n_layer=4, n_head=4, n_embd=128, context=64, batch=12, iterations=2000, rates=(1e-3,), seeds=5, timed=150,
    ours={
        "model": {"family": "modern", "n_layer": 4, "n_head": 2, "n_embd": 128, "context": 64},
        "pretrain": {**MUON, "learning_rate": 1e-2, "matrix_learning_rate": 0.03, "warmup_steps": 5, "steps": 200},
    },
)  # fmt: skip
LARGE = Scale(
    n_layer=6, n_head=6, n_embd=384, context=256, batch=8, iterations=395, rates=RATES, seeds=3, timed=12,
    ours={
        # Five layers: with a head of its own the sixth would be 1.6 M parameters too many.
        "model": {"family": "modern", "n_layer": 5, "n_head": 6, "n_embd": 384, "context": 256},
        "pretrain": {**MUON, "learning_rate": 1e-2, "matrix_learning_rate": 0.02, "warmup_steps": 5, "steps": 90},
    },
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, metavar="DIR", help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, metavar="FILE", help="the text: Tiny Shakespeare")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--seeds", type=int, help="runs of ours (5 at 0.8 M, 3 at 12.3 M)")
    parser.add_argument("--turns", type=int, default=5, help="times that throughput is measured (%(default)s)")
    parser.add_argument("--runtime", action="append", default=[], metavar="KEY=VALUE", help="a field of our runtime")
    parser.add_argument("--steps", type=int, help="updates of ours, to try other recipes")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a field of our pretrain section"
    )
    parser.add_argument("--target", type=float, help="leave out the peer's whole runs: this loss, nats")
    parser.add_argument("--peer-seconds", type=float, help="without --peer: its time")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        return child(json.loads(options.child))
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts {', '.join(sorted(unknown))}: no such part; there are {', '.join(PARTS)}")
    if not options.text or not options.text.is_file():
        parser.error(f"--text {options.text}: no such file")
    if (options.target is None or options.peer) and not (options.peer and (options.peer / "train.py").is_file()):
        parser.error(f"--peer {options.peer}: no checkout of nanoGPT, which holds train.py")
    found: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "processor": processor(), "python": platform.python_version()}
    }
    with tempfile.TemporaryDirectory(prefix="gptmill-train-") as folder:
        root = Path(folder)
        idle = idle_memory(root)
        for scale, name in ((SMALL, "small"), (LARGE, "12m")):
            if not {name, f"throughput_{name}"} & set(parts):
                continue
            data = prepare(root / name, options.text, name)
            bench = Bench(name, scale, data, options.peer and options.peer.absolute(), root, idle)
            if f"throughput_{name}" in parts:
                found |= bench.throughput(options)
            if name in parts:
                found |= bench.time_to_loss(options)
    print(json.dumps(found))
    return 0


def processor() -> str:
    """The processor's name, where /proc tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor()


def say(line: str) -> None:
    """To whoever waits."""
    print(line, file=sys.stderr, flush=True)


# The data, for both


def prepare(folder: Path, text_file: Path, name: str) -> Path:
    """Characters, or tokens of a BPE trained on the training part; the first nine tenths train, as the peer's do."""
    import numpy as np

    text = text_file.read_text(encoding="utf-8")
    parts = {"train": text[: int(len(text) * 0.9)], "validation": text[int(len(text) * 0.9) :]}
    if name == "small":
        letters = {letter: place for place, letter in enumerate(sorted(set(text)))}
        ids = {split: np.array([letters[c] for c in part]) for split, part in parts.items()}
        sizes = np.array([len(letter.encode()) for letter in letters])
    else:
        ids, sizes = bpe(parts)
    return write_tokens(folder, ids, sizes)


def write_tokens(folder: Path, ids: dict[str, Any], sizes: Any) -> Path:
    """A finished `tokens` stage, a `tokenizer` of no files, and the same tokens as the peer reads them.

    ids: of `train` and `validation`, as arrays; sizes: the bytes of every token.
    """
    import numpy as np

    ours, theirs = folder / "tokens", folder / "peer" / "data" / "text"
    for directory in (ours, theirs, folder / "tokenizer"):
        directory.mkdir(parents=True)
    splits = {}
    for split, peer_name in (("train", "train"), ("validation", "val")):
        found = ids[split].astype("<u2")
        found.tofile(ours / f"{split}-00000.bin")
        found.tofile(theirs / f"{peer_name}.bin")
        entry = {"tokens": len(found), "bytes": int(sizes[found].sum()), "documents": 1}
        splits[split] = {"shards": [{"file": f"{split}-00000.bin", **entry}], **entry}
    np.save(ours / "token_bytes.npy", sizes.astype(np.int32))
    (ours / "index.json").write_text(json.dumps({"dtype": "uint16", "vocab_size": len(sizes), "splits": splits}))
    (theirs / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(sizes)}))
    return folder


def bpe(parts: dict[str, str]) -> tuple[dict[str, Any], Any]:
    """Ids of each part, and the bytes of every token."""
    import numpy as np
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(parts["train"].splitlines(keepends=True), trainer)
    sizes = np.array([len(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())])
    return {split: np.array(tokenizer.encode(part).ids) for split, part in parts.items()}, sizes


# Processes


def run(command: Sequence[str | Path], folder: Path) -> tuple[str, float]:
    """Run a process to its end; what it printed, and its peak memory, MB."""
    with (folder / "printed").open("w+") as printed:
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count())}
        process = subprocess.Popen(
            [str(c) for c in command],
            cwd=folder,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        output = printed.read()
    if process.returncode:
        raise SystemExit(f"{output}\n{command} ended with {process.returncode}")
    return output, usage.ru_maxrss / 1024


def idle_memory(folder: Path) -> float:
    """Peak memory of an interpreter that imports torch and ends, MB."""
    return run([sys.executable, "-c", "import torch"], folder)[1]


@dataclass(frozen=True)
class Bench:
    """Both sides at one scale."""

    name: str
    scale: Scale
    data: Path
    peer: Path | None
    root: Path
    idle: float

    # The peer

    def run_peer(
        self, rate: float, iterations: int, decay: int, others: dict[str, Any] | None = None
    ) -> tuple[list[float], float]:
        """Train it; seconds of each iteration without an evaluation, and peak memory, MB. others: its own options."""
        assert self.peer
        folder = self.data / "peer"
        for file in self.peer.glob("*.py"):
            if not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
        scale = self.scale
        options = {
            "dataset": "text", "device": "cpu", "compile": False, "eval_iters": 1, "log_interval": 1,
            "eval_interval": iterations, "block_size": scale.context, "batch_size": scale.batch,
            "n_layer": scale.n_layer, "n_head": scale.n_head, "n_embd": scale.n_embd, "max_iters": iterations,
            "lr_decay_iters": decay, "dropout": 0.0, "learning_rate": rate, "min_lr": rate / 10,
            "always_save_checkpoint": True, "out_dir": str(folder / "out"), **(others or {}),
        }  # fmt: skip
        recipe = self.peer / "config" / "train_shakespeare_char.py"
        command = [sys.executable, "train.py", recipe, *(f"--{key}={value}" for key, value in options.items())]
        printed, peak = run(command, folder)
        lines = re.findall(r"^iter (\d+): .*time ([\d.]+)ms", printed, re.MULTILINE)
        timed = [float(ms) / 1000 for number, ms in lines if int(number) % iterations]
        return timed, peak

    def peer_loss(self) -> float:
        """Nats a token of its last checkpoint on the whole validation text."""
        code = (
            "import json, sys, numpy as np, torch; from model import GPT, GPTConfig\n"
            "saved = torch.load('out/ckpt.pt', weights_only=True)\n"
            "model = GPT(GPTConfig(**saved['model_args'])); model.load_state_dict(saved['model']); model.eval()\n"
            "ids = torch.from_numpy(np.fromfile('data/text/val.bin', dtype='<u2').astype(np.int64))\n"
            "T = model.config.block_size; rows = (len(ids) - 1) // T\n"
            "x, y = ids[:rows * T].view(rows, T), ids[1:rows * T + 1].view(rows, T)\n"
            "with torch.no_grad(): nats = sum(model(x[i:i + 16], y[i:i + 16])[1].item() * len(x[i:i + 16])\n"
            "    for i in range(0, rows, 16))\n"
            "print(json.dumps(nats / rows))\n"
        )
        return float(run([sys.executable, "-c", code], self.data / "peer")[0].splitlines()[-1])

    # Ours

    def run_ours(self, job: dict[str, Any]) -> dict[str, Any]:
        """Train in a process of its own; see `child`."""
        job = {"data": str(self.data), **job}
        printed, peak = run([sys.executable, Path(__file__).absolute(), "--child", json.dumps(job)], self.root)
        found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return found | {"peak_mb": peak}

    def peer_iteration(self, options: argparse.Namespace) -> float:
        """Seconds of one of its iterations now: the machine is not as fast in one minute as in the next."""
        if not self.peer:
            return float(options.peer_seconds or 0.0) / self.scale.iterations
        seconds, _ = self.run_peer(self.scale.rates[0], self.scale.timed, self.scale.timed)
        return statistics.mean(seconds[1:])

    # The two questions

    def throughput(self, options: argparse.Namespace) -> dict[str, Any]:
        """Tokens a second and peak memory, the GPT-2 family in the peer's shape: no biases, exact GELU, AdamW."""
        scale = self.scale
        tokens = scale.batch * scale.context
        model = {"family": "gpt2", "activation": "gelu", "bias": False}
        model |= {name: getattr(scale, name) for name in ("n_layer", "n_head", "n_embd", "context")}
        asked = dict(field(text) for text in options.set)
        job = {
            "model": model,
            "pretrain": {"steps": scale.timed, "batch_tokens": tokens, "warmup_steps": 5, "beta2": 0.99, **asked},
            "eval_every": scale.timed,
            "runtime": dict(field(text) for text in options.runtime),
        }
        rates: dict[str, list[float]] = {"peer": [], "ours": []}
        peaks: dict[str, list[float]] = {"peer": [], "ours": []}
        for turn in range(options.turns):
            seconds, peak = self.run_peer(scale.rates[0], scale.timed, scale.timed)
            rates["peer"].append(tokens / statistics.median(seconds[5:]))
            peaks["peer"].append(peak - self.idle)
            ours = self.run_ours(job)
            rates["ours"].append(tokens / statistics.median(ours["seconds"][5:]))
            peaks["ours"].append(ours["peak_mb"] - self.idle)
            last = {side: f"{rates[side][-1]:,.0f} tokens/s, {peaks[side][-1]:.0f} MB" for side in rates}
            say(f"{self.name} throughput {turn + 1} of {options.turns}: peer {last['peer']}; ours {last['ours']}")
        ratios = [ours / peer for ours, peer in zip(rates["ours"], rates["peer"], strict=True)]
        found = {
            f"throughput_ratio_{self.name}": round(statistics.median(ratios), 3),
            f"throughput_{self.name}": {"ratios": rounded(ratios, 3), **{k: rounded(v, 0) for k, v in rates.items()}},
        }
        memory = {"idle": self.idle, **peaks}
        key = "memory_ratio" if self.name == "12m" else f"memory_ratio_{self.name}"
        found[key] = round(statistics.median(peaks["ours"]) / statistics.median(peaks["peer"]), 3)
        return found | {f"memory_mb_{self.name}": {k: rounded(v, 1) for k, v in memory.items()}}

    def time_to_loss(self, options: argparse.Namespace) -> dict[str, Any]:
        """The peer's whole run at each of its rates, and ours to the best of their final losses."""
        scale = self.scale
        peers = []
        if options.target is None:
            for rate in scale.rates:
                seconds, _ = self.run_peer(rate, scale.iterations, scale.iterations)
                spent = statistics.mean(seconds) * scale.iterations
                peers.append({"rate": rate, "loss": round(self.peer_loss(), 4), "seconds": round(spent, 1)})
                say(f"{self.name} peer: {peers[-1]}")
            best = min(peers, key=lambda peer: float(peer["loss"]))
        else:
            best = {"loss": options.target}
        recipe = scale.ours["pretrain"] | dict(field(text) for text in options.set)
        if options.steps:
            recipe["steps"] = options.steps
        runs = []
        before = self.peer_iteration(options)
        for seed in range(1, (options.seeds or scale.seeds) + 1):
            job = {
                "model": scale.ours["model"],
                "pretrain": {**recipe, "batch_tokens": scale.batch * scale.context, "seed": seed},
                "eval_every": EVAL_EVERY,
                "runtime": dict(field(text) for text in options.runtime),
            }
            done = self.run_ours(job)
            after = self.peer_iteration(options)
            passed = next((step for step, loss in done["losses"] if loss <= float(best["loss"])), None)
            spent = passed and passed * statistics.mean(done["seconds"][1:passed])
            theirs = scale.iterations * (before + after) / 2
            before = after
            runs.append(
                {
                    "seed": seed,
                    "parameters": done["parameters"],
                    "step": passed,
                    "final_loss": round(done["losses"][-1][1], 4),
                    "seconds": spent and round(spent, 1),
                    "peer_seconds": round(theirs, 1),
                    "ratio": spent and round(spent / theirs, 4),
                }
            )
            say(f"{self.name} ours: {runs[-1]}")
        ratios = [run["ratio"] or float("inf") for run in runs]
        key = "time_to_loss_ratio" if self.name == "small" else f"time_to_loss_ratio_{self.name}"
        middle = statistics.median(ratios)
        return {
            key: round(middle, 4) if middle < float("inf") else None,
            f"time_to_loss_{self.name}": {"target": best["loss"], "peer": peers, "ours": runs, "recipe": recipe},
        }


def field(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as JSON where it is some."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def rounded(value: Any, digits: int) -> Any:
    """A number or a list of them."""
    return [round(v, digits) for v in value] if isinstance(value, list) else round(value, digits)


def child(job: dict[str, Any]) -> int:
    """Train as the pretrain stage does; print seconds of every update, and the losses on the whole validation text."""
    import time

    from gptcore.config import Model, Pretrain, Runtime
    from gptcore.training import loop
    from gptcore.training.pretrain import pretrain
    from gptcore.work import Work, read_metrics

    seconds: list[float] = []
    loop.LOG_EVERY = 1
    data = Path(job["data"])
    with tempfile.TemporaryDirectory(dir=data) as folder:
        inputs = {"tokens": data / "tokens", "tokenizer": data / "tokenizer"}
        runtime = Runtime(**{"device": "cpu", "checkpoint_every": 10**9, **job["runtime"]})
        work = Work(Path(folder), inputs, runtime)
        every, most = job["eval_every"], job.get("eval_tokens", 10**9)
        config = Pretrain(**job["pretrain"], eval_every=every, eval_tokens=most)
        started = time.monotonic()
        outcome = pretrain(Model(**job["model"]), config, work)
        say(f"{time.monotonic() - started:.1f} s with evaluations")
        losses = []
        for line in read_metrics(work.directory / "metrics.jsonl"):
            if "pretrain/tokens_per_second" in line["m"]:
                seconds.append(config.batch_tokens / line["m"]["pretrain/tokens_per_second"])
            if "pretrain/val_loss" in line["m"]:
                losses.append([line["step"], line["m"]["pretrain/val_loss"]])
        work.metrics.close()
    parameters = int(outcome.metrics["pretrain/parameters"])
    print(json.dumps({"seconds": seconds, "losses": losses, "parameters": parameters}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
