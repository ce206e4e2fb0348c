"""`gptmill plan`: torch, Prefect and MLflow are never imported."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping

from flows.commands.failures import refuse
from flows.commands.plan_costs import block, expected
from gptcore.cost import StageCost, costs, model_row, warnings
from gptcore.home import home
from gptcore.plan import StagePlan, last_resolved, make_plan, resolve_sources
from gptcore.presets import ConfigError, load_preset
from gptcore.speed import this_machine
from gptcore.store import Store


def main(options: argparse.Namespace) -> int:
    """Print every stage's state."""
    at = home()
    try:
        preset = load_preset(options.preset, options.overrides)
        sources = resolve_sources(preset, at) if options.refresh else last_resolved(preset, at)
    except (ConfigError, ValueError, OSError) as problem:
        return refuse(problem)
    plan = make_plan(preset, Store(at / "store"), sources)
    machine = this_machine(preset.runtime)
    cost, model = costs(preset, plan, machine), model_row(preset)
    disk = next(folder for folder in (at, *at.parents) if folder.exists())
    warned = warnings(preset, cost, machine, shutil.disk_usage(disk).free)
    to = sys.stderr if options.json else sys.stdout
    print(table(plan, cost), file=to)
    if sources is not None and not options.refresh:
        print("sources as last resolved; --refresh looks at them anew", file=to)
    print(f"\n{block(preset, model, cost, warned)}", file=to)
    if options.json:
        answer = {
            "preset": preset.name,
            "stages": {name: p.row() for name, p in plan.items()},
            "model": model,
            "cost": {name: c.row() for name, c in cost.items()},
            "warnings": warned,
        }
        print(json.dumps(answer))
    return 0


def table(plan: dict[str, StagePlan], cost: Mapping[str, StageCost]) -> str:
    """The plan as text; ~ marks a time that was estimated, not measured."""
    lines = [f"{'stage':<24} {'state':<10} {'key':<9} {'expected':>9}  why"]
    known, unknown, mark = 0.0, 0, ""
    for p in plan.values():
        shown = f"{p.expected_s:,.1f} s" if p.expected_s is not None else "?"
        seconds = p.expected_s
        if seconds is None and p.name in cost and cost[p.name].expected_s is not None:
            seconds, shown, mark = cost[p.name].expected_s, expected(cost[p.name]), "~"
        known, unknown = known + (seconds or 0.0), unknown + (seconds is None)
        lines.append(f"{p.name:<24} {p.status:<10} {p.key[:8] if p.key else '-':<9} {shown:>9}  {p.reason}")
    total = f"{mark}{known:,.1f} s"
    lines.append(f"{'in all':<24} {'':<10} {'':<9} {total:>9}{f'  and {unknown} unknown' if unknown else ''}")
    return "\n".join(lines)
