"""What is recorded of the code that runs: the name that a program's module is imported by later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from wfes import Step, workflow
from wfes.handler.difference import code_of

@workflow
async def buy(step: Step) -> None: ...

if __name__ == "__main__":
    print(code_of(buy).get("module"))
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["shop.py"], "shop"),
        (["-m", "pack.orders"], "pack.orders"),
        (["-m", "pack"], "pack.__main__"),
        (["a-b.py"], "None"),
    ],
    ids=["file", "in a package", "package", "no name"],
)
def test_the_module_of_a_program(tmp_path: Path, command: list[str], module: str) -> None:
    (tmp_path / "pack").mkdir()
    for name in ("shop.py", "a-b.py", "pack/orders.py", "pack/__main__.py"):
        (tmp_path / name).write_text(PROGRAM)
    # As a user has it: `-m` finds what lies in the current folder.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert ran.stdout.strip() == module
