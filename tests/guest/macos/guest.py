# SPDX-License-Identifier: GPL-2.0-or-later
"""The macOS-like guest from the host's side: build, start, feed, listen.

Any number of guests run at once and are served by one loop, play(), so that
what disturbs the machine hits all of them alike.
"""

import collections
import glob
import heapq
import json
import os
import random
import re
import select
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
from vm import Failure, firmware_options, query     # noqa: E402

MODES = {
    "pin": "msi=off,msix=off",
    "msi": "msi=on,msix=off",
    "msix": "msi=off,msix=on",
}
DEVICES = "nec-usb-xhci", "qemu-xhci"
USB_DEVICES = "kbd", "tablet", "disk"

CFLAGS = """-m32 -march=i686 -mgeneral-regs-only -std=gnu11 -O2
    -Wall -Wextra -Wno-unused-parameter -Werror -ffreestanding -nostdlib
    -static -fno-pic -no-pie -fno-stack-protector
    -fno-asynchronous-unwind-tables
    -Wl,--build-id=none,-z,max-page-size=4096,--no-warn-rwx-segments""".split()

# Bounds, not delays.  Where only the watchdog tells the guest of its events
# its start takes 10 seconds, and reading the disk 3 for each MiB.
START_TIMEOUT = 120
DISK_TIMEOUT = 180
INPUT_TIMEOUT = 10      # after the last input was sent
SUMMARY_TIMEOUT = 10

# USB HID usages of the keys; two make the guest do something
LETTERS = string.ascii_lowercase
KEY_DISK, KEY_SUMMARY = "f11", "f12"
USAGES = {**{key: 4 + i for i, key in enumerate(LETTERS)},
          KEY_DISK: 0x44, KEY_SUMMARY: 0x45}


class NotOffered(Failure):
    """The controller cannot be told which interrupts to have."""


def build(work):
    """Compile the guest; the path of its ELF file."""
    os.makedirs(work, exist_ok=True)
    elf = os.path.join(work, "macos-guest.elf")
    compiler = shutil.which("x86_64-linux-gnu-gcc") or "gcc"
    sources = sorted(glob.glob(f"{glob.escape(HERE)}/*.[cS]"))
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        new = os.path.join(scratch, "elf")
        try:
            p = subprocess.run(
                [compiler, *CFLAGS, "-T", os.path.join(HERE, "guest.ld"),
                 "-o", new, *sources], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, check=False)
        except OSError as e:
            raise Failure(f"the guest needs gcc for x86: {e}") from e
        if p.returncode:
            text = p.stdout.decode("utf-8", "replace").strip()
            raise Failure(f"{compiler} does not build the guest:\n{text}")
        os.rename(new, elf)
    return elf


def make_disk(path, size, seed):
    """A disk of random content; its CRC as the guest prints it."""
    content = random.Random(seed).randbytes(size)
    with open(path, "wb") as f:
        f.write(content)
    return f"{zlib.crc32(content):x}"


class Files:
    """What guests are started with, in a folder that takes their logs, too."""

    def __init__(self, directory, size, seed):
        self.dir = directory
        self.elf = build(directory)
        self.disk = os.path.join(directory, "disk.raw")
        self.size = size
        self.crc = make_disk(self.disk, size, seed)


class Input:
    """A key or a pointer move: what is sent, and what becomes of it."""

    def __init__(self, name, report, events):
        self.name = name            # of the device
        self.report = report        # as the guest is to see it
        self.events = events        # for QMP
        self.sent = self.arrived = None
        self.ring = self.how = self.interrupts = None

    @property
    def latency(self):
        return self.arrived - self.sent


def key_input(key, down):
    usage = USAGES[key] if down else 0
    return Input("kbd", f"0000{usage:02x}0000000000", [
        {"type": "key", "data": {"down": down,
                                 "key": {"type": "qcode", "data": key}}}])


def move_input(x, y):
    report = b"\0" + x.to_bytes(2, "little") + y.to_bytes(2, "little") + b"\0"
    return Input("tablet", report.hex(), [
        {"type": "abs", "data": {"axis": axis, "value": value}}
        for axis, value in (("x", x), ("y", y))])


