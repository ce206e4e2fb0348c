"""What rounding the matrices to 8 bits costs: bits per byte of a model on held-out documents, rounded and not.

MODEL is a directory of a pretrain or finetune stage, CORPUS that of the corpus stage it was trained on; the test split
is read in windows of the context, each after an end-of-text token. The difference is of the same documents, so its
standard error is that of the differences. One JSON object last.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a model directory, or another name that gptcore.load takes")
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="the directory of a corpus stage")
    parser.add_argument("--documents", type=int, default=500, help="of the test split, an even sample (500)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(json.dumps(measure(options)))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both, and the difference."""
    import gptcore
    from gptcore.text.documents import Document, read_documents
    from gptcore.text.skills import even_sample

    def identity(document: Document) -> str:
        return document.id

    texts = [d.text for d in even_sample(read_documents(options.corpus, "test"), options.documents, "int8", identity)]
    sizes = np.array([len(text.encode()) for text in texts])
    models = {"float32": gptcore.load(options.model), "int8": gptcore.load(options.model, quantize="int8")}
    bits = {name: np.array([bits_of(loaded, text) for text in texts]) for name, loaded in models.items()}
    apart = bits["int8"] - bits["float32"]
    spread = (apart - apart.sum() / sizes.sum() * sizes).std() * math.sqrt(len(texts)) / sizes.sum()
    return {
        "bits_per_byte": {name: round(float(found.sum() / sizes.sum()), 5) for name, found in bits.items()},
        "difference": round(float(apart.sum() / sizes.sum()), 6),
        "difference_stderr": round(float(spread), 6),
        "documents": len(texts),
        "bytes": int(sizes.sum()),
    }


@torch.inference_mode()
def bits_of(loaded: Any, text: str) -> float:
    """Of a whole text."""
    ids = loaded.tokenizer.encode(text)
    context, total = loaded.model.config.context, 0.0
    for start in range(0, len(ids), context):
        part = ids[start : start + context]
        logits = loaded.model(torch.tensor([[loaded.tokenizer.eot, *part[:-1]]])).float()[0]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(part), reduction="sum"))
    return total / math.log(2)


if __name__ == "__main__":
    sys.exit(main())
