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
import shutil
import socket
import string
import subprocess
import tempfile
import time
import zlib
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, Tuple

from xhciseries.paths import TOP

from ..qemu import Process, firmware_options
from ..qmp import Failure, Gone, Lines, Qmp

SOURCES = TOP / "tests" / "guest" / "macos"
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


def build(work: str) -> str:
    """Compile the guest; the path of its ELF file."""
    os.makedirs(work, exist_ok=True)
    elf = os.path.join(work, "macos-guest.elf")
    compiler = shutil.which("x86_64-linux-gnu-gcc") or "gcc"
    sources = sorted(glob.glob(f"{glob.escape(str(SOURCES))}/*.[cS]"))
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        new = os.path.join(scratch, "elf")
        try:
            p = subprocess.run(
                [compiler, *CFLAGS, "-T", str(SOURCES / "guest.ld"),
                 "-o", new, *sources], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, check=False)
        except OSError as e:
            raise Failure(f"the guest needs gcc for x86: {e}") from e
        if p.returncode:
            text = p.stdout.decode("utf-8", "replace").strip()
            raise Failure(f"{compiler} does not build the guest:\n{text}")
        os.rename(new, elf)
    return elf


def make_disk(path: str, size: int, seed: str) -> str:
    """A disk of random content; its CRC as the guest prints it."""
    content = random.Random(seed).randbytes(size)
    with open(path, "wb") as f:
        f.write(content)
    return f"{zlib.crc32(content):x}"


class Files:
    """What guests are started with, in a folder that takes their logs, too."""

    def __init__(self, directory: str, size: int, seed: str) -> None:
        self.dir = directory
        self.elf = build(directory)
        self.disk = os.path.join(directory, "disk.raw")
        self.size = size
        self.crc = make_disk(self.disk, size, seed)


class Input:
    """A key or a pointer move: what is sent, and what becomes of it."""

    def __init__(self, name: str, report: str, events: List[Dict[str, Any]]) -> None:
        self.name = name            # of the device
        self.report = report        # as the guest is to see it
        self.events = events        # for QMP
        self.sent = 0.0             # of time.monotonic()
        self.arrived: Optional[float] = None
        self.ring: Optional[int] = None
        self.how = ""               # interrupt, or watchdog
        self.interrupts = 0         # of the guest, so far

    @property
    def latency(self) -> float:
        """Seconds; of one that has arrived."""
        assert self.arrived is not None
        return self.arrived - self.sent


def key_input(key: str, down: bool) -> Input:
    """A press, or a release."""
    usage = USAGES[key] if down else 0
    return Input("kbd", f"0000{usage:02x}0000000000", [
        {"type": "key", "data": {"down": down,
                                 "key": {"type": "qcode", "data": key}}}])


def move_input(x: int, y: int) -> Input:
    """The pointer, from 0 to 0x7fff."""
    report = b"\0" + x.to_bytes(2, "little") + y.to_bytes(2, "little") + b"\0"
    return Input("tablet", report.hex(), [
        {"type": "abs", "data": {"axis": axis, "value": value}}
        for axis, value in (("x", x), ("y", y))])


def make_inputs(count: int, rand: random.Random) -> Iterator[Input]:
    """COUNT inputs, each of which changes something; no key stays down."""
    held, x, y = "", 0, 0
    for left in range(count, 0, -1):
        if held and (left == 1 or rand.random() < .5):
            yield key_input(held, False)
            held = ""
        elif not held and left > 1 and rand.random() < .5:
            held = rand.choice(LETTERS)
            yield key_input(held, True)
        else:
            x = (x + rand.randrange(1, 0x8000)) % 0x8000
            y = (y + rand.randrange(1, 0x8000)) % 0x8000
            yield move_input(x, y)


