"""The command line: `wfes COMMAND`.

One module per group of commands; `app` owns what they share, and `main` is the entry point.
"""

from __future__ import annotations

from wfes.cli.app import main
from wfes.cli.changing import cancel, pause, provide, publish, resume, retry, send, set_timeout
from wfes.cli.debugging import debug, export
from wfes.cli.demo import demo
from wfes.cli.diffing import diff_command
from wfes.cli.following import history, tail
from wfes.cli.forking import fork_command
from wfes.cli.insights import activity, inbox, stats, timers
from wfes.cli.outbox import outbox
from wfes.cli.projections import projections
from wfes.cli.prune import prune
from wfes.cli.reading import ls, requests, show
from wfes.cli.replaying import replay_command
from wfes.cli.running import run, start, worker
from wfes.cli.schedules import schedules
from wfes.cli.verify import verify
from wfes.cli.workers import workers

__all__ = ["main"]

for _command in (
    run,
    worker,
    start,
    ls,
    show,
    history,
    diff_command,
    fork_command,
    tail,
    requests,
    provide,
    send,
    publish,
    cancel,
    pause,
    resume,
    retry,
    set_timeout,
    replay_command,
    schedules,
    stats,
    activity,
    timers,
    inbox,
    outbox,
    debug,
    export,
    prune,
    verify,
    projections,
    workers,
    demo,
):
    main.add_command(_command)
