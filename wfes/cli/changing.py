"""Commands that ask something of an instance or of whoever it concerns: `provide`, `send`, `cancel`, `pause`, …

Each returns once what was asked stands in the log; a worker, wherever it runs, acts on it. None of them needs the
workflow's code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import click

from wfes.cli.app import Place, json_option, opened, perform
from wfes.cli.finding import find_instance, find_request
from wfes.cli.schema import misfit
from wfes.cli.screen import Part, screen, status_part
from wfes.cli.values import DURATION, JSON, MOMENT, clock, short
from wfes.errors import InvalidData
from wfes.instance import Instance


async def _changed(place: Place, id: str, change: Callable[[Instance[Any]], Awaitable[Any]]) -> Instance[Any]:
    async with opened(place) as engine:
        instance = await find_instance(engine, id)
        await change(instance)
        await instance.refresh()
        return instance


def _report(instance: Instance[Any], did: str, as_json: bool, **more: Any) -> None:
    """Says what was done and how the instance stands now."""
    out = screen()
    if as_json:
        out.json({"id": instance.id, "workflow": instance.workflow, "status": instance.status, **more})
        return
    parts: list[Part] = [f"{did}: {instance.workflow} ", (instance.id, "strong"), ", now "]
    out.line(*parts, status_part(instance.status))


@click.command()
@click.argument("id")
@click.argument("request")
@click.argument("data", metavar="[JSON]", required=False)
@json_option
@click.pass_obj
def provide(place: Place, id: str, request: str, data: str | None, as_json: bool) -> None:
    """Answer an open data request.

    ID is the instance's and REQUEST the request's name; or ID is the request's own id (see `wfes requests`), and
    REQUEST may be left out. JSON may be @FILE, or - for standard input.
    """
    name, text = (None, request) if data is None else (request, data)
    value = JSON.convert(text, None, click.get_current_context())

    async def answer() -> dict[str, Any]:
        async with opened(place) as engine:
            found = await find_request(engine, id, name)
            problem = misfit(found.schema, value)
            if problem is not None:
                raise InvalidData(found.name, problem)
            await engine.provide(found.workflow, found, value)
            return {
                "request": found.id,
                "name": found.name,
                "instance": found.instance,
                "workflow": found.workflow,
            }

    done = perform(answer())
    out = screen()
    if as_json:
        out.json({**done, "data": value})
        return
    out.line(
        f"answered {done['name']!r} of {done['workflow']} ", (done["instance"], "strong"), f": {short(value)}"
    )


@click.command()
@click.argument("id")
@click.argument("event")
@click.argument("payload", metavar="[JSON]", type=JSON, required=False)
@click.option("--id", "event_id", metavar="ID", help="Makes the event count once, however often it is sent.")
@json_option
@click.pass_obj
def send(place: Place, id: str, event: str, payload: Any, event_id: str | None, as_json: bool) -> None:
    """Send an event to an instance.

    The instance keeps it until it listens for it. JSON is the payload; @FILE reads it, - takes standard input.
    """
    instance = perform(_changed(place, id, lambda it: it.send(event, payload, id=event_id)))
    _report(instance, f"sent {event!r}", as_json, event=event)


@click.command()
@click.argument("event")
@click.argument("payload", metavar="[JSON]", type=JSON, required=False)
@click.option(
    "--id", "event_id", metavar="ID", help="Makes the event count once, however often it is published."
)
@click.option("--key", help="Only for instances of this key.")
@json_option
@click.pass_obj
def publish(
    place: Place, event: str, payload: Any, event_id: str | None, key: str | None, as_json: bool
) -> None:
    """Publish an event to whoever it concerns.

    Every instance that listens for it gets it, and every workflow that names it in `on=` is started with it.
    """

    async def tell() -> None:
        async with opened(place) as engine:
            await engine.publish(event, payload, id=event_id, key=key)

    perform(tell())
    out = screen()
    if as_json:
        out.json({"event": event, "id": event_id, "key": key})
        return
    out.line("published ", (event, "strong"))


@click.command()
@click.argument("id")
@click.option("--reason", help="Why; recorded with it.")
@json_option
@click.pass_obj
def cancel(place: Place, id: str, reason: str | None, as_json: bool) -> None:
    """Cancel an instance.

    It is interrupted, may clean up, and ends as cancelled.
    """
    instance = perform(_changed(place, id, lambda it: it.cancel(reason)))
    _report(instance, "cancellation asked for", as_json)


@click.command()
@click.argument("id")
@click.option("--reason", help="Why; recorded with it.")
@json_option
@click.pass_obj
def pause(place: Place, id: str, reason: str | None, as_json: bool) -> None:
    """Hold an instance: it starts no new step."""
    instance = perform(_changed(place, id, lambda it: it.pause(reason)))
    _report(instance, "held", as_json)


@click.command()
@click.argument("id")
@json_option
@click.pass_obj
def resume(place: Place, id: str, as_json: bool) -> None:
    """Let a paused instance go on."""
    instance = perform(_changed(place, id, lambda it: it.resume()))
    _report(instance, "released", as_json)


@click.command()
@click.argument("id")
@json_option
@click.pass_obj
def retry(place: Place, id: str, as_json: bool) -> None:
    """Let a failed or timed-out instance go on.

    The step that failed it gets fresh attempts; what is recorded before it is not done again.
    """
    instance = perform(_changed(place, id, lambda it: it.retry()))
    _report(instance, "tried again", as_json)


@click.command("set-timeout")
@click.argument("id")
@click.option("--in", "in_", type=DURATION, metavar="DURATION", help="So long from now: 90s, 30m, 1h30m, 2d.")
@click.option("--at", type=MOMENT, metavar="MOMENT", help="At this moment, ISO 8601 with its zone.")
@json_option
@click.pass_obj
def set_timeout(place: Place, id: str, in_: int | None, at: datetime | None, as_json: bool) -> None:
    """Say when an instance times out.

    It does so then, not earlier, whatever was said before.
    """
    if (in_ is None) == (at is None):
        raise click.UsageError("give exactly one of --in DURATION and --at MOMENT")
    span = None if in_ is None else timedelta(microseconds=in_)

    instance = perform(_changed(place, id, lambda it: it.set_timeout(span, at)))
    when = f"in {span}" if at is None else f"at {clock(at)}"
    _report(instance, f"times out {when}", as_json)
