"""Bundles: everything that is needed to debug an instance elsewhere, in one file.

A bundle is a zip file: ``manifest.json``; ``history.jsonl``, one stored event a line, byte by byte as the log has it;
``blobs/SHA256``, the large values; ``source/…``, the handler's module and the modules beside it that it imported.

Invariants: reading a bundle runs nothing of it; a history that does not hang together by its chain of hashes, or a
blob that is not what its name says, is refused.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
import zipfile
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from wfes.core import chain
from wfes.core.events import WorkflowStarted
from wfes.errors import WfesError
from wfes.timetravel.frames import LIBRARIES
from wfes.timetravel.recording import Recording
from wfes.version import __version__

if TYPE_CHECKING:
    from wfes.definition import Workflow
    from wfes.log.port import StoredRow

FORMAT = "wfes-bundle"
VERSION = 1
SOURCE_FILES_MAX = 500
SOURCE_BYTES_MAX = 16 * 1024 * 1024
UNPACKED_BYTES_MAX = 2 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What code a history was looked at with.

    Attributes:
        module: the handler's module, or None where it was not at hand.
        digest: the SHA-256 of the handler's source, in hex.
        python: the Python that exported it.
        wfes: the wfes that did.
        packages: the versions of installed packages, by name.
        sources: the sources of modules, by path below the folder they are imported from.
    """

    module: str | None = None
    digest: str | None = None
    python: str = ""
    wfes: str = ""
    packages: Mapping[str, str] = field(default_factory=dict[str, str])
    sources: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read.

    Attributes:
        recording: the instance.
        code: what it was exported with.
    """

    recording: Recording
    code: Code


# -- writing ---------------------------------------------------------------------------------------------------------


def code_here(workflow: Workflow[Any, Any] | None) -> Code:
    """The code of this process, with the source of a workflow's handler where it is known."""
    packages = {
        str(found.metadata["Name"]): found.version
        for found in importlib.metadata.distributions()
        if found.metadata["Name"]
    }
    return Code(
        module=None if workflow is None else workflow.module,
        digest=None if workflow is None else workflow.digest,
        python=platform.python_version(),
        wfes=__version__,
        packages=dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        sources={} if workflow is None else dict(_sources(workflow.module)),
    )


def _sources(module: str) -> Iterator[tuple[str, str]]:
    """The module's source, and those of loaded modules that lie in the same folder or below it."""
    own = sys.modules.get(module)
    file = None if own is None else _file(own)
    if file is None:
        return
    is_package = file.name == "__init__.py"
    root = file.parents[module.count(".") + (1 if is_package else 0)]
    found: dict[str, Path] = {str(PurePosixPath(file.relative_to(root))): file}
    for other in list(sys.modules.values()):
        path = _file(other)
        if path is None or root not in path.parents or str(path).startswith(LIBRARIES):
            continue
        if other.__name__.partition(".")[0] == "wfes" or other.__name__ == "__main__":
            continue
        found.setdefault(str(PurePosixPath(path.relative_to(root))), path)
    size = 0
    for name, path in list(found.items())[:SOURCE_FILES_MAX]:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        size += len(text)
        if size > SOURCE_BYTES_MAX:
            return
        yield name, text


def _file(module: ModuleType) -> Path | None:
    name = getattr(module, "__file__", None)
    if not isinstance(name, str) or not name.endswith(".py"):
        return None
    path = Path(name).absolute()
    return path if path.is_file() else None