def make_inputs(count, rand):
    """COUNT inputs, each of which changes something; no key stays down."""
    held, x, y = None, 0, 0
    for left in range(count, 0, -1):
        if held and (left == 1 or rand.random() < .5):
            yield key_input(held, False)
            held = None
        elif not held and left > 1 and rand.random() < .5:
            held = rand.choice(LETTERS)
            yield key_input(held, True)
        else:
            x = (x + rand.randrange(1, 0x8000)) % 0x8000
            y = (y + rand.randrange(1, 0x8000)) % 0x8000
            yield move_input(x, y)


class Guest:
    """One QEMU with the guest in it."""

    def __init__(self, name, qemu, machine, device, elf, disk, logdir):
        self.name = name
        self.log = os.path.join(logdir, re.sub(r"[^\w.=-]+", "-", name))
        self.argv = [
            qemu, *firmware_options(qemu), "-machine", machine,
            "-accel", "tcg", "-m", "64", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-kernel", elf,
            "-device", f"{device},id=xhci",
            "-device", "usb-kbd,bus=xhci.0",
            "-device", "usb-tablet,bus=xhci.0",
            "-blockdev", json.dumps({
                "driver": "file", "node-name": "disk", "read-only": True,
                "filename": disk}),
            "-device", "usb-storage,bus=xhci.0,drive=disk"]
        self.failure = None         # why it is no longer there
        self.ready = None           # mode, once it is
        self.found = []             # USB devices
        self.disk = None            # (bytes, crc, microseconds)
        self.summary = None
        self.inputs = []            # in the order in which they are sent
        self.unexpected = []        # reports that are none of these
        self._waiting = collections.defaultdict(collections.deque)
        self._buffers = {}          # socket: bytes of a line not complete
        self._proc = self._qmp = self._console = None

    def start(self):
        self._qmp, qmp_far = socket.socketpair()
        self._console, console_far = socket.socketpair()
        self._buffers = {self._qmp: b"", self._console: b""}
        argv = [*self.argv,
                "-chardev", f"socket,id=qmp,fd={qmp_far.fileno()}",
                "-mon", "chardev=qmp,mode=control",
                "-chardev", f"socket,id=console,fd={console_far.fileno()}",
                "-device", "isa-debugcon,chardev=console"]
        with qmp_far, console_far, open(f"{self.log}.log", "wb") as log:
            log.write(shlex.join(argv).encode() + b"\n")
            log.flush()
            try:
                self._proc = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    pass_fds=(qmp_far.fileno(), console_far.fileno()))
            except OSError as e:
                raise Failure(f"cannot run {argv[0]}: {e}") from e
        self.qmp("qmp_capabilities")

    def close(self):
        if self._proc:
            self._proc.kill()
            self._proc.wait()
        for sock in self._buffers:
            sock.close()
        self._buffers = {}

    # To QEMU

    def qmp(self, command, **arguments):
        text = json.dumps({"execute": command, "arguments": arguments})
        try:
            self._qmp.sendall(text.encode() + b"\n")
        except OSError:
            pass                    # its end is seen by receive()

    def send(self, item):
        self._waiting[item.name].append(item)
        item.sent = time.monotonic()
        self.qmp("input-send-event", events=item.events)

    def send_counted(self, item):
        self.inputs.append(item)
        self.send(item)

    def press(self, key):
        for down in True, False:
            self.send(key_input(key, down))

    def ask_disk(self):
        self.disk = None
        self.press(KEY_DISK)

    def ask_summary(self):
        self.summary = None
        self.press(KEY_SUMMARY)

    # From QEMU

    def sockets(self):
        return [] if self.failure else list(self._buffers)

    def receive(self, sock):
        try:
            data = sock.recv(65536)
        except ConnectionError:
            data = b""
        now = time.monotonic()
        if not data:
            self.failure = self._last_words()
            return
        *lines, self._buffers[sock] = (self._buffers[sock]
                                       + data).split(b"\n")
        for line in lines:
            line = line.decode("utf-8", "replace").strip()
            if sock is self._qmp:
                self._qmp_line(json.loads(line))
            else:
                with open(f"{self.log}.txt", "a", encoding="utf-8") as f:
                    f.write(line + "\n")
                self._guest_line(line.split(" "), now)

    def _last_words(self):
        try:
            status = self._proc.wait(30)
        except subprocess.TimeoutExpired:
            return "QEMU closed its sockets"
        with open(f"{self.log}.log", errors="replace") as f:
            words = " / ".join(f.read().strip().split("\n")[1:][-3:])
        if status == -signal.SIGABRT:
            how = "aborts"
        elif status < 0:
            how = f"is ended by {signal.Signals(-status).name}"
        else:
            how = f"exits with status {status}"
        return f"QEMU {how}" + (f": {words}" if words else "")

    def _qmp_line(self, message):
        if "error" in message:
            self.failure = f"QMP: {message['error']['desc']}"

    def _guest_line(self, words, now):
        kind = words[0]
        if kind == "input":
            self._arrived(words, now)
        elif kind == "device":
            self.found.append(words[1])
        elif kind == "ready":
            self.ready = words[1]
        elif kind == "disk":
            self.disk = int(words[2]), words[4], int(words[6])
        elif kind == "summary":
            self.summary = " ".join(words[1:])
        elif kind == "error:":
            self.failure = " ".join(words)

    def _arrived(self, words, now):
        _, _, name, report, _, ring, how, interrupts = words
        waiting = self._waiting[name]
        if all(item.report != report for item in waiting):
            self.unexpected.append(f"{name} {report}")
            return
        # What came before it, and did not arrive by now, is lost.
        while True:
            item = waiting.popleft()
            if item.report == report:
                break
        item.arrived, item.ring = now, int(ring)
        item.how, item.interrupts = how, int(interrupts)

    def lost(self):
        return [item for item in self.inputs if item.arrived is None]


