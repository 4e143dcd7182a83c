# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process: from its command line to how it ends."""

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from . import process
from .qmp import TIMEOUT, Dead, Failure, Gone, Qmp

#: Seconds; a bound, not a delay.
EXIT_TIMEOUT = 120

# What a PC needs to start a kernel; QEMU trees of distributions lack it.
FIRMWARE = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin")
FIRMWARE_DIRS = ("/usr/share/seabios", "/usr/share/qemu",
                 "/usr/lib/ipxe/qemu")


def firmware_options(qemu: str) -> List[str]:
    """-L options for the firmware this QEMU does not find by itself."""
    dirs = query(qemu, "-L", "help").split("\n")
    extra: List[str] = []
    for name in FIRMWARE:
        def has(d: str, name: str = name) -> bool:
            return bool(d) and os.path.exists(os.path.join(d, name))
        if not any(map(has, dirs + extra)):
            found = next(filter(has, FIRMWARE_DIRS), None)
            if not found:
                raise Failure(f"no {name} for {qemu}; install the packages "
                              "seabios and qemu-system-data")
            extra.append(found)
    return [arg for d in extra for arg in ("-L", d)]


def query(qemu: str, *args: str) -> str:
    """What it prints when it is run with these options."""
    try:
        p = subprocess.run([qemu, *args], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                           timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Failure(f"cannot run {qemu}: {e}") from e
    text = p.stdout.decode("utf-8", "replace")
    if p.returncode:
        last = text.strip().split("\n")[-1]
        raise Failure(f"{qemu} {shlex.join(args)}: {last}")
    return text


def has_property(qemu: str, device: str, *names: str) -> bool:
    """Does a device have all of these properties?"""
    text = query(qemu, "-device", f"{device},help")
    listed = {line.strip().partition("=")[0] for line in text.split("\n")}
    return listed.issuperset(names)


def program(path: str) -> str:
    """The absolute path of a program. Raises Failure if it is none."""
    found = shutil.which(path)
    if not found:
        raise Failure(f"no program {path}")
    return os.path.abspath(found)


class Process:
    """A QEMU that is given sockets, and whose messages go to a log.

    Args:
        argv: the command, without the sockets
        log: a file that its command line and messages are added to
    """

    def __init__(self, argv: Sequence[str], log: str, **options: Any) -> None:
        self.argv = list(argv)
        self.log = log
        self.options = options          # of subprocess.Popen
        self.proc: Optional["subprocess.Popen[bytes]"] = None
        self._said = 0

    def start(self, ends: Dict[str, socket.socket], more: Sequence[str] = ()) -> None:
        """Start it with its ends of connected pairs of sockets, by the name of
        their chardev: so there is no path that is too long or left behind."""
        argv = self.argv + [word for name, sock in ends.items() for word in (
            "-chardev", f"socket,id={name},fd={sock.fileno()}")] + list(more)
        with contextlib.ExitStack() as stack:
            for sock in ends.values():
                stack.enter_context(sock)
            err = stack.enter_context(open(self.log, "ab"))
            err.write(shlex.join(argv).encode() + b"\n")
            err.flush()
            self._said = err.tell()
            try:
                self.proc = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                    pass_fds=[s.fileno() for s in ends.values()], **self.options)
            except OSError as e:
                raise Dead(f"cannot run {argv[0]}: {e}") from e

    def last_words(self) -> str:
        """The first lines that it printed."""
        with open(self.log, "rb") as f:
            f.seek(self._said)
            lines = f.read().decode("utf-8", "replace").strip().split("\n")
        return " / ".join(filter(None, lines[:5])) or "no message"

    def ending(self, timeout: float = EXIT_TIMEOUT) -> str:
        """How a process that is about to end, or has, does that."""
        try:
            return process.ending(self.wait(timeout))
        except subprocess.TimeoutExpired:
            return "hangs"

    def wait(self, timeout: Optional[float] = None) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired."""
        assert self.proc, "not started"
        return self.proc.wait(timeout)

    def runs(self) -> bool:
        """Has it been started, and has it not ended?"""
        return self.proc is not None and self.proc.poll() is None

    def terminate(self) -> None:
        """Ask it to end, in order."""
        if self.proc and self.proc.poll() is None:
            self.proc.terminate()

    def kill(self) -> None:
        """From any thread; the one that talks to QEMU sees it go."""
        if self.proc and self.proc.poll() is None:
            self.proc.kill()


class Qemu:
    """A QEMU with a QMP monitor and a serial console, from start() to close().

    After save() and restore() another process runs the same guest.
    """

    def __init__(self, argv: Sequence[str], logdir: str) -> None:
        self.serial = os.path.join(logdir, "serial.log")
        self.stderr = os.path.join(logdir, "qemu.log")
        self.process = Process(argv, self.stderr)
        self.monitor: Optional[Qmp] = None
        self.qmp_events: List[Dict[str, Any]] = []
        self._killed = False

    def start(self, incoming: Optional[str] = None) -> None:
        """Start it; with the state in a file, to go on with that."""
        if self._killed:
            raise Dead("interrupted")
        qmp, qmp_far = socket.socketpair()
        serial = self.serial.replace(",", ",,")
        more = ["-mon", "chardev=qmp,mode=control",
                "-chardev", f"file,id=console,path={serial},append=on",
                "-serial", "chardev:console"]
        ends = self.far_ends()
        for name in ends:
            more += ["-serial", f"chardev:{name}"]
        if incoming:
            more += ["-incoming", f"exec:cat {shlex.quote(incoming)}"]
        self.process.start({"qmp": qmp_far, **ends}, more)
        self.monitor = Qmp(qmp)
        self.monitor.events = self.qmp_events
        try:
            self.monitor.greet()
        except Failure as e:
            raise Dead(f"QEMU does not start: {self.last_words()}") from e

    def far_ends(self) -> Dict[str, socket.socket]:
        """{name: QEMU's end} of further serial ports, for a new process."""
        return {}

    def last_words(self) -> str:
        """The first lines that QEMU printed."""
        return self.process.last_words()

    def ending(self) -> str:
        """How QEMU ends, in words."""
        return self.process.ending()

    def qmp(self, command: str, **arguments: Any) -> Any:
        """What a command returns. Raises Failure with its error."""
        assert self.monitor, "not started"
        return self.monitor.execute(command, **arguments)

    def wait_event(self, name: str, since: int, **data: Any) -> None:
        """Until one of this name, with this in its data, comes after the first
        SINCE events."""
        assert self.monitor, "not started"
        self.monitor.wait_event(name, since, **data)

    # Another process

    def save(self, path: str) -> None:
        """The state into a file; then this process ends."""
        assert self.monitor, "not started"
        self.qmp("stop")
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.qmp("migrate", uri=f"exec:cat >{shlex.quote(path)}")
        deadline = time.monotonic() + TIMEOUT
        while True:
            status = self.qmp("query-migrate").get("status")
            if status == "completed":
                break
            if status in ("failed", "cancelled") or \
                    time.monotonic() >= deadline:
                raise Failure(f"the state is not saved: {status}")
            time.sleep(.05)
        self.monitor.send("quit")
        self.process.wait(EXIT_TIMEOUT)
        self.monitor.sock.close()

    def restore(self, path: str) -> None:
        """A new process goes on with the state."""
        deadline = time.monotonic() + TIMEOUT
        try:
            self.start(incoming=path)
            while self.qmp("query-status")["status"] == "inmigrate":
                if time.monotonic() >= deadline:
                    raise Dead("the state is not loaded")
                time.sleep(.05)
            self.qmp("cont")
        except Dead as e:
            if not isinstance(e, Gone) and not isinstance(e.__cause__, Gone):
                raise
            raise Dead(f"QEMU {self.ending()} when it loads the state: "
                       f"{self.last_words()}") from e

    # The end

    def wait_exit(self) -> Tuple[str, int]:
        """(reason QEMU gives, its exit status), once it exits."""
        assert self.monitor, "not started"
        try:
            status = self.process.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Dead(f"QEMU still runs {EXIT_TIMEOUT} s after the guest "
                       "was told to power off") from None
        self.monitor.drain()
        reasons = [e["data"].get("reason") for e in self.qmp_events
                   if e["event"] == "SHUTDOWN"]
        return (reasons[-1] if reasons else "none"), status

    def console(self) -> List[str]:
        """What came on the first serial port, in lines."""
        with open(self.serial, encoding="utf-8", errors="replace") as f:
            return f.read().replace("\r", "").split("\n")

    def kill(self) -> None:
        """From any thread; the one that talks to QEMU sees it go."""
        self._killed = True
        self.process.kill()

    def close(self) -> None:
        """End it, whatever it does."""
        self.kill()
        if self.process.proc:
            self.process.wait()
        if self.monitor:
            self.monitor.sock.close()