def write_bundle(path: Path, recording: Recording, code: Code) -> None:
    """Writes a bundle; a file of that name is replaced at once, when the new one is complete.

    Raises:
        WfesError: it cannot be written.
    """
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "instance": recording.id,
        "workflow": recording.started.workflow,
        "events": len(recording.rows),
        "codes": recording.codes,
        "module": code.module,
        "digest": code.digest,
        "python": code.python,
        "wfes": code.wfes,
        "packages": dict(code.packages),
    }
    partial = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False))
            file.writestr("history.jsonl", "".join(map(_line, recording.rows)))
            for digest, content in recording.blobs.items():
                file.writestr(f"blobs/{digest}", content)
            for name, text in code.sources.items():
                file.writestr(f"source/{name}", text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise WfesError(f"the bundle cannot be written to {path}: {error.strerror or error}") from error


def _line(row: StoredRow) -> str:
    position, _, version, topic, state = row
    stored = b64encode(state).decode()
    return json.dumps({"version": version, "position": position, "type": topic, "stored": stored}) + "\n"


# -- reading ---------------------------------------------------------------------------------------------------------


def _refused(path: Path, detail: str) -> WfesError:
    return WfesError(f"{path} is no bundle that can be read: {detail}")


def read_bundle(path: Path) -> Bundle:
    """Reads a bundle; nothing in it is run.

    Raises:
        WfesError: it is none, it is damaged, or its history was changed.
        UnknownEvent: a newer release wrote it.
    """
    try:
        with zipfile.ZipFile(path) as file:
            if sum(info.file_size for info in file.infolist()) > UNPACKED_BYTES_MAX:
                raise _refused(path, f"it holds more than {UNPACKED_BYTES_MAX:,} bytes")
            parts = {info.filename: file.read(info) for info in file.infolist() if not info.is_dir()}
    except (OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise _refused(path, str(error)) from error
    try:
        manifest = _manifest(path, parts)
        recording = _recording(path, manifest, parts)
        return Bundle(recording, _code(path, manifest, parts))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, WfesError):
            raise
        raise _refused(path, f"{type(error).__name__}: {error}") from error


def _manifest(path: Path, parts: Mapping[str, bytes]) -> dict[str, Any]:
    if "manifest.json" not in parts or "history.jsonl" not in parts:
        raise _refused(
            path, "it has no manifest.json and history.jsonl; `wfes export ID --bundle FILE` makes one"
        )
    manifest = cast("dict[str, Any]", json.loads(parts["manifest.json"]))
    if manifest.get("format") != FORMAT:
        raise _refused(path, f"its format is {manifest.get('format')!r}, not {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise _refused(
            path,
            f"it is of version {manifest.get('version')!r} and this wfes reads version {VERSION}: a newer one wrote it",
        )
    return manifest


def _recording(path: Path, manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> Recording:
    id = str(manifest["instance"])
    rows: list[StoredRow] = []
    prev = chain.GENESIS
    for line in parts["history.jsonl"].splitlines():
        entry = json.loads(line)
        version, topic, state = (
            int(entry["version"]),
            str(entry["type"]),
            b64decode(entry["stored"], validate=True),
        )
        if version != len(rows) + 1:
            raise _refused(path, f"event {len(rows) + 1} is missing from its history")
        if state[: chain.SIZE] != prev:
            raise _refused(
                path, f"its history was changed: event {version} does not follow what stands before it"
            )
        rows.append((int(entry["position"]), id, version, topic, state))
        prev = chain.digest(id, version, topic, state)
    if len(rows) != manifest["events"] or not rows:
        raise _refused(path, f"it has {len(rows)} of {manifest['events']} events")
    if rows[0][3] != WorkflowStarted.topic:
        raise _refused(path, f"its history begins with {rows[0][3]}, not with an instance's start")
    blobs = {name.removeprefix("blobs/"): data for name, data in parts.items() if name.startswith("blobs/")}
    for digest, content in blobs.items():
        if hashlib.sha256(content).hexdigest() != digest:
            raise _refused(path, f"the value {digest} was changed")
    return Recording(id, rows, blobs)


def _code(path: Path, manifest: Mapping[str, Any], parts: Mapping[str, bytes]) -> Code:
    sources: dict[str, str] = {}
    for name, data in parts.items():
        if not name.startswith("source/"):
            continue
        inner = PurePosixPath(name.removeprefix("source/"))
        if inner.is_absolute() or ".." in inner.parts or inner.suffix != ".py" or "\\" in name:
            raise _refused(path, f"{name!r} is no place for a source file")
        sources[str(inner)] = data.decode()
    module = manifest.get("module")
    return Code(
        module=None if module is None else str(module),
        digest=manifest.get("digest"),
        python=str(manifest.get("python", "")),
        wfes=str(manifest.get("wfes", "")),
        packages={str(name): str(number) for name, number in dict(manifest.get("packages") or {}).items()},
        sources=sources,
    )


def unpack_sources(code: Code, folder: Path) -> None:
    """Writes a bundle's sources below a folder."""
    for name, text in code.sources.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def differences(code: Code, workflow: Workflow[Any, Any]) -> list[str]:
    """What this process has otherwise than the bundle, for people: what matters most first."""
    found: list[str] = []
    here = code_here(None)
    if code.digest is not None and code.digest != workflow.digest:
        found.append(f"the handler's source: {code.digest[:12]} in the bundle, {workflow.digest[:12]} here")
    for name, then, now in (("Python", code.python, here.python), ("wfes", code.wfes, here.wfes)):
        if then and then != now:
            found.append(f"{name}: {then} in the bundle, {now} here")
    for name, then in code.packages.items():
        installed = here.packages.get(name, "not installed")
        if name != "wfes" and then != installed:
            found.append(f"{name}: {then} in the bundle, {installed} here")
    return found