def serve(guests, deadline):
    """Wait until the deadline at most, and take what has come."""
    socks = {sock: guest for guest in guests for sock in guest.sockets()}
    left = max(0, deadline - time.monotonic())
    for sock in select.select(list(socks), [], [], left)[0]:
        if not socks[sock].failure:
            socks[sock].receive(sock)


def wait(guests, enough, timeout, what):
    """Until enough(guest) of each; else it has failed."""
    deadline = time.monotonic() + timeout
    while True:
        missing = [g for g in guests if not g.failure and not enough(g)]
        if not missing:
            return
        if time.monotonic() >= deadline:
            for guest in missing:
                guest.failure = f"{what}: not in {timeout} s"
            return
        serve(guests, deadline)


def start(guests):
    for guest in guests:
        guest.start()
    wait(guests, lambda g: g.ready, START_TIMEOUT, "start of the guest")


def play(guests, count, interval, seed):
    """Send COUNT inputs to each guest, and wait for them.

    INTERVAL is the shortest and the longest time in seconds between two for
    the same guest.
    """
    queue = []                      # (when, number of the guest, the rest)
    for number, guest in enumerate(guests):
        rand = random.Random(f"{seed} {number}")
        when = time.monotonic() + rand.uniform(*interval)
        queue.append((when, number, guest, rand, make_inputs(count, rand)))
    heapq.heapify(queue)
    while queue:
        when, number, guest, rand, inputs = heapq.heappop(queue)
        while time.monotonic() < when:
            serve(guests, when)
        item = None if guest.failure else next(inputs, None)
        if item:
            guest.send_counted(item)
            heapq.heappush(queue, (when + rand.uniform(*interval), number,
                                   guest, rand, inputs))
    deadline = time.monotonic() + INPUT_TIMEOUT
    while time.monotonic() < deadline and any(
            g.lost() for g in guests if not g.failure):
        serve(guests, deadline)


def has_modes(qemu, device):
    """Before 10.0 only nec-usb-xhci has msi and msix, unless patched."""
    text = query(qemu, "-device", f"{device},help")
    return all(re.search(rf"^\s*{prop}=", text, re.M)
               for prop in ("msi", "msix"))
