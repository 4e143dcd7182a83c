# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot firmware from a disk behind a QEMU's xHCI, and type on its keyboard."""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from typing import List, Optional, Sequence

from xhciseries.paths import TOP
from xhciseries.ui import run_main, say

from .guests import Folder, run_scenarios, shared_options
from .modes import DEVICES, PROPERTIES
from .qemu import Qemu, firmware_options, program
from .qmp import Dead, Failure, Gone
from .scenario import Scenario

FOLDER = TOP / "tests" / "guest" / "firmware"

BOOT_TIMEOUT = 180
KEY_TIMEOUT = 20
SUM_TIMEOUT = 120
BOOT_SIZE = 1 << 20         # of the boot disk, before the data
DATA_SIZE = 16 << 20
SECOND_SIZE = 4 << 20
LINES = 5                   # of eight keys each

KEYS = {" ": ("spc",), "\n": ("ret",), "+": ("shift", "equal"),
        "(": ("shift", "9"), ")": ("shift", "0")}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
ESCAPE = re.compile(r"\x1b\[[0-9;=?]*[A-Za-z]")

# How GRUB is made: its format, its own modules, and where its files are.
GRUB = {"seabios": ("i386-pc", ["biosdisk"]),
        "ovmf": ("x86_64-efi", ["fat"])}
MODULES = ["memdisk", "tar", "normal", "serial", "terminal", "terminfo",
           "echo", "read", "eval", "true", "hashsum", "gcry_md5", "reboot",
           "halt"]


def progress(text: str) -> None:
    """A line for whoever waits."""
    say(f"firmware test: {text}")


class Files:
    """What the guests of one run share."""

    def __init__(self, opts: argparse.Namespace, rundir: str) -> None:
        self.dir = rundir
        self.options = firmware_options(opts.qemu)
        p = subprocess.run([FOLDER / "fetch"],
                           stdout=subprocess.PIPE, check=False)
        if p.returncode:
            raise Failure("no firmware, see above")
        self.top = p.stdout.decode().rstrip("\n").split("\n")[-1]
        rand = random.Random(opts.seed)
        self.data, second = map(rand.randbytes, (DATA_SIZE, SECOND_SIZE))
        self.second = self.write("second.raw", second)
        self.sums = [hashlib.md5(content, usedforsecurity=False).hexdigest()
                     for content in (self.data, second)]
        self.disks = {name: self.make_disk(name) for name in opts.firmware}

    def path(self, name: str) -> str:
        """Of a file of this run."""
        return os.path.join(self.dir, name)

    def write(self, name: str, content: bytes) -> str:
        """A file of this run; its path."""
        with open(self.path(name), "wb") as f:
            f.write(content)
        return self.path(name)

    def tool(self, *command: str) -> None:
        """Run one of those that were fetched."""
        libs = [f"{self.top}{d}/x86_64-linux-gnu"
                for d in ("/usr/lib", "/lib")]
        env = {**os.environ, "LD_LIBRARY_PATH": ":".join(libs),
               "MTOOLS_SKIP_CHECK": "1"}
        p = subprocess.run([f"{self.top}/usr/bin/{command[0]}", *command[1:]],
                           env=env, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, check=False)
        if p.returncode:
            raise Failure(f"{command[0]}: {p.stdout.decode().strip()}")

    def make_disk(self, name: str) -> str:
        """A disk that boots GRUB, and the data from BOOT_SIZE on."""
        image, modules = GRUB[name]
        libdir = f"{self.top}/usr/lib/grub/{image}"
        core, config = self.path(f"{name}.core"), self.path("grub.tar")
        subprocess.run(["tar", "--format=ustar", "-C", FOLDER, "-cf", config,
                        "grub.cfg"], check=True)
        self.tool("grub-mkimage", "-d", libdir, "-O", image, "-m", config,
                  "-p", "(memdisk)/", "-o", core, *modules, *MODULES)
        with open(core, "rb") as f:
            content = f.read()
        if name == "seabios":
            with open(f"{libdir}/boot.img", "rb") as f:
                content = f.read() + content
        else:
            fat = self.write(f"{name}.fat", bytes(BOOT_SIZE))
            self.tool("mformat", "-i", fat, "-h", "2", "-s", "16", "-t", "64",
                      "::")
            self.tool("mmd", "-i", fat, "::/EFI", "::/EFI/BOOT")
            self.tool("mcopy", "-i", fat, core, "::/EFI/BOOT/BOOTX64.EFI")
            with open(fat, "rb") as f:
                content = f.read()
        if len(content) > BOOT_SIZE:
            raise Failure(f"GRUB is larger than {BOOT_SIZE} bytes")
        return self.write(f"{name}.raw",
                          content.ljust(BOOT_SIZE, b"\0") + self.data)


