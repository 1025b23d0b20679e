"""What mypy and pyright make of user code: the types they infer and the mistakes they find.

Each file in `samples` says on its lines what both checkers must answer: `# T: int` after `reveal_type(...)`, `# E`
where an error is due. Both run strictly on all samples; any other error, and any answer that is missing, fails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wfes.errors

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.py"))
CHECKER_SECONDS_MAX = 280

Answers = dict[tuple[str, int], str]
"""File name and line → the revealed type, or "error"."""

_MARK = re.compile(r"#\s(?:T:\s(?P<type>.+)|(?P<error>E))$")
_MYPY = re.compile(
    r"^(?P<file>[^:\n]+):(?P<line>\d+)(?::\d+)?: (?P<kind>error|note): (?P<text>.*)$", re.MULTILINE
)
_REVEALED = re.compile(r'(?:Revealed type is|Type of .*? is) "(?P<type>.*)"$', re.DOTALL)
_MODULE = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")


def expected() -> Answers:
    answers: Answers = {}
    for sample in SAMPLES:
        for number, line in enumerate(sample.read_text().splitlines(), start=1):
            mark = _MARK.search(line)
            if mark is not None:
                answers[sample.name, number] = mark["type"] or "error"
    return answers


def spelled(revealed: str) -> str:
    """A revealed type without module names, which only mypy prints."""
    return _MODULE.sub("", revealed)


def source_paths() -> list[str]:
    """Where the checkers look for wfes, if that is not where they look for packages anyway."""
    root = Path(wfes.errors.__file__).resolve().parents[2]
    return [] if root.name == "site-packages" else [str(root), str(root / "projections")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mypy_infers_the_types(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = True\nexplicit_package_bases = True\nnamespace_packages = True\n")
    cache = request.config.cache.mkdir("mypy")  # kept from one run to the next
    command = ["mypy", "--config-file", str(config), "--cache-dir", str(cache), "--no-error-summary"]
    output = _run([*command, "samples"], tmp_path)
    answers: Answers = {}
    problems: list[str] = []
    for found in _MYPY.finditer(output):
        if Path(found["file"]).parent.name != "samples":
            continue
        name, line = Path(found["file"]).name, int(found["line"])
        revealed = _REVEALED.search(found["text"])
        if revealed is not None:
            answers[name, line] = spelled(revealed["type"])
        elif found["kind"] == "error":
            answers[name, line] = "error"
            problems.append(found[0])
    _compare(answers, problems or [output])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pyright_infers_the_types(tmp_path: Path) -> None:
    project = tmp_path / "pyrightconfig.json"
    settings = {
        "include": ["samples"],
        "extraPaths": source_paths(),
        "typeCheckingMode": "strict",
        "reportUnusedCoroutine": "none",
        "reportUnusedExpression": "none",
    }
    project.write_text(json.dumps(settings))
    command = ["pyright", "--project", str(project), "--pythonpath", sys.executable, "--outputjson"]
    output = _run(command, tmp_path)
    answers: Answers = {}
    problems: list[str] = []
    for found in json.loads(output)["generalDiagnostics"]:
        name, line = Path(found["file"]).name, found["range"]["start"]["line"] + 1
        revealed = _REVEALED.search(found["message"])
        if found["severity"] == "information" and revealed is not None:
            answers[name, line] = spelled(revealed["type"])
        elif found["severity"] == "error":
            answers[name, line] = "error"
            problems.append(f"{name}:{line}: {found['message']}")
    _compare(answers, problems)


def _run(command: list[str], folder: Path) -> str:
    """The output of a checker, whose exit code says only that it found something, as it should.

    It runs on a copy outside the checkout, lest it takes the sources there for an installed package's.
    """
    (folder / "samples").mkdir()
    for sample in SAMPLES:
        shutil.copy(sample, folder / "samples")
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "MYPYPATH": os.pathsep.join(source_paths())},
        capture_output=True,
        text=True,
        timeout=CHECKER_SECONDS_MAX,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def _compare(answers: Answers, problems: list[str]) -> None:
    wanted = expected()
    lines = [
        f"{name}:{line}: expected {wanted.get((name, line), 'nothing')}, got {answers.get((name, line), 'nothing')}"
        for name, line in sorted(wanted.keys() | answers.keys())
        if wanted.get((name, line)) != answers.get((name, line))
    ]
    assert not lines, "\n".join([*lines, "", "The checker's errors:", *problems])
