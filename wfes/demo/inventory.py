"""The demo's workflows: `stdlib-inventory`, and its child `stdlib-report`.

The handler finds the modules, maps a step over them (a package's step has an inner step for each of its files), waits
a moment, asks a person, and lets a child render and write the report. Killed anywhere, it goes on where it was.
"""

from __future__ import annotations

import asyncio
import platform

from pydantic import BaseModel

from wfes import Step, workflow
from wfes.demo.library import Facts, Source, dotted, find_modules, read_file, together
from wfes.demo.report import rendered, write_report

CONCURRENCY = 8
FILES_AT_ONCE = 4


class Order(BaseModel):
    """What is asked for: an inventory of the library in `folder`, written to the file `report`."""

    folder: str
    report: str


class Totals(BaseModel):
    """The inventory's recorded state."""

    modules: int = 0
    files: int = 0
    lines: int = 0
    functions: int = 0
    classes: int = 0


class Findings(BaseModel):
    """What the child writes a report of."""

    report: str
    python: str
    folder: str
    facts: list[Facts]


class Report(BaseModel):
    """A report that was written."""

    path: str
    bytes: int


class Inventory(BaseModel):
    """The result."""

    report: Report
    totals: Totals


@workflow(name="stdlib-report")
async def stdlib_report(findings: Findings, step: Step) -> Report:
    """Renders the inventory as Markdown and writes it."""
    text = await step("render", rendered, findings.facts, findings.python, findings.folder)
    size = await step("write", write_report, findings.report, text)
    return Report(path=findings.report, bytes=size)


@workflow(name="stdlib-inventory", requests={"approval": bool}, state=Totals)
async def stdlib_inventory(order: Order, step: Step, state: Totals) -> Inventory:
    """Takes stock of the Python standard library, and writes a report once somebody approves."""
    sources = await step("find modules", find_modules, order.folder)
    await step.progress(f"{len(sources)} modules found", percent=5)

    async def take_stock(source: Source) -> Facts:
        if not source.is_package:
            return await asyncio.to_thread(read_file, order.folder, source.files[0])
        room = asyncio.Semaphore(FILES_AT_ONCE)

        async def one(file: str) -> Facts:
            async with room:
                return await step(dotted(file), read_file, order.folder, file)

        return together(source.name, await asyncio.gather(*map(one, source.files)))

    facts = await step.map("modules", sources, take_stock, concurrency=CONCURRENCY, key=_name)
    state.modules = len(facts)
    state.files = sum(module.files for module in facts)
    state.lines = sum(module.lines for module in facts)
    state.functions = sum(module.functions for module in facts)
    state.classes = sum(module.classes for module in facts)
    await step.progress(f"{state.lines:,} lines in {state.files} files", percent=90)
    await step.sleep("take a breath", "1s")
    question = f"Write a report on {state.modules} modules with {state.lines:,} lines?"
    if not await step.request("approval", question):
        step.abort("the report was not wanted")
    python = await step("python version", platform.python_version)
    findings = Findings(report=order.report, python=python, folder=order.folder, facts=facts)
    report = await step.execute_workflow("report", stdlib_report, findings)
    await step.progress(f"{report.path} written", percent=100)
    return Inventory(report=report, totals=Totals(**state.model_dump()))


def _name(source: Source) -> str:
    return source.name


WORKFLOWS = (stdlib_inventory, stdlib_report)
