# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest with our /init, and the line to it."""

import collections
import os
import socket
import time
from typing import Callable, Deque, Dict, List, Optional, Sequence, TextIO, Tuple

from ..qemu import Qemu
from ..qmp import TIMEOUT, Dead, Failure, Lines

# Seconds; bounds, not delays: nothing waits longer than it takes.  A loaded
# machine that emulates needs room.
BOOT_TIMEOUT = 240
COMMAND_TIMEOUT = 180


class Answer:
    """What the guest says to a command; no status as long as it runs."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.output: List[str] = []
        self.status: Optional[int] = None


class VM(Qemu):
    """A guest with our /init, which takes commands on the second port."""

    def __init__(self, argv: Sequence[str], logdir: str) -> None:
        super().__init__(argv, logdir)
        self.talk = os.path.join(logdir, "control.log")
        #: (source, label, fields) as the guest saw them
        self.inputs: List[Tuple[str, str, List[str]]] = []
        self._log: Optional[TextIO] = None
        self._line: Optional[Lines] = None
        self._answers: Deque[Answer] = collections.deque()     # not complete, in order

    def start(self, incoming: Optional[str] = None) -> None:
        """Start it, with a new log of the control line the first time."""
        if not self._log:
            self._log = open(self.talk, "w", encoding="utf-8")
        super().start(incoming)

    def far_ends(self) -> Dict[str, socket.socket]:
        """The second serial port."""
        line, far = socket.socketpair()
        if self._line:
            self._line.go_on(line)
        else:
            self._line = Lines(line, "the guest's control line")
        return {"line": far}

    # The control line

    def _guest_line(self, deadline: float) -> str:
        """Take the next line, and return it.

        Input events are kept, and what is part of an answer is put there.
        """
        assert self._line and self._log, "not started"
        line = self._line.get(deadline)
        self._log.write(line + "\n")
        self._log.flush()
        source, *rest = line.split(" ")
        if source in ("evdev", "hidraw"):
            self.inputs.append((source, rest[0], rest[1:]))
        elif source == "=" and self._answers:
            self._answers[0].output.append(line[2:])
        elif source == "." and self._answers:
            self._answers.popleft().status = int(rest[0])
        return line

    def wait_ready(self) -> None:
        """Until /init takes commands."""
        deadline = time.monotonic() + BOOT_TIMEOUT
        try:
            while self._guest_line(deadline) != "ready":
                pass
        except TimeoutError:
            raise Dead(f"guest not up after {BOOT_TIMEOUT} s") from None

    def _tell(self, command: str) -> None:
        assert self._line and self._log, "not started"
        self._log.write(f"# {command}\n")
        self._line.put(command)

    def begin(self, command: str) -> Answer:
        """Send a shell command; finish() has its answer."""
        self._tell(command)
        self._answers.append(Answer(command))
        return self._answers[-1]

    def finish(self, answer: Answer) -> Tuple[int, List[str]]:
        """(status, [line, ...]) of a command, once it has ended."""
        if not self.wait_until(lambda: answer.status is not None,
                               COMMAND_TIMEOUT):
            raise Dead(f"guest: no answer to '{answer.command}' in "
                       f"{COMMAND_TIMEOUT} s")
        return answer.status or 0, answer.output

    def command(self, command: str) -> Tuple[int, List[str]]:
        """Run a shell command in the guest: (status, [line, ...])."""
        return self.finish(self.begin(command))

    def sleep_command(self, command: str, asleep: Callable[[], bool]) -> Tuple[int, List[str]]:
        """Like command() with one that suspends the guest; this wakes it.

        The guest goes to sleep soon after asleep().  A line wakes it, but not
        if it comes too early: then it takes another.
        """
        answer = self.begin(command)
        deadline = time.monotonic() + COMMAND_TIMEOUT
        wake: Optional[float] = None
        wakes: List[Answer] = []
        while not self.wait_until(lambda: answer.status is not None, .1):
            now = time.monotonic()
            if now >= deadline:
                raise Dead(f"guest: not back from '{command}' after "
                           f"{COMMAND_TIMEOUT} s")
            if wake is None and asleep():
                wake = now + 1
            elif wake is not None and now >= wake:
                wakes.append(self.begin(":"))
                wake = now + 2
        for each in wakes:
            self.finish(each)
        return answer.status or 0, answer.output

    def check_command(self, command: str) -> List[str]:
        """Its output. Raises Failure if it fails."""
        status, output = self.command(command)
        if status:
            raise Failure(f"guest: '{command}' failed: "
                          + (" / ".join(output) or f"status {status}"))
        return output

    def wait_until(self, enough: Callable[[], bool], timeout: float) -> bool:
        """Until enough(), by what the guest says; False if that is too late.
        """
        deadline = time.monotonic() + timeout
        while not enough():
            try:
                self._guest_line(deadline)
            except TimeoutError:
                return False
        return True

    def reboot(self) -> None:
        """Tell the guest to, once; it is up when this returns."""
        since, kernels = len(self.qmp_events), self._kernels()
        self.qmp("set-action", reboot="reset")
        self._tell("reboot -f")
        self.wait_event("RESET", since)
        # The firmware may reset once more; a panic still has to end it.
        deadline = time.monotonic() + BOOT_TIMEOUT
        while self._kernels() <= kernels:
            if time.monotonic() >= deadline:
                raise Dead(f"no kernel {BOOT_TIMEOUT} s after the reset")
            time.sleep(.1)
            self.qmp("query-status")
        self.qmp("set-action", reboot="shutdown")
        self._answers.clear()
        self.wait_ready()

    def _kernels(self) -> int:
        return sum("] Linux version" in line for line in self.console())

    # The end

    def power_off(self) -> Tuple[str, int]:
        """Tell the guest to; (reason QEMU gives, its exit status)."""
        self._tell("poweroff -f")
        reason, status = self.wait_exit()
        deadline = time.monotonic() + TIMEOUT
        try:    # what the guest still said before it went
            while True:
                self._guest_line(deadline)
        except (Dead, TimeoutError):
            pass
        return reason, status

    def close(self) -> None:
        """End it, and close what belongs to it."""
        super().close()
        if self._line:
            self._line.sock.close()
        if self._log:
            self._log.close()
