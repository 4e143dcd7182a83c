# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP, and other lines of text from and to a QEMU.

QEMU's own client, qemu.qmp, is neither in its tree nor in Debian 12, and is
built on asyncio. Here one thread waits for several lines at once, up to a
deadline, and goes on with another process after a migration.
"""

import contextlib
import json
import select
import socket
import time
from typing import Any, Callable, Dict, List

from xhciseries.ui import Error

Message = Dict[str, Any]

#: Seconds for an answer; a bound, not a delay.
TIMEOUT = 60


class Failure(Error):
    """Something the test looks at is not as it must be."""


class Dead(Failure):
    """QEMU or the guest no longer answers: nothing more can be tested."""


class Gone(Dead):
    """QEMU has ended; ending() and last_words() say how."""


class Lines:
    """Lines from a socket, each waited for up to a deadline.

    Args:
        what: what the line is, for messages
    """

    def __init__(self, sock: socket.socket, what: str) -> None:
        self.sock = sock
        self.what = what
        self.buffer = b""

    def _receive(self) -> None:
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise Gone(f"{self.what} closed: QEMU is gone")
        self.buffer += data

    def _first(self) -> str:
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")

    def get(self, deadline: float) -> str:
        """The next line. Raises TimeoutError at the deadline, of time.monotonic()."""
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError
            self._receive()
        return self._first()

    def take(self) -> List[str]:
        """What has come on a socket that select() found readable."""
        self._receive()
        found = []
        while b"\n" in self.buffer:
            found.append(self._first())
        return found

    def go_on(self, sock: socket.socket) -> None:
        """With another socket, as soon as this one is read to its end."""
        with contextlib.suppress(ConnectionError):
            while data := self.sock.recv(65536):
                self.buffer += data
        self.sock.close()
        self.sock = sock

    def put(self, line: str) -> None:
        """Send a line."""
        try:
            self.sock.sendall(line.encode() + b"\n")
        except OSError as e:
            raise Gone(f"{self.what}: {e}") from e


class Qmp(Lines):
    """A QMP monitor; `events` has those that came so far.

    Args:
        timeout: seconds for an answer
    """

    def __init__(self, sock: socket.socket, timeout: float = TIMEOUT) -> None:
        super().__init__(sock, "QMP")
        self.timeout = timeout
        self.events: List[Message] = []

    def send(self, command: str, **arguments: Any) -> None:
        """Send a command, and do not wait."""
        self.put(json.dumps({"execute": command, "arguments": arguments}))

    def message(self, enough: Callable[[Message], bool], timeout: float, what: str) -> Message:
        """The next one that is enough; seconds until that is too late."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                message = json.loads(self.get(deadline))
            except TimeoutError:
                raise Dead(f"QMP: no {what} in {timeout:g} s") from None
            if "event" in message:
                self.events.append(message)
            if enough(message):
                return message

    def greet(self) -> None:
        """Begin; before that QEMU takes no other command."""
        self.message(lambda m: "QMP" in m, self.timeout, "greeting")
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """What a command returns. Raises Failure with its error."""
        self.send(command, **arguments)
        reply = self.message(lambda m: "return" in m or "error" in m, self.timeout,
                             f"answer to {command}")
        if "error" in reply:
            raise Failure(f"QMP {command}: {reply['error']['desc']}")
        return reply["return"]

    def wait_event(self, name: str, since: int, timeout: float = TIMEOUT,
                   **data: Any) -> None:
        """Until one of this name, with this in its data, comes after the first
        SINCE events."""
        def is_it(message: Message) -> bool:
            return (message.get("event") == name
                    and data.items() <= message.get("data", {}).items())

        if not any(map(is_it, self.events[since:])):
            self.message(is_it, timeout, f"event {name}")

    def drain(self, timeout: float = TIMEOUT) -> None:
        """Take what QEMU still said before it ended."""
        with contextlib.suppress(Dead):
            self.message(lambda m: False, timeout, "end")
