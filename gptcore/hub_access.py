"""What goes wrong at the Hugging Face hub, in one line each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def endpoint() -> str:
    """The hub's address, `$HF_ENDPOINT` or its own."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


@contextmanager
def asking_hub(what: str, revision: str | None, otherwise: str = "", address: str | None = None) -> Iterator[None]:
    """Inside, huggingface_hub's errors become a ValueError that names `what`.

    otherwise: what works without the hub, told where it cannot be reached. address: of a mirror that is asked instead.
    """
    from huggingface_hub import errors

    at = address or endpoint()
    try:
        yield
    except errors.GatedRepoError as error:
        raise ValueError(f"{what} is gated at {at}: accept its terms and set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{what} has no revision {revision!r} at {at}") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"{what} not found at {at} (a private one needs HF_TOKEN)") from error
    except errors.HFValidationError as error:
        raise ValueError(f"{what} is neither an id of the hub nor a local folder") from error
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined] # of whichever client it uses
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{what}: cannot reach {at}: {reason}{otherwise}") from error
