"""Message catalogues of gettext, .po: a translated message a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from gptcore.text.documents import Problem


def read_po(file: IO[bytes], name: str) -> Iterator[tuple[str, dict[str, Any]] | Problem]:
    """Rows of `source`, `target` and `context`; left out: fuzzy and empty messages, and plural forms but the first."""
    from babel.messages.pofile import PoFileError, read_po

    try:
        catalogue = read_po(file, abort_invalid=True)
    except (PoFileError, ValueError, LookupError) as error:
        yield Problem("unparsable", f"{name} ({(str(error).splitlines() or [type(error).__name__])[0]})", name)
        return
    for message in catalogue:
        source, target = (part[0] if isinstance(part, list | tuple) else part for part in (message.id, message.string))
        if source and target and not message.fuzzy:
            where = f"{name}:{message.lineno or 0}"
            yield where, {"source": source, "target": target, "context": message.context or ""}
