"""Everything of gptmill that is not orchestration.

import gptcore
model = gptcore.load("models:/quickstart-qa@champion")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptcore.loaded import load as load


def __getattr__(name: str) -> Any:
    """`load`, whose torch is wanted only where a model is used."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gptcore.loaded import load

    return load
