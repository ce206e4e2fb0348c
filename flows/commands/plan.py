"""`gptmill plan`: torch, Prefect and MLflow are never imported."""

from __future__ import annotations

import argparse
import json
import sys

from flows.commands.failures import refuse
from gptcore.plan import StagePlan, last_resolved, make_plan, resolve_sources
from gptcore.presets import ConfigError, load_preset
from gptcore.store import Store
from tasks.home import home


def main(options: argparse.Namespace) -> int:
    """Print every stage's state."""
    at = home()
    try:
        preset = load_preset(options.preset, options.overrides)
        sources = resolve_sources(preset, at) if options.refresh else last_resolved(preset, at)
    except (ConfigError, ValueError, OSError) as problem:
        return refuse(problem)
    plan = make_plan(preset, Store(at / "store"), sources)
    to = sys.stderr if options.json else sys.stdout
    print(table(plan), file=to)
    if sources is not None and not options.refresh:
        print("sources as last resolved; --refresh looks at them anew", file=to)
    if options.json:
        print(json.dumps({"preset": preset.name, "stages": {name: p.row() for name, p in plan.items()}}))
    return 0


def table(plan: dict[str, StagePlan]) -> str:
    """The plan as text."""
    lines = [f"{'stage':<24} {'state':<10} {'key':<9} {'expected':>9}  why"]
    for p in plan.values():
        expected = f"{p.expected_s:,.1f} s" if p.expected_s is not None else "?"
        lines.append(f"{p.name:<24} {p.status:<10} {p.key[:8] if p.key else '-':<9} {expected:>9}  {p.reason}")
    known = [p.expected_s for p in plan.values() if p.expected_s is not None]
    unknown = sum(p.expected_s is None for p in plan.values())
    lines.append(
        f"{'in all':<24} {'':<10} {'':<9} {sum(known):>7,.1f} s{f'  and {unknown} unknown' if unknown else ''}"
    )
    return "\n".join(lines)
