"""A small client of the Debug Adapter Protocol, as an editor has one: requests, responses and events over a socket."""

from __future__ import annotations

import json
import socket
from collections import deque
from contextlib import suppress
from typing import Any

SECONDS_MAX = 20.0


class DapClient:
    """One connection to a debug adapter.

    Args:
        port: where the adapter listens, on this machine.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS_MAX)
        self._file = self._socket.makefile("rwb")
        self._number = 0
        self._events: deque[dict[str, Any]] = deque()

    def close(self) -> None:
        """Hangs up."""
        with suppress(OSError):
            self._file.close()
        self._socket.close()

    def send(self, command: str, **arguments: Any) -> int:
        """Sends a request; its number."""
        self._number += 1
        message = {"seq": self._number, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self._file.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._file.flush()
        return self._number

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer; the body of that.

        Raises:
            AssertionError: it was refused.
        """
        return self.answer(self.send(command, **arguments))

    def answer(self, number: int) -> dict[str, Any]:
        """Waits for the answer to a request."""
        while True:
            message = self._read()
            if message["type"] == "response" and message["request_seq"] == number:
                assert message["success"], message
                body: dict[str, Any] = message.get("body") or {}
                return body

    def event(self, name: str) -> dict[str, Any]:
        """Waits for an event of this name; its body. Events before it are passed over."""
        while True:
            while self._events:
                message = self._events.popleft()
                if message["event"] == name:
                    body: dict[str, Any] = message.get("body") or {}
                    return body
            self._read()

    def _read(self) -> dict[str, Any]:
        length = 0
        while line := self._file.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert length, "the adapter hung up"
        message: dict[str, Any] = json.loads(self._file.read(length))
        if message["type"] == "event":
            self._events.append(message)
        return message

    # -- what an editor does -----------------------------------------------------------------------------------------

    def attach(self, **options: Any) -> None:
        """Attaches to the program, up to the point where it goes on."""
        self.request(
            "initialize", adapterID="debugpy", clientID="test", pathFormat="path", linesStartAt1=True
        )
        attached = self.send("attach", justMyCode=True, **options)
        self.event("initialized")
        self.request("configurationDone")
        self.answer(attached)

    def stopped(self) -> tuple[int, list[dict[str, Any]]]:
        """Waits until the program has stopped: the thread, and its frames, the innermost first."""
        thread = int(self.event("stopped")["threadId"])
        frames: list[dict[str, Any]] = self.request("stackTrace", threadId=thread)["stackFrames"]
        return thread, frames

    def locals(self, frame: dict[str, Any]) -> dict[str, str]:
        """The local variables of a frame, as text."""
        scopes = self.request("scopes", frameId=frame["id"])["scopes"]
        reference = next(scope["variablesReference"] for scope in scopes if scope["name"] == "Locals")
        found = self.request("variables", variablesReference=reference)["variables"]
        return {variable["name"]: variable["value"] for variable in found}
