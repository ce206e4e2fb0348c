"""Stage by stage: whether a rebuilt run has the recorded digests, and what may have made the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from gptcore.plan import difference
from gptcore.reproduction import Difference
from gptcore.stages import key_of
from gptcore.store import Manifest, output_digest

if TYPE_CHECKING:
    from gptcore.adapters.mlflow_record import RecordedStage

Word = Literal["agrees", "differs", "not run"]
NO_REASON = "same key, code, libraries and machine: the stage gives other bytes each time, or its record was changed"


@dataclass(frozen=True)
class Verdict:
    """One stage."""

    stage: str
    verdict: Word
    recorded: str
    """Output digest in MLflow."""
    found: str | None
    """Output digest of the rebuilt stage."""
    reasons: tuple[str, ...] = ()
    """Likely ones, of a stage that differs."""
    files: tuple[str, ...] = ()
    """Result files with other bytes."""

    def row(self) -> dict[str, Any]:
        """For --json."""
        values = asdict(self)
        values.pop("stage")
        return {**values, "reasons": list(self.reasons), "files": list(self.files)}


def verdicts(
    order: Sequence[str],
    recorded: Mapping[str, RecordedStage],
    found: Mapping[str, Manifest],
    differences: Sequence[Difference],
) -> list[Verdict]:
    """Every recorded stage in order. found: the manifests of the rebuilt stages."""
    return [_verdict(name, recorded[name], found.get(name), differences) for name in order if name in recorded]


def _verdict(name: str, then: RecordedStage, now: Manifest | None, differences: Sequence[Difference]) -> Verdict:
    contradictions = contradictions_of(then)
    if now is None:
        return Verdict(name, "not run", then.digest, None, contradictions)
    if now.output_digest == then.digest and not contradictions:
        return Verdict(name, "agrees", then.digest, now.output_digest)
    results = [
        {n: record.sha256 for n, record in manifest.files.items() if record.result} for manifest in (then.manifest, now)
    ]
    files = tuple(sorted(n for n in {**results[0], **results[1]} if results[0].get(n) != results[1].get(n)))
    reasons = contradictions or _reasons(name, then.manifest, now, differences)
    return Verdict(name, "differs", then.digest, now.output_digest, reasons, files)


def contradictions_of(stage: RecordedStage) -> tuple[str, ...]:
    """Where a stage's record does not agree with itself: it was changed, or stands for another stage's bytes."""
    manifest, own = stage.manifest, stage.manifest.output_digest
    pairs = {
        "the pipeline run's tag says": (own, stage.digest),
        "the stage run's tag says": (own, stage.own_digest or own),
        "the files in MANIFEST.json give": (own, output_digest(manifest.files)),
        "the parts in MANIFEST.json give the key": (manifest.key, key_of(manifest.identity)),
    }
    return tuple(
        f"the record contradicts itself: {words} {other[:12]}, MANIFEST.json says {said[:12]}"
        for words, (said, other) in pairs.items()
        if said != other
    )


def _reasons(name: str, then: Manifest, now: Manifest, differences: Sequence[Difference]) -> tuple[str, ...]:
    """Why a stage gave other bytes, as far as can be told."""
    upstream = [n for n, digest in now.identity["inputs"].items() if then.identity["inputs"].get(n) != digest]
    if upstream:
        return (f"reads {', '.join(upstream)}, which differs",)
    reasons = [difference(then.identity, now.identity)] if then.key != now.key else []
    for d in differences:
        if d.kind == "code" and d.what == name:
            reasons.append(f"its code changed; {d.way_out}" if d.way_out else "its code changed")
        elif (d.kind in ("machine", "pages", "unpinned") and name in d.stages) or (
            d.kind == "library" and d.what not in now.identity["libraries"]
        ):
            reasons.append(f"{d.what} {d.recorded} -> {d.here}")
    return tuple(reasons) or (NO_REASON,)


def first_difference(found: Sequence[Verdict]) -> Verdict | None:
    """The first stage that differs."""
    return next((verdict for verdict in found if verdict.verdict == "differs"), None)
