# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process, its QMP monitor and the line to the guest's /init."""

import collections
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


class Gone(Dead):
    """QEMU has ended; ending() and last_words() say how."""


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
                raise Gone(f"{self.what} closed: QEMU is gone")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")

    def go_on(self, sock):
        """With another socket, as soon as this one is read to its end."""
        with contextlib.suppress(ConnectionError):
            while data := self.sock.recv(65536):
                self.buffer += data
        self.sock.close()
        self.sock = sock

    def put(self, line):
        try:
            self.sock.sendall(line.encode() + b"\n")
        except OSError as e:
            raise Gone(f"{self.what}: {e}") from e


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

    def wait_event(self, name, since, timeout=QMP_TIMEOUT, **data):
        """Until one of this name, with this in its data, comes after the first
        SINCE events."""
        deadline = time.monotonic() + timeout
        while not any(e["event"] == name
                      and data.items() <= e.get("data", {}).items()
                      for e in self.qmp_events[since:]):
            try:
                self._qmp_message("event", deadline - time.monotonic())
            except Gone:
                raise
            except Dead:
                raise Dead(f"QMP: no event {name} in {timeout} s") from None

    # Another process

    def save(self, path):
        """The state into a file; then this process ends."""
        self.qmp("stop")
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
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
        deadline = time.monotonic() + QMP_TIMEOUT
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


class Answer:
    """What the guest says to a command; no status as long as it runs."""

    def __init__(self, command):
        self.command = command
        self.output = []
        self.status = None


class VM(Qemu):
    """A guest with our /init, which takes commands on the second port."""

    def __init__(self, argv, logdir):
        super().__init__(argv, logdir)
        self.talk = os.path.join(logdir, "control.log")
        self.inputs = []     # (source, label, fields) as the guest saw them
        self._log = None
        self._line = None
        self._answers = collections.deque()     # not complete, in order

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
        """Take the next line, and return it.

        Input events are kept, and what is part of an answer is put there.
        """
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

    def wait_ready(self):
        deadline = time.monotonic() + BOOT_TIMEOUT
        try:
            while self._guest_line(deadline) != "ready":
                pass
        except TimeoutError:
            raise Dead(f"guest not up after {BOOT_TIMEOUT} s") from None

    def begin(self, command):
        """Send a shell command; finish() has its answer."""
        self._log.write(f"# {command}\n")
        self._line.put(command)
        self._answers.append(Answer(command))
        return self._answers[-1]

    def finish(self, answer):
        """(status, [line, ...]) of a command, once it has ended."""
        if not self.wait_until(lambda: answer.status is not None,
                               COMMAND_TIMEOUT):
            raise Dead(f"guest: no answer to '{answer.command}' in "
                       f"{COMMAND_TIMEOUT} s")
        return answer.status, answer.output

    def command(self, command):
        """Run a shell command in the guest: (status, [line, ...])."""
        return self.finish(self.begin(command))

    def sleep_command(self, command, asleep):
        """Like command() with one that suspends the guest; this wakes it.

        The guest goes to sleep soon after asleep().  A line wakes it, but not
        if it comes too early: then it takes another.
        """
        answer = self.begin(command)
        deadline = time.monotonic() + COMMAND_TIMEOUT
        wake, wakes = None, []
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
        return answer.status, answer.output

    def check_command(self, command):
        status, output = self.command(command)
        if status:
            raise Failure(f"guest: '{command}' failed: "
                          + (" / ".join(output) or f"status {status}"))
        return output

    def wait_until(self, enough, timeout):
        """Until enough(), by what the guest says; False if that is too late.
        """
        deadline = time.monotonic() + timeout
        while not enough():
            try:
                self._guest_line(deadline)
            except TimeoutError:
                return False
        return True

    def reboot(self):
        """Tell the guest to, once; it is up when this returns."""
        since, kernels = len(self.qmp_events), self._kernels()
        self.qmp("set-action", reboot="reset")
        self._log.write("# reboot -f\n")
        self._line.put("reboot -f")
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

    def _kernels(self):
        return sum("] Linux version" in line for line in self.console())

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
