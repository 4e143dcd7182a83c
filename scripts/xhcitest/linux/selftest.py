# SPDX-License-Identifier: GPL-2.0-or-later
"""See every point of tests/guest/run fail when it must.

Each case runs the test with a QEMU that something is done to, and compares
the points that fail with those that must.
"""

import concurrent.futures
import contextlib
import ctypes
import glob
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from xhciseries.paths import TOP
from xhciseries.ui import Parser, die, run_main

from .. import tap
from ..qemu import program
from .boot import GUEST, KEYS, LATER_KEYS, LOAD_INPUTS, MOVES, Boot

#: Stands in for QEMU
ME = [sys.executable, "-B", str(TOP / "scripts"), "xhcitest.linux.selftest", "--as"]
POINTS = list(Boot.POINTS)
LATER = "resume hotplug reboot snapshot"    # what is looked at each time

# Which key event is the first while the disk is read, and after that.
LOAD_KEY = KEYS + 1
WAKEUP_KEY = LOAD_KEY + 2 * LOAD_INPUTS
RESUME_KEY = WAKEUP_KEY + 2
HOTPLUG_KEY, REBOOT_KEY, SAVED_KEY = (RESUME_KEY + n * LATER_KEYS
                                      for n in (1, 2, 3))
LOST_KEYS = {"key-lost": 10, "load-key-lost": LOAD_KEY + 2,
             "wakeup-lost": WAKEUP_KEY, "later-key-lost": RESUME_KEY + 4,
             "hotplug-key-lost": HOTPLUG_KEY + 4,
             "reboot-key-lost": REBOOT_KEY + 4, "saved-key-lost": SAVED_KEY}
# The first one then is that the key is up that was down.
RESTORED_LOST_KEYS = {"restored-key-lost": 6}
LOST_MOVES = {"move-lost": 10, "second-move-lost": MOVES + 3}

# name: (mode, what is done, the points that fail)
CASES = {
    "untouched": ("pin", "nothing", ""),
    "no-init": ("pin", "the kernel finds no init", " ".join(POINTS)),
    "no-controller": ("pin", "xhci_hcd gets no controller",
                      "boot devices kind keys moves load disk count suspend "
                      f"wakeup freeze {LATER} log"),
    "no-tablet": ("pin", "there is no tablet",
                  f"devices moves load count {LATER}"),
    "msi-for-pin": ("pin", "MSI where the pin is expected", f"kind {LATER}"),
    "pin-for-msi": ("msi", "the pin where MSI is expected", f"kind {LATER}"),
    "msi-for-msix": ("msix", "MSI where MSI-X is expected", f"kind {LATER}"),
    "key-lost": ("pin", "one key event is not sent", "keys count"),
    "key-wrong": ("pin", "one key is another", "keys"),
    "move-lost": ("pin", "one pointer move is not sent", "moves count"),
    "move-twice": ("pin", "one pointer move is sent twice", "moves"),
    "late-move": ("pin", "a pointer move comes after the last", "snapshot"),
    "load-key-lost": ("pin", "a key event during the read is not sent",
                      "load"),
    "disk-byte": ("pin", "one byte of the disk differs", "disk"),
    "disk-short": ("pin", "the disk is one block short", "disk"),
    "no-interrupts": ("pin", "the guest counts no interrupts",
                      f"count wakeup {LATER}"),
    "no-suspend": ("pin", "the bus is not allowed to suspend",
                   "suspend wakeup"),
    "wakeup-lost": ("pin", "the key to wake the bus is not sent", "wakeup"),
    "wakeup-twice": ("pin", "the key to wake the bus is sent twice",
                     "wakeup"),
    "no-freeze": ("pin", "the guest does not suspend to idle", "freeze"),
    "later-key-lost": ("pin", "a key event after that is not sent", "resume"),
    "later-disk": ("pin", "the disk changes during that", LATER),
    "no-replug": ("pin", "the keyboard does not come again",
                  "hotplug reboot snapshot"),
    "hotplug-key-lost": ("pin", "a key event after that is not sent",
                         "hotplug"),
    "unplug-unseen": ("pin", "the log does not have the device that went",
                      "log"),
    "unplug-again": ("pin", "the keyboard goes once more", "log"),
    "unplug": ("pin", "the tablet goes away before the end", "log"),
    "no-reboot": ("pin", "the guest powers off instead of rebooting",
                  "reboot snapshot off log"),
    "reboot-kind": ("pin", "MSI once it has rebooted", "reboot"),
    "reboot-key-lost": ("pin", "a key event after that is not sent",
                        "reboot"),
    "saved-disk": ("pin", "the disk changes while the state is saved",
                   "snapshot"),
    "saved-late": ("pin", "the disk is read before the state is saved",
                   "snapshot"),
    "saved-key-lost": ("pin", "the key before that is not sent", "snapshot"),
    "restored-key-lost": ("pin", "a key event after that is not sent",
                          "snapshot"),
    "state-cut": ("pin", "the state is cut off", "snapshot off log"),
    "aborts": ("pin", "QEMU aborts when it loads the state",
               "snapshot off log"),
    "reset": ("pin", "the guest resets instead of powering off", "off"),
    "exit-status": ("pin", "QEMU exits with 3", "off"),
    "dies": ("pin", "QEMU is killed while keys are sent",
             f"keys moves load disk count suspend wakeup freeze {LATER} off "
             "log"),
    "two": ("two", "nothing", ""),
    "two-lines": ("two", "each controller has its own line",
                  f"kind {LATER}"),
    "second-uncounted": ("two", "interrupts of the second one do not count",
                         f"count {LATER}"),
    "second-move-lost": ("two", "a move during the read is not sent", "load"),
    "second-disk-byte": ("two", "one byte of the second disk differs",
                         "disk"),
    "disks-swapped": ("two", "each disk is behind the other controller",
                      f"disk {LATER}"),
}
# What the test then says, so that a crash can be told from a failure.
SAYS = {"dies": "# +QEMU exits with status",
        "aborts": "# +QEMU aborts when it loads the state",
        "state-cut": r"# +QEMU exits with status \d+ when it loads the state"}


