# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process, its QMP monitor and the line to the guest's /init."""

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import time


class Failure(Exception):
    """Something the test looks at is not as it must be."""


class Dead(Failure):
    """QEMU or the guest no longer answers: nothing more can be tested."""


class Lines:
    """Lines from a socket, each waited for up to a deadline."""

    def __init__(self, sock, what):
        self.sock = sock
        self.what = what
        self.buffer = b""

    def get(self, deadline):
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                raise Dead(f"{self.what} closed: QEMU is gone")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")

    def go_on(self, sock):
        """With another socket, as soon as this one is read to its end."""
        while data := self.sock.recv(65536):
            self.buffer += data
        self.sock.close()
        self.sock = sock

    def put(self, line):
        try:
            self.sock.sendall(line.encode() + b"\n")
        except OSError as e:
            raise Dead(f"{self.what}: {e}") from e


# Bounds, not delays: nothing waits longer than it takes.  A loaded machine
# that emulates needs room.
QMP_TIMEOUT = 60
BOOT_TIMEOUT = 240
COMMAND_TIMEOUT = 180
EXIT_TIMEOUT = 120

# What a PC needs to start a kernel; QEMU trees of distributions lack it.
FIRMWARE = ("bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin")
FIRMWARE_DIRS = ("/usr/share/seabios", "/usr/share/qemu",
                 "/usr/lib/ipxe/qemu")


def firmware_options(qemu):
    """-L options for the firmware this QEMU does not find by itself."""
    dirs = query(qemu, "-L", "help").split("\n")
    extra = []
    for name in FIRMWARE:
        def has(d, name=name):
            return d and os.path.exists(os.path.join(d, name))
        if not any(map(has, dirs + extra)):
            found = next(filter(has, FIRMWARE_DIRS), None)
            if not found:
                raise Failure(f"no {name} for {qemu}; install the packages "
                              "seabios and qemu-system-data")
            extra.append(found)
    return [arg for d in extra for arg in ("-L", d)]


