"""`orchestrai plan`: what `batch` would do."""

from __future__ import annotations

from typing import Any

from orchestrai import plan_text, text
from orchestrai.cli import files, render
from orchestrai.cli.options import (
    DeadlineOption,
    Format,
    FormatOption,
    InputOption,
    MaxCostOption,
    MaxTokensOption,
    ModelOption,
    NoReuseOption,
    PlatformOption,
    ProjectOption,
    PromptTemplateOption,
    SchemaOption,
    StrictOption,
    SystemOption,
    TagOption,
    TemperatureOption,
    TypeOption,
    call_options,
)
from orchestrai.cli.quota import show_windows, window_record
from orchestrai.cli.records import usd
from orchestrai.cli.running import NOTHING_RAN, SUCCEEDED, TASKS_FAILED
from orchestrai.orchestrator import Orchestrator
from orchestrai.plan import Plan


def plan(
    input: InputOption,
    prompt: PromptTemplateOption = None,
    type: TypeOption = None,
    platform: PlatformOption = None,
    strict: StrictOption = False,
    model: ModelOption = None,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    schema: SchemaOption = None,
    tag: TagOption = None,
    max_cost: MaxCostOption = None,
    deadline: DeadlineOption = None,
    no_reuse: NoReuseOption = False,
    format: FormatOption = Format.text,
    project: ProjectOption = None,
) -> int:
    """Show what `batch` would do, and send nothing.

    Who answers what, at what cost, out of which quota.
    """
    options = call_options(
        type, platform, strict, model, system, max_tokens, temperature, schema, tag, max_cost, deadline, no_reuse
    )
    with Orchestrator(project) as orchestrator:
        tasks = files.read_tasks(input, prompt, [finding.name for finding in orchestrator.findings])
        made = orchestrator.plan(tasks, prompt=prompt, **options)
    if format is Format.json:
        render.show_json(_record(made))
    else:
        _show(made)
    return SUCCEEDED if not made.unplaced else NOTHING_RAN if made.unplaced == len(made) else TASKS_FAILED


def _record(plan: Plan) -> dict[str, Any]:
    """Return a plan as an object: its sums, its quota, and a line for each task in input order."""
    return {
        "total_tasks": len(plan),
        "reused": plan.reused,
        "unplaced": plan.unplaced,
        "cost": {name: usd(amount) for name, amount in plan.cost._asdict().items()},
        "list_cost": usd(plan.list_cost),
        "gap": usd(plan.gap),
        "input_tokens": plan.tokens[0],
        "output_tokens": plan.tokens[1],
        "eta_s": plan.eta_s,
        "models": plan.models,
        "by_platform": [
            {"platform": platform, "model": model, "tier": tier, "tasks": tasks}
            for (platform, model, tier), tasks in plan.by_platform.items()
        ],
        "quota_after": [window_record(use) for use in plan.quota_after],
        "warnings": list(plan.warnings),
        "questions": [question.text for question in plan.questions],
        "excluded": dict(plan.excluded),
        "tasks": [
            {
                "index": line.index,
                "sample": line.sample,
                "platform": line.platform,
                "model": line.model,
                "tier": line.tier,
                "why": line.why,
                "input_tokens": line.input_tokens,
                "output_tokens": line.output_tokens,
                "cost": {name: usd(amount) for name, amount in line.cost._asdict().items()},
                "list_cost": usd(line.list_cost),
                "reused": line.reused,
            }
            for line in plan
        ],
    }


def _show(plan: Plan) -> None:
    """Print a plan: its sums, what a person should know, its quotas, its first and last tasks."""
    tasks = ", ".join([f"{text.count(len(plan))} in the file", *plan_text.places(plan)])
    render.show_facts([("tasks", tasks), *plan_text.plan_facts(plan)])
    for warning in plan.warnings:
        render.show_text(f"! {warning}")
    for question in plan.questions:
        render.show_text(f"? {question.text}")
    if plan.quota_after:
        print()
        show_windows(plan.quota_after, planned=True)
    if len(plan):
        print()
        render.show_table(plan_text.plan_rows(plan), plan_text.PLAN_TITLES, right={0, 4, 5}, prose={1, 2, 3})
    if plan.excluded:
        print()
        render.show_facts([(name, f"not asked: {text.excerpt(why, 200)}") for name, why in plan.excluded.items()])