class Saboteur:
    """Stands between the test and QEMU, which both think is the other."""

    def __init__(self, case: str, argv: List[str]) -> None:
        self.case = case
        self.argv = argv
        self.restored = "-incoming" in argv
        self.rebooted = False
        self.sent = {"key": 0, "abs": 0}
        self.wrong: Optional[str] = None
        #: channel: (the test's end, QEMU's end)
        self.ends: Dict[str, Tuple[socket.socket, socket.socket]] = {}

    def replace(self, old: str, new: str) -> None:
        """In the whole command line."""
        text = [a.replace(old, new) for a in self.argv]
        if text == self.argv:
            sys.exit(f"selftest: no {old} in QEMU's command line")
        self.argv = text

    def arrange(self) -> None:
        """What can be done through the command line."""
        case = self.case
        if case == "no-init":
            self.replace("panic=-1", "panic=-1 rdinit=/none init=/none")
        elif case == "no-controller":
            self.replace("nec-usb-xhci,", "usb-ehci,")
            self.replace(",msi=off,msix=off", "")
        elif case == "no-tablet":
            at, = (i for i, a in enumerate(self.argv) if "usb-tablet" in a)
            del self.argv[at - 1:at + 1]
        elif case == "msi-for-pin":
            self.replace("pci=nomsi", "")
            self.replace("msi=off", "msi=on")
        elif case == "pin-for-msi":
            self.replace("panic=-1", "panic=-1 pci=nomsi")
        elif case == "msi-for-msix":
            self.replace("msi=off,msix=on", "msi=on,msix=off")
        elif case == "two-lines":
            self.replace("addr=8", "addr=9")
        elif case == "disks-swapped":
            for old, new in (("disk1", "disk0"), ("disk2", "disk1"),
                             ("disk0", "disk2")):
                self.replace(f"{old}.raw", f"{new}.raw")
        if self.restored:
            if case == "aborts":
                os.abort()
            elif case == "state-cut":
                os.truncate(self.argv[-1].split()[-1], 50 << 20)
        elif case == "disk-short":
            os.truncate(self.disk(), os.path.getsize(self.disk()) - 512)
        elif case == "disk-byte":
            self.change_disk(34567890)
        elif case == "second-disk-byte":
            self.change_disk(34567890, 1)

    def disk(self, number: int = 0) -> str:
        """The file of a disk."""
        names: List[str] = [json.loads(a)["file"]["filename"] for a in self.argv
                            if a.startswith("{") and "filename" in a]
        return names[number]

    def change_disk(self, offset: int, number: int = 0) -> None:
        """A bit of it."""
        with open(self.disk(number), "r+b") as f:
            f.seek(offset)
            byte = f.read(1)[0]
            f.seek(offset)
            f.write(bytes([byte ^ 1]))

    def to_qemu(self, channel: str, line: bytes) -> List[bytes]:
        """The lines to pass on instead of this one."""
        case = self.case
        if channel == "line":
            if case == "no-suspend" and line == b"runtime_suspend auto":
                return [b":"]
            if case == "no-freeze" and line == b"freeze":
                return [b":"]
            if case == "later-disk" and line == b"freeze":
                self.change_disk(1234567)
            if line == b"reboot -f":
                self.rebooted = True
                if case == "no-reboot":
                    return [b"poweroff -f"]
            if b"poweroff" in line and case in ("late-move", "unplug",
                                                "unplug-again"):
                if case == "late-move":
                    self.move(77, 78)
                else:
                    self.inject("device_del",
                                id="tablet" if case == "unplug" else "kbd")
                # Give the guest the time to see it, unlike the test.
                return [b"sleep 3", line]
            if case == "reset" and b"poweroff" in line:
                return [b"reboot -f"]
            return [line]
        command = json.loads(line)
        swallow = [b'{"execute": "query-name"}']
        what = command["execute"]
        if what == "migrate" and case == "saved-disk":
            self.change_disk(9876543)
        elif what == "stop" and case == "saved-late":
            time.sleep(5)
        elif what == "qom-set" and case == "saved-late" or \
                what == "device_add" and case == "no-replug" and \
                command["arguments"]["id"] == "kbd":
            return swallow
        if what != "input-send-event":
            return [line]
        event = command["arguments"]["events"][0]
        kind = event["type"]
        self.sent[kind] += 1
        number = self.sent[kind]
        if self.restored:
            lost = kind == "key" and RESTORED_LOST_KEYS.get(case)
            return swallow if number == lost else [line]
        if number == (LOST_KEYS if kind == "key" else LOST_MOVES).get(case):
            return swallow
        if kind == "key" and case == "key-wrong" and number < LOAD_KEY:
            key = event["data"]["key"]
            self.wrong = self.wrong or key["data"]
            if key["data"] == self.wrong:
                key["data"] = "f1"
            return [json.dumps(command).encode()]
        if case == "wakeup-twice" and kind == "key" and number == WAKEUP_KEY:
            self.inject_line(line)
            event["data"]["down"] = False
            self.inject_line(json.dumps(command).encode())
            return [line]
        if number == 10 and kind == "key" and case == "dies":
            os.kill(self.child.pid, signal.SIGKILL)
        elif number == 10 and kind == "abs" and case == "move-twice":
            self.inject_line(line)
        return [line]

    def to_test(self, channel: str, line: bytes) -> List[bytes]:
        """The same on the way back."""
        if channel == "qmp" and b'"id": "sabotage"' in line:
            return []
        if b"IO-APIC" in line:
            if self.case == "no-interrupts":
                return [re.sub(rb":\s+\d+", b": 5", line, count=1)]
            if self.case == "second-uncounted":
                return [re.sub(rb"(?<=:)\s+\d+", lambda m: b" %d" % (
                    int(m[0]) - self.sent["abs"]), line, count=1)]
            if self.case == "reboot-kind" and self.rebooted:
                return [line.replace(b"IO-APIC", b"PCI-MSI")]
        if self.case == "unplug-unseen" and b"USB disconnect" in line:
            return [line + b"0"]
        return [line]

    def inject(self, command: str, **arguments: Any) -> None:
        """A command of our own."""
        self.inject_line(json.dumps({"execute": command,
                                     "arguments": arguments}).encode())

    def inject_line(self, line: bytes) -> None:
        """A command again, or another."""
        command = {**json.loads(line), "id": "sabotage"}
        self.ends["qmp"][1].sendall(json.dumps(command).encode() + b"\n")

    def move(self, x: int, y: int) -> None:
        """The pointer."""
        self.inject("input-send-event", events=[
            {"type": "abs", "data": {"axis": a, "value": v}}
            for a, v in (("x", x), ("y", y))])

    def run(self) -> int:
        """Start QEMU, and pass on what is said; its exit status."""
        if not any(a.startswith("socket,id=qmp") for a in self.argv):
            os.execv(self.argv[0], self.argv)     # --version and the like
        self.arrange()
        far_ends = []
        for i, arg in enumerate(self.argv):
            m = re.fullmatch(r"socket,id=(\w+),fd=(\d+)", arg)
            if m:
                near, far = socket.socketpair()
                self.ends[m[1]] = (socket.socket(fileno=int(m[2])), near)
                self.argv[i] = f"socket,id={m[1]},fd={far.fileno()}"
                far_ends.append(far)
        # The test kills what it started; QEMU must not stay behind.
        self.child = subprocess.Popen(
            self.argv, pass_fds=[s.fileno() for s in far_ends],
            preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL))
        for sock in far_ends:
            sock.close()
        self.pump()
        status = self.child.wait()
        return 3 if self.case == "exit-status" else status

    def pump(self) -> None:
        """Until QEMU has closed its ends."""
        routes = {}
        for channel, (test, qemu) in self.ends.items():
            routes[test] = (channel, qemu, self.to_qemu)
            routes[qemu] = (channel, test, self.to_test)
        rest = dict.fromkeys(routes, b"")
        # QEMU closes its ends when it exits.
        while any(qemu in routes for _, qemu in self.ends.values()):
            for sock in select.select(list(routes), [], [])[0]:
                channel, other, change = routes[sock]
                try:
                    data = sock.recv(65536)
                except ConnectionError:
                    data = b""
                if not data:
                    # The rest of a line comes from the QEMU that goes on.
                    with contextlib.suppress(OSError):
                        other.sendall(rest[sock])
                    del routes[sock]
                    continue
                *lines, rest[sock] = (rest[sock] + data).split(b"\n")
                for line in lines:
                    for new in change(channel, line):
                        try:
                            other.sendall(new + b"\n")
                        except OSError:
                            pass


