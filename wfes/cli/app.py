"""The `wfes` group and what its commands share: the log's URL, opening an engine, who acts, how errors look.

Invariants: what a `WfesError` says is one line on standard error that begins with `wfes:`, never a traceback; exit
code 0 means done, 1 that it did not complete, was refused or found nothing, 2 wrong usage. A command that only reads
or gives an order runs no instance (`worker=False`) and makes no log where there is none: an empty one in the wrong
folder would only hide the mistake.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from wfes import __version__
from wfes.actor import acting_as
from wfes.engine import Engine
from wfes.errors import WfesError
from wfes.errors.storage import without_password
from wfes.workflow import Workflow

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

URL_DEFAULT = "sqlite:///wfes.db"
_SQLITE_FILE = "sqlite:///"


class Failure(click.ClickException):
    """The command could not do it: one line on standard error, exit code 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        text = "; ".join(line.strip() for line in self.format_message().splitlines() if line.strip())
        click.echo(f"wfes: {text}", file=sys.stderr if file is None else file)


class Commands(click.Group):
    """A group whose commands may let any `WfesError` out, and a plain `ValueError` for what cannot be meant."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WfesError as error:
            raise Failure(str(error)) from error
        except ValueError as error:
            # Subclasses are not refusals of an argument: a bug should look like one.
            if type(error) is not ValueError:
                raise
            raise click.UsageError(str(error)) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        # In the order they are added: what is needed first comes first.
        return list(self.commands)


@dataclass(frozen=True, slots=True)
class Place:
    """Which log a command works on.

    Attributes:
        url: The log's URL.
        given: Whether `--url` named it; otherwise it is `$WFES_URL` or the default.
    """

    url: str
    given: bool = False

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return without_password(self.url)

    def command(self, *words: str) -> str:
        """A command line for this log, to be shown to the user."""
        return " ".join(
            ["wfes", *(["--url", _quoted(self.shown)] if self.given else []), *map(_quoted, words)]
        )

    def missing_file(self) -> Path | None:
        """The log's file, where the URL names one that does not exist."""
        if not self.url.startswith(_SQLITE_FILE):
            return None
        path = Path(self.url.removeprefix(_SQLITE_FILE))
        return None if path.exists() else path


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"wfes {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    metavar="URL",
    help=f"The log: sqlite:///path.db or postgresql://user@host/database. Default: $WFES_URL, else {URL_DEFAULT}.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def main(ctx: click.Context, url: str | None) -> None:
    """Durable workflows whose every action is an event on an append-only log.

    \b
    Exit codes: 0 done · 1 it did not complete, was refused or nothing was found · 2 wrong usage.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows its number instead of ending the program.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with suppress(ValueError, OSError):
                reconfigure(errors="backslashreplace")
    ctx.obj = Place(url or os.environ.get("WFES_URL") or URL_DEFAULT, given=url is not None)


def json_option(command: Command) -> Command:
    """Adds `--json`, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text for people.")(
        command
    )


def actor() -> str:
    """Whom the log names for what this process asks: `cli:` and the login name."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # no such user is known here, as in many containers
        return f"cli:uid-{os.getuid()}"


def perform(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine, everything in it asked for by `actor()`."""
    with acting_as(actor()):
        return asyncio.run(coroutine)


@asynccontextmanager
async def opened(
    place: Place,
    *,
    workflows: Iterable[Workflow[Any, Any]] = (),
    worker: bool = False,
    creates: bool = False,
    max_running: int = 1_000,
    name: str | None = None,
) -> AsyncGenerator[Engine]:
    """An open engine on the log.

    Args:
        place: Which log.
        workflows: What the engine knows.
        worker: Whether it runs instances in this process.
        creates: Whether a log is made where there is none.
        max_running: How many instances may be in memory.
        name: What the engine is called.

    Raises:
        Failure: There is no log there and none is to be made.
        ValueError: The URL cannot be one of a log.
        click.UsageError: A workflow's definition is not complete.
        LogUnavailable: The log cannot be opened.
    """
    missing = None if creates else place.missing_file()
    if missing is not None:
        raise Failure(
            f"there is no log at {missing}: --url (or $WFES_URL) names another one; "
            "`wfes run`, `wfes start` and `wfes worker` make a new one"
        )
    engine = Engine(place.url, workflows=list(workflows), worker=worker, max_running=max_running, name=name)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(engine)
        except TypeError as error:  # an annotation of a workflow's handler that names nothing
            raise click.UsageError(str(error)) from error
        yield engine


def _quoted(word: str) -> str:
    return shlex.quote(word)


def joined(words: Sequence[str]) -> str:
    """Names for a message: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