def blockdev(node: str, path: str) -> List[str]:
    """QEMU's options for a disk that is only read."""
    return ["-blockdev", json.dumps({"driver": "raw", "node-name": node,
                                     "read-only": True, "file": {
                                         "driver": "file", "filename": path}})]


class Boot(Scenario):
    """GRUB, which leaves keyboard and disks to the firmware."""

    POINTS = {
        "boot": "boots from the disk",
        "keys": f"{8 * LINES} keys, none lost or repeated",
        "disk": f"{DATA_SIZE >> 20} MiB read from the disk match",
        "second": f"{SECOND_SIZE >> 20} MiB behind a second controller match",
        "replug": "a keyboard that was replaced before a reset works",
        "reboot": "boots again after a reboot, with keyboard and disk",
        "snapshot": "saved while it reads the disk and restored, it goes on",
        "off": "the guest powers off, QEMU exits 0",
    }

    def __init__(self, firmware: str, device: str, machine: str, mode: str,
                 opts: argparse.Namespace, files: Files, logdir: str) -> None:
        super().__init__(f"{firmware}, {device} {mode} ({machine})", logdir)
        self.firmware = firmware
        self.sums = files.sums
        self.random = random.Random(opts.seed)
        self.read_from = 0      # where in the console
        self.boot_disk = 0      # as GRUB counts them
        self.vm = Qemu(
            [opts.qemu, *files.options,
             # Without a PS/2 keyboard there is only ours.
             "-machine", f"{machine},i8042=off", "-accel", "tcg", "-m", "256",
             "-nodefaults", "-no-user-config", "-display", "none",
             *self.flash(files),
             "-device", f"{device},id=xhci,{PROPERTIES[mode]}",
             "-device", "usb-kbd,bus=xhci.0,port=1,id=kbd",
             *blockdev("disk", files.disks[firmware]),
             "-device", "usb-storage,bus=xhci.0,drive=disk,bootindex=0",
             "-device", "qemu-xhci,id=second",
             *blockdev("second", files.second),
             "-device", "usb-storage,bus=second.0,drive=second,bootindex=1"],
            self.logdir)

    def flash(self, files: Files) -> List[str]:
        """Where EDK2 is."""
        if self.firmware != "ovmf":
            return []
        top = f"{files.top}/usr/share/OVMF"
        variables = os.path.join(self.logdir, "OVMF_VARS.fd")
        shutil.copyfile(f"{top}/OVMF_VARS.fd", variables)
        return ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,"
                f"file={top}/OVMF_CODE.fd",
                "-drive", f"if=pflash,unit=1,format=raw,file={variables}"]

    def scenario(self) -> None:
        """From power on to power off."""
        with self.point("boot"):
            self.vm.start()
            self.wait_ready()
        progress(f"{self.name}: booted")
        with self.point("keys"):
            self.type_lines(LINES)
        with self.point("disk"):
            self.check_sum()
        with self.point("second"):
            self.check_sum(first=False)
        with self.point("replug"):
            self.replug()
        with self.point("reboot"):
            self.type("reboot\n")
            self.wait_ready()
            self.type_lines(2)
            self.check_sum(first=False)
        with self.point("snapshot"):
            self.snapshot()
            self.type_lines(2)
        with self.point("off"):
            self.type("halt\n", wait=False)
            reason, status = self.vm.wait_exit()
            if (reason, status) != ("guest-shutdown", 0):
                raise Failure(f"QEMU exits with status {status}, "
                              f"shutdown reason {reason}")

    # The console

    def console(self) -> str:
        """What was said that nobody waited for yet."""
        text = "\n".join(self.vm.console())
        return ESCAPE.sub("", text)[self.read_from:]

    def wait(self, text: str, timeout: float, dead: bool = False) -> str:
        """Until the console says TEXT; forget all up to there."""
        deadline = time.monotonic() + timeout
        while True:
            said = self.console()
            at = said.find(text)
            if at >= 0:
                self.read_from += at + len(text)
                return said[:at]
            if not self.vm.process.runs():
                raise Gone("QEMU is gone")
            if time.monotonic() >= deadline:
                tail = said.strip().split("\n")[-1][-100:]
                raise (Dead if dead else Failure)(
                    f"no {text.strip()!r} in {timeout} s, but {tail!r}")
            time.sleep(.005)

    def press(self, char: str) -> None:
        """A key, and let it go."""
        keys = KEYS.get(char, (char,))
        self.vm.qmp("input-send-event", events=[
            {"type": "key", "data": {"down": down, "key": {
                "type": "qcode", "data": key}}}
            for down in (True, False)
            for key in (keys if down else keys[::-1])])

    def type(self, text: str, wait: bool = True) -> None:
        """Each key after the one before was seen: the queues are short."""
        for char in text:
            self.press(char)
            if wait and char != "\n":
                got = self.wait(char, KEY_TIMEOUT)
                if got.strip():
                    raise Failure(f"typed {char!r} of {text!r}, got {got!r}")
        if wait:
            self.wait(f"line {text}", KEY_TIMEOUT)

    def type_lines(self, count: int) -> None:
        """Lines that GRUB repeats."""
        for _ in range(count):
            word = "".join(self.random.choice(LETTERS) for _ in range(3))
            self.type(f"echo {word}\n")
            self.wait(f"{word}\n", KEY_TIMEOUT)
            self.wait("status 0\n", KEY_TIMEOUT)

    # The steps

    def wait_ready(self) -> None:
        """Until GRUB is up.  It says from which of the two disks."""
        self.wait("ready (hd", BOOT_TIMEOUT, dead=True)
        self.boot_disk = int(self.wait(")", KEY_TIMEOUT))
        self.wait("\n", KEY_TIMEOUT)

    def start_sum(self, first: bool = True) -> None:
        """Of the disk that it booted from, or the other."""
        disk, blocks = ((self.boot_disk, f"{BOOT_SIZE // 512}"
                         f"+{DATA_SIZE // 512}") if first else
                        (1 - self.boot_disk, f"0+{SECOND_SIZE // 512}"))
        self.type(f"md5sum (hd{disk}){blocks}\n")

    def end_sum(self, first: bool = True) -> None:
        """Wait for it, and compare."""
        said = self.wait("status ", SUM_TIMEOUT).strip()
        self.wait("\n", KEY_TIMEOUT)
        want = self.sums[not first]
        if not said.startswith(f"{want} "):
            raise Failure(f"the sum is {said!r}, expected {want}")

    def check_sum(self, first: bool = True) -> None:
        """Both."""
        self.start_sum(first)
        self.end_sum(first)

    def replug(self) -> None:
        """Replace the keyboard, and reset."""
        since = len(self.vm.qmp_events)
        self.vm.qmp("device_del", id="kbd")
        self.vm.wait_event("DEVICE_DELETED", since)
        self.vm.qmp("device_add", driver="usb-kbd", bus="xhci.0", port="1",
                    id="kbd")
        # Both firmwares look for keyboards only when they start.
        self.vm.qmp("system_reset")
        self.wait_ready()
        self.type_lines(2)

    def bytes_read(self) -> int:
        """From all disks."""
        return sum(device["stats"]["rd_bytes"]
                   for device in self.vm.qmp("query-blockstats"))

    def snapshot(self) -> None:
        """Another QEMU goes on while the disk is read."""
        before = self.bytes_read()
        self.start_sum()
        while self.bytes_read() - before < DATA_SIZE // 8:
            if "status" in self.console():
                raise Failure("the disk is not read")
            time.sleep(.005)
        state = os.path.join(self.logdir, "state")
        self.vm.save(state)
        if "status" in self.console():
            raise Failure("saved too late")
        self.vm.restore(state)
        os.unlink(state)
        self.end_sum()


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    p = shared_options("tests/guest/firmware/run", __doc__,
                       "--mode, --firmware, --device and --machine may be repeated.\n"
                       "The logs of a failure stay a day.", modes=PROPERTIES)
    p.add_argument("--firmware", action="append", choices=list(GRUB), help="default: all")
    p.add_argument("--device", action="append", choices=DEVICES,
                   help="default: nec-usb-xhci")
    p.add_argument("--machine", action="append", choices=("pc", "q35"),
                   help="default: q35")
    opts = p.parse(argv)
    opts.firmware = opts.firmware or list(GRUB)
    # None of the firmware uses interrupts: what differs is the controller.
    opts.mode = opts.mode or ["pin"]
    opts.device = opts.device or ["nec-usb-xhci"]
    opts.machine = opts.machine or ["q35"]
    opts.qemu = program(opts.qemu)
    return opts


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main("tests/guest/firmware/run", lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    opts = parse(argv)
    with Folder("run-firmware") as folder:
        files = Files(opts, folder.path)
        boots = [Boot(firmware, device, machine, mode, opts, files, folder.path)
                 for device in opts.device for machine in opts.machine
                 for mode in opts.mode for firmware in opts.firmware]
        return run_scenarios("firmware test", boots, opts, folder)


if __name__ == "__main__":
    sys.exit(main())