class Guest:
    """One QEMU with the guest in it."""

    def __init__(self, name: str, qemu: str, machine: str, device: str, elf: str,
                 disk: str, logdir: str) -> None:
        self.name = name
        self.log = os.path.join(logdir, re.sub(r"[^\w.=-]+", "-", name))
        self.process = Process([
            qemu, *firmware_options(qemu), "-machine", machine,
            "-accel", "tcg", "-m", "64", "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-kernel", elf,
            "-device", f"{device},id=xhci",
            "-device", "usb-kbd,bus=xhci.0",
            "-device", "usb-tablet,bus=xhci.0",
            "-blockdev", json.dumps({
                "driver": "file", "node-name": "disk", "read-only": True,
                "filename": disk}),
            "-device", "usb-storage,bus=xhci.0,drive=disk"], f"{self.log}.log")
        self.failure = ""           # why it is no longer there
        self.ready = ""             # mode, once it is
        self.found: List[str] = []  # USB devices
        #: (bytes, crc, microseconds)
        self.disk: Optional[Tuple[int, str, int]] = None
        self.summary = ""
        #: in the order in which they are sent
        self.inputs: List[Input] = []
        #: reports that are none of these
        self.unexpected: List[str] = []
        self._waiting: Dict[str, Deque[Input]] = collections.defaultdict(collections.deque)
        self._lines: Dict[socket.socket, Lines] = {}

    @property
    def argv(self) -> List[str]:
        """QEMU's command line, without the sockets."""
        return self.process.argv

    def start(self) -> None:
        """Start QEMU; what comes from it is for receive()."""
        qmp, qmp_far = socket.socketpair()
        console, console_far = socket.socketpair()
        self.process.start({"qmp": qmp_far, "console": console_far}, [
            "-mon", "chardev=qmp,mode=control",
            "-device", "isa-debugcon,chardev=console"])
        self._lines = {qmp: Qmp(qmp), console: Lines(console, "console")}
        self.qmp("qmp_capabilities")

    def close(self) -> None:
        """End it."""
        if self.process.proc:
            self.process.kill()
            self.process.wait()
        for sock in self._lines:
            sock.close()
        self._lines = {}

    # To QEMU

    def qmp(self, command: str, **arguments: Any) -> None:
        """A command, whose answer is for receive()."""
        for lines in self._lines.values():
            if isinstance(lines, Qmp):
                try:
                    lines.send(command, **arguments)
                except Gone:
                    pass            # receive() sees it, too

    def send(self, item: Input) -> None:
        """Send it; that it arrives is noted."""
        self._waiting[item.name].append(item)
        item.sent = time.monotonic()
        self.qmp("input-send-event", events=item.events)

    def send_counted(self, item: Input) -> None:
        """One that the figures are about."""
        self.inputs.append(item)
        self.send(item)

    def press(self, key: str) -> None:
        """A key that makes the guest do something."""
        for down in True, False:
            self.send(key_input(key, down))

    def ask_disk(self) -> None:
        """Have it read its disk."""
        self.disk = None
        self.press(KEY_DISK)

    def ask_summary(self) -> None:
        """Have it say what it counted."""
        self.summary = ""
        self.press(KEY_SUMMARY)

    # From QEMU

    def sockets(self) -> List[socket.socket]:
        """For select()."""
        return [] if self.failure else list(self._lines)

    def receive(self, sock: socket.socket) -> None:
        """Take what has come on one of them."""
        lines = self._lines[sock]
        try:
            come = lines.take()
        except Gone:
            self.failure = f"QEMU {self.process.ending(30)}: {self.process.last_words()}"
            return
        now = time.monotonic()
        for line in come:
            if isinstance(lines, Qmp):
                self._qmp_line(json.loads(line))
            else:
                with open(f"{self.log}.txt", "a", encoding="utf-8") as f:
                    f.write(line + "\n")
                self._guest_line(line.strip().split(" "), now)

    def _qmp_line(self, message: Dict[str, Any]) -> None:
        if "error" in message:
            self.failure = f"QMP: {message['error']['desc']}"

    def _guest_line(self, words: List[str], now: float) -> None:
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

    def _arrived(self, words: List[str], now: float) -> None:
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

    def lost(self) -> List[Input]:
        """What did not arrive so far."""
        return [item for item in self.inputs if item.arrived is None]


def serve(guests: Sequence[Guest], deadline: float) -> None:
    """Wait until the deadline at most, and take what has come."""
    socks = {sock: guest for guest in guests for sock in guest.sockets()}
    left = max(0, deadline - time.monotonic())
    for sock in select.select(list(socks), [], [], left)[0]:
        if not socks[sock].failure:
            socks[sock].receive(sock)


def wait(guests: Sequence[Guest], enough: Callable[[Guest], Any], timeout: float,
         what: str) -> None:
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


def start(guests: Sequence[Guest]) -> None:
    """Start them, and wait until they take input."""
    for guest in guests:
        guest.start()
    wait(guests, lambda g: g.ready, START_TIMEOUT, "start of the guest")


def play(guests: Sequence[Guest], count: int, interval: Tuple[float, float],
         seed: str) -> None:
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
