"""Every example in a docstring runs: `>>>` as a doctest, `Example:` as the code of a handler."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import wfes
import wfes_projections
from wfes import Step, testing, workflow

EXAMPLE = re.compile(r"^Examples?:\n((?:(?: +.*)?\n)+)", re.MULTILINE)
CODE = re.compile(r"``(.+?)``", re.DOTALL)


def _modules() -> list[ModuleType]:
    found: list[ModuleType] = []
    for package in (wfes, wfes_projections):
        found.append(package)
        inside = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        found += [importlib.import_module(at.name) for at in inside if not at.name.endswith("__main__")]
    return found


def _doctests() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for module in _modules() for test in finder.find(module) if test.examples]


def _examples() -> Iterator[tuple[str, str]]:
    for module in _modules():
        owners: list[tuple[str, object]] = [(module.__name__, module)]
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__ and (
                inspect.isclass(value) or inspect.isfunction(value)
            ):
                owners.append((f"{module.__name__}.{name}", value))
                members = vars(value).items() if inspect.isclass(value) else ()
                owners += [(f"{module.__name__}.{name}.{m}", f) for m, f in members if inspect.isfunction(f)]
        for name, owner in owners:
            for block in EXAMPLE.findall((inspect.getdoc(owner) or "") + "\n"):
                if ">>>" not in block:
                    yield name, textwrap.dedent(block)


@pytest.mark.parametrize("example", _doctests(), ids=lambda test: test.name)
def test_doctests(example: doctest.DocTest) -> None:
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert runner.run(example, out=told.append).failed == 0, "".join(told)


@pytest.mark.parametrize(("name", "block"), list(_examples()), ids=lambda value: value.strip())
def test_examples_run_in_a_handler(name: str, block: str) -> None:
    code = "\n".join(CODE.findall(block)) or block
    compiled = compile(code, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)

    async def look_up(id: str) -> dict[str, int]:
        return {id: 3}

    class Order:
        id = "o-1"

    @workflow
    async def reader(step: Step) -> list[str]:
        names: dict[str, Any] = {"step": step, "order": Order, "look_up": look_up}
        before = set(names)
        made = eval(compiled, names)
        if inspect.isawaitable(made):
            await made
        return sorted(set(names) - before - {"__builtins__"})

    async def main() -> None:
        async with testing.engine([reader]) as env:
            run = await reader.start()
            assert await env.until(run.result()), "the example gives nothing"

    asyncio.run(main())


def test_there_are_examples() -> None:
    assert len(_doctests()) >= 10
    assert any(name == "wfes.handler.step.Step" for name, _ in _examples())