def run_case(qemu: str, kernel: str, name: str,
             workdir: str) -> Tuple[str, bool, List[str], str]:
    """(name, whether it is as expected, the points that failed, the TAP)"""
    mode, _, expected = CASES[name]
    wrapper = os.path.join(workdir, name)
    with open(wrapper, "w", encoding="utf-8") as f:
        f.write("#!/bin/sh\nexec " + shlex.join(
            [*ME, name, qemu]) + ' "$@"\n')
    os.chmod(wrapper, 0o755)
    p = subprocess.run(
        [GUEST / "run", "--qemu", wrapper, "--mode", mode,
         "--jobs", "1", "--timeout", "10",
         "--kernel", glob.glob(f"{glob.escape(kernel)}/boot/vmlinuz-*")[0],
         "--busybox", f"{kernel}/bin/busybox"], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        env={**os.environ, "XHCI_WORK": workdir}, check=False)
    text = p.stdout.decode("utf-8", "replace")
    results = list(filter(None, map(tap.parse, text.splitlines())))
    failed = [POINTS[(point.number or 0) - 1] for point in results if not point.ok]
    good = (len(results) == len(POINTS) and failed == expected.split()
            and p.returncode == (1 if expected else 0)
            and (name not in SAYS
                 or re.search(f"^{SAYS[name]}", text, re.M) is not None))
    return name, good, failed, text


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command; or QEMU, in one of its cases."""
    words = list(argv or sys.argv[1:])
    if words[:1] == ["--as"]:
        return Saboteur(words[1], words[2:]).run()
    return run_main("tests/guest/selftest", lambda: _main(words))


def _main(argv: Sequence[str]) -> int:
    p = Parser("tests/guest/selftest", None, __doc__ or "")
    p.add_argument("--qemu", required=True, metavar="PATH")
    p.add_argument("--case", action="append", choices=list(CASES))
    p.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    opts = p.parse(argv)
    cases, qemu = opts.case or list(CASES), program(opts.qemu)
    fetched = subprocess.run([GUEST / "fetch-kernel"], stdout=subprocess.PIPE, text=True,
                             check=False)
    if fetched.returncode:
        die("no kernel for the guest, see above")
    kernel = fetched.stdout.rstrip("\n").split("\n")[-1]
    out = tap.Writer(len(cases))
    with tempfile.TemporaryDirectory(prefix="xhci-selftest-") as workdir, \
            concurrent.futures.ThreadPoolExecutor(opts.jobs) as pool:
        runs = pool.map(lambda name: run_case(qemu, kernel, name, workdir),
                        cases)
        for name, good, failed, text in runs:
            why = [] if good else [f"expected to fail: {CASES[name][2] or 'none'}",
                                   *text.splitlines()]
            out.point(good, f"{name}: {CASES[name][1]}; fails: {' '.join(failed) or 'none'}",
                      why)
    return 1 if out.failed else 0


if __name__ == "__main__":
    sys.exit(main())