def query(qemu, *args):
    try:
        p = subprocess.run([qemu, *args], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                           timeout=QMP_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Failure(f"cannot run {qemu}: {e}") from e
    text = p.stdout.decode("utf-8", "replace")
    if p.returncode:
        last = text.strip().split("\n")[-1]
        raise Failure(f"{qemu} {shlex.join(args)}: {last}")
    return text


class Qemu:
    """A QEMU with a QMP monitor and a serial console, from start() to close().

    After save() and restore() another process runs the same guest.
    """

    def __init__(self, argv, logdir):
        self.serial = os.path.join(logdir, "serial.log")
        self.stderr = os.path.join(logdir, "qemu.log")
        self.argv = argv
        self.proc = None
        self.qmp_events = []
        self._killed = False

    def start(self, incoming=None):
        if self._killed:
            raise Dead("interrupted")
        # Connected pairs: no socket path that is too long or left behind.
        qmp, qmp_far = socket.socketpair()
        serial = self.serial.replace(",", ",,")
        with contextlib.ExitStack() as stack:
            far = [stack.enter_context(qmp_far)]
            argv = [*self.argv,
                    "-chardev", f"socket,id=qmp,fd={qmp_far.fileno()}",
                    "-mon", "chardev=qmp,mode=control",
                    "-chardev", f"file,id=console,path={serial},append=on",
                    "-serial", "chardev:console"]
            for name, sock in self.far_ends().items():
                far.append(stack.enter_context(sock))
                argv += ["-chardev", f"socket,id={name},fd={sock.fileno()}",
                         "-serial", f"chardev:{name}"]
            if incoming:
                argv += ["-incoming", f"exec:cat {shlex.quote(incoming)}"]
            with open(self.stderr, "ab") as err:
                err.write(shlex.join(argv).encode() + b"\n")
                err.flush()
                self._said = err.tell()
                try:
                    self.proc = subprocess.Popen(
                        argv, stdin=subprocess.DEVNULL, stdout=err,
                        stderr=err, pass_fds=[s.fileno() for s in far])
                except OSError as e:
                    raise Dead(f"cannot run {argv[0]}: {e}") from e
        self._qmp = Lines(qmp, "QMP")
        try:
            self._qmp_message("QMP", QMP_TIMEOUT)
            self.qmp("qmp_capabilities")
        except Failure as e:
            raise Dead(f"QEMU does not start: {self.last_words()}") from e

    def far_ends(self):
        """{name: QEMU's end} of further serial ports, for a new process."""
        return {}

    def last_words(self):
        with open(self.stderr, "rb") as f:
            f.seek(self._said)
            lines = f.read().decode("utf-8", "replace").strip().split("\n")
        return " / ".join(filter(None, lines[:5])) or "no message"

    # QMP

    def _qmp_message(self, key, timeout):
        deadline = time.monotonic() + timeout
        while True:
            try:
                text = self._qmp.get(deadline)
            except TimeoutError:
                raise Dead(f"QMP: no '{key}' in {timeout} s") from None
            message = json.loads(text)
            if "event" in message:
                self.qmp_events.append(message)
            if key in message or "error" in message:
                return message

    def qmp(self, command, **arguments):
        self._qmp.put(json.dumps({"execute": command,
                                  "arguments": arguments}))
        reply = self._qmp_message("return", QMP_TIMEOUT)
        if "error" in reply:
            raise Failure(f"QMP {command}: {reply['error']['desc']}")
        return reply["return"]

    def wait_event(self, name, since, timeout=QMP_TIMEOUT):
        """Until one of this name comes after the first SINCE events."""
        deadline = time.monotonic() + timeout
        while not any(e["event"] == name for e in self.qmp_events[since:]):
            self._qmp_message("event", deadline - time.monotonic())

    # Another process

    def save(self, path):
        """The state into a file; then this process ends."""
        self.qmp("stop")
        self.qmp("migrate", uri=f"exec:cat >{shlex.quote(path)}")
        deadline = time.monotonic() + QMP_TIMEOUT
        while True:
            status = self.qmp("query-migrate").get("status")
            if status == "completed":
                break
            if status in ("failed", "cancelled") or \
                    time.monotonic() >= deadline:
                raise Failure(f"the state is not saved: {status}")
            time.sleep(.05)
        self._qmp.put('{"execute": "quit"}')
        self.proc.wait(EXIT_TIMEOUT)
        self._qmp.sock.close()

    def restore(self, path):
        """A new process goes on with the state."""
        self.start(incoming=path)
        deadline = time.monotonic() + QMP_TIMEOUT
        try:
            while self.qmp("query-status")["status"] == "inmigrate":
                if time.monotonic() >= deadline:
                    raise Dead("the state is not loaded")
                time.sleep(.05)
            self.qmp("cont")
        except Dead as e:
            raise Dead(f"QEMU {self.ending()} when it loads the state: "
                       f"{self.last_words()}") from e

    # The end

    def ending(self):
        """How a process that is about to end, or has, does that."""
        try:
            status = self.proc.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            return "hangs"
        if status == -signal.SIGABRT:
            return "aborts"
        if status < 0:
            return f"is ended by {signal.Signals(-status).name}"
        return f"exits with status {status}"

    def wait_exit(self):
        """(reason QEMU gives, its exit status), once it exits."""
        try:
            status = self.proc.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise Dead(f"QEMU still runs {EXIT_TIMEOUT} s after the guest "
                       "was told to power off") from None
        deadline = time.monotonic() + QMP_TIMEOUT
        try:
            while True:
                self._qmp_message("event", deadline - time.monotonic())
        except Dead:
            pass
        reasons = [e["data"].get("reason") for e in self.qmp_events
                   if e["event"] == "SHUTDOWN"]
        return (reasons[-1] if reasons else "none"), status

    def console(self):
        """What came on the first serial port, in lines."""
        with open(self.serial, encoding="utf-8", errors="replace") as f:
            return f.read().replace("\r", "").split("\n")

    def kill(self):
        """From any thread; the one that talks to QEMU sees it go."""
        self._killed = True
        if self.proc and self.proc.poll() is None:
            self.proc.kill()

    def close(self):
        self.kill()
        if self.proc:
            self.proc.wait()
            self._qmp.sock.close()


class VM(Qemu):
    """A guest with our /init, which takes commands on the second port."""

    def __init__(self, argv, logdir):
        super().__init__(argv, logdir)
        self.talk = os.path.join(logdir, "control.log")
        self.inputs = []     # (source, label, fields) as the guest saw them
        self._log = None
        self._line = None

    def start(self, incoming=None):
        if not self._log:
            self._log = open(self.talk, "w", encoding="utf-8")
        super().start(incoming)

    def far_ends(self):
        line, far = socket.socketpair()
        if self._line:
            self._line.go_on(line)
        else:
            self._line = Lines(line, "the guest's control line")
        return {"line": far}

    # The control line

    def _guest_line(self, deadline):
        """The next line that is not an input event; those are kept."""
        line = self._line.get(deadline)
        self._log.write(line + "\n")
        self._log.flush()
        source, *rest = line.split(" ")
        if source not in ("evdev", "hidraw"):
            return line
        self.inputs.append((source, rest[0], rest[1:]))
        return None

    def wait_ready(self):
        deadline = time.monotonic() + BOOT_TIMEOUT
        try:
            while self._guest_line(deadline) != "ready":
                pass
        except TimeoutError:
            raise Dead(f"guest not up after {BOOT_TIMEOUT} s") from None

    def command(self, command):
        """Run a shell command in the guest: (status, [line, ...])."""
        self._put_command(command)
        output = []
        try:
            return self._answer(time.monotonic() + COMMAND_TIMEOUT,
                                output), output
        except TimeoutError:
            raise Dead(f"guest: no answer to '{command}' in "
                       f"{COMMAND_TIMEOUT} s") from None

    def _put_command(self, command):
        self._log.write(f"# {command}\n")
        self._line.put(command)

    def _answer(self, deadline, output):
        """Append a command's output to OUTPUT and return its status."""
        while True:
            line = self._guest_line(deadline)
            if line is None:
                continue
            mark, _, text = line.partition(" ")
            if mark == ".":
                return int(text)
            if mark == "=":
                output.append(text)

    def sleep_command(self, command, asleep):
        """Like command() with one that suspends the guest; this wakes it.

        The guest goes to sleep soon after asleep().  A line wakes it, but not
        if it comes too early: then it takes another.
        """
        self._put_command(command)
        deadline = time.monotonic() + COMMAND_TIMEOUT
        output, wake, wakes = [], None, 0
        while True:
            try:
                status = self._answer(time.monotonic() + .1, output)
                break
            except TimeoutError:
                now = time.monotonic()
            if now >= deadline:
                raise Dead(f"guest: not back from '{command}' after "
                           f"{COMMAND_TIMEOUT} s")
            if wake is None and asleep():
                wake = now + 1
            elif wake is not None and now >= wake:
                self._put_command(":")
                wakes += 1
                wake = now + 2
        try:
            for _ in range(wakes):
                self._answer(deadline, [])
        except TimeoutError:
            raise Dead(f"guest: no answers after '{command}'") from None
        return status, output

    def check_command(self, command):
        status, output = self.command(command)
        if status:
            raise Failure(f"guest: '{command}' failed: "
                          + (" / ".join(output) or f"status {status}"))
        return output

    def wait_inputs(self, enough, timeout):
        """Until enough(); False when the time is up before."""
        deadline = time.monotonic() + timeout
        while not enough():
            try:
                self._guest_line(deadline)
            except TimeoutError:
                return False
        return True

    # The end

    def power_off(self):
        """Tell the guest to; (reason QEMU gives, its exit status)."""
        self._log.write("# poweroff -f\n")
        self._line.put("poweroff -f")
        reason, status = self.wait_exit()
        deadline = time.monotonic() + QMP_TIMEOUT
        try:    # what the guest still said before it went
            while True:
                self._guest_line(deadline)
        except (Dead, TimeoutError):
            pass
        return reason, status

    def close(self):
        super().close()
        if self._line:
            self._line.sock.close()
        if self._log:
            self._log.close()
