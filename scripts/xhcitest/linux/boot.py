# SPDX-License-Identifier: GPL-2.0-or-later
"""One boot of Linux, from power on to power off, and what it needs."""

import argparse
import contextlib
import glob
import json
import os
import random
import subprocess
import time
from typing import Dict, Iterator, List, Sequence, Set, Tuple

from xhciseries.paths import TOP
from xhciseries.ui import say

from ..modes import LINUX, OTHER
from ..qemu import firmware_options
from ..qmp import Dead, Failure
from ..scenario import Scenario
from . import image
from .disks import DISK_MIB, Disks, make_disk
from .inputs import INPUTS, KEYBOARD, KEYCODES, Inputs
from .interrupts import Interrupts
from .log import KernelLog
from .power import Power
from .vm import VM, Answer

GUEST = TOP / "tests" / "guest"

KEYS = 40
MOVES = 40
# While the whole disk is read: a press, a release and a move each time.
LOAD_INPUTS = 10
# Each time that something was done to the guest.
LATER_KEYS = 10
LATER_MOVES = 10
LATER_MIB = 4
# What is read when the state is saved, and how much a second until then: slowly,
# so that it is not over before.
SAVED_MIB = 16
SAVED_SPEED = 2
SHARED_FILES = ("initrd", "vmlinux", "disk1.raw", "disk2.raw")


def progress(text: str) -> None:
    """A line for whoever waits."""
    say(f"guest test: {text}")


class Boot(Scenario):
    """One guest, from power on to power off: a fixed list of TAP points."""

    POINTS = {
        "boot": "Linux boots and xhci_hcd binds to the controller",
        "devices": "keyboard, tablet and disk appear",
        "kind": "the controller interrupts through {mode}",
        "keys": f"{KEYS} key presses and releases, none lost or repeated",
        "moves": f"{MOVES} pointer moves, none lost or repeated",
        "load": "keys and moves arrive while the disk is read",
        "disk": f"{DISK_MIB} MiB read from the disk match",
        "count": "the interrupt count grows with every event",
        "suspend": "the idle bus is suspended",
        "wakeup": "a key wakes the bus and arrives",
        "freeze": "the guest suspends to idle and comes back",
        "resume": "keys, moves, disk and interrupts are right after that",
        "hotplug": "keyboard and disk go, come again, and are right",
        "reboot": "Linux boots once more, and all is right",
        "snapshot": "a state saved while the disk is read is restored",
        "off": "the guest powers off, QEMU exits 0",
        "log": "no complaint in the kernel log",
    }

    vm: VM

    def __init__(self, device: str, machine: str, mode: str, opts: argparse.Namespace,
                 files: "Files", logdir: str) -> None:
        super().__init__(f"{device} {mode} ({machine})", logdir)
        self.mode = LINUX[mode]
        self.timeout = opts.timeout
        self.random = random.Random(opts.seed)
        self.numbers = range(1, len(self.mode.controllers) + 1)
        # Input comes through both, if there are two, and so does the disk.
        last = f"xhci{self.numbers[-1]}.0"
        self.devices = {
            "kbd": {"driver": "usb-kbd", "bus": "xhci1.0", "port": "1"},
            "tablet": {"driver": "usb-tablet", "bus": last, "port": "2"},
            **{f"disk{n}": {"driver": "usb-storage", "bus": f"xhci{n}.0",
                            "port": "3", "drive": f"disk{n}"}
               for n in self.numbers}}
        self.vm = VM(
            [opts.qemu, *files.firmware,
             "-machine", machine, "-accel", "tcg", "-m", "512",
             "-nodefaults", "-no-user-config", "-display", "none",
             "-no-reboot",
             "-kernel", files.kernel, "-initrd", files.initrd,
             "-append", "console=ttyS0,115200 ignore_loglevel panic=-1 "
             "nokaslr cryptomgr.notests "   # which take a second
             "no_timer_check "      # it panics if the host is too busy for a tick
             f"wait={opts.timeout} {self.mode.append}".strip(),
             "-object", "throttle-group,id=disks",
             *self.device_options(device, opts.with_msi, files.disks),
             *opts.qemu_args], self.logdir)
        self.inputs = Inputs(self.vm, self.random, opts.timeout)
        self.disks = Disks(self.vm, files.disk_sums, self.numbers)
        self.interrupts = Interrupts(self.vm, self.mode, self.notes)
        self.power = Power(self.vm, self.inputs, self.interrupts)
        self.log = KernelLog(self.vm)

    def device_options(self, device: str, with_msi: Set[str],
                       files: Sequence[str]) -> Iterator[str]:
        """The controllers, and what is behind them."""
        rest = device.partition(",")[2]
        names = device.split(",")[0], OTHER.get(device.split(",")[0])
        for n, name, props in zip(self.numbers, names, self.mode.controllers):
            if name not in with_msi:    # it has MSI-X, and the guest the pin
                props = props.partition(",msi=")[0]
            if n == 1 and rest:
                props += "," + rest
            yield from ("-device", f"{name},id=xhci{n},{props}")
            yield from ("-blockdev", json.dumps({
                "driver": "throttle", "node-name": f"disk{n}",
                "throttle-group": "disks", "read-only": True,
                "file": {"driver": "file", "filename": files[n - 1],
                         "read-only": True}}))
        for label, device_props in self.devices.items():
            yield from ("-device", json.dumps({**device_props, "id": label}))

    def title(self, point: str) -> str:
        """With the name of the mode."""
        return super().title(point).format(mode=self.mode.title)

    def logs(self) -> str:
        """All there are."""
        return (f"kernel log: {self.vm.serial}; beside it "
                f"{os.path.basename(self.vm.talk)} (what the guest answered) "
                f"and {os.path.basename(self.vm.stderr)}")

    def post_mortem(self) -> List[str]:
        """With what the kernel said last."""
        return super().post_mortem() + self.log.panics()[:5]

    def scenario(self) -> None:
        """From power on to power off."""
        vm = self.vm
        with self.point("boot"):
            vm.start()
            vm.wait_ready()
            self.check_booted()
            self.notes.append("guest: Linux "
                              + vm.check_command("uname -r")[0])
        progress(f"{self.name}: booted")
        with self.point("devices"):
            self.find_devices(INPUTS)
        with self.point("kind"):
            self.interrupts.check_kind()

        before = self.interrupts.count()
        with self.point("keys"):
            self.inputs.send_keys(KEYS)
        with self.point("moves"):
            self.inputs.send_moves(MOVES)
        after_inputs = self.interrupts.count()
        progress(f"{self.name}: input sent")
        self.settle("keys", "kbd")
        self.settle("moves", "tablet")
        self.inputs.forget()
        readings = [self.disks.begin_reading("all")]
        with self.point("load"):
            self.send_under_load(readings)
        with self.point("disk"):
            for reading in readings:
                self.disks.check_reading(reading, "all")
        after_disk = self.interrupts.count()
        with self.point("count"):
            self.interrupts.check_count(before, after_inputs, after_disk, KEYS + MOVES,
                                        3 * LOAD_INPUTS)
        self.settle("load", "kbd", "tablet")

        self.inputs.forget()
        with self.point("suspend"):
            self.power.suspend_bus()
        with self.point("wakeup"):
            self.power.wake_bus()
        with self.point("freeze"):
            self.power.freeze()
        self.settle("wakeup", "kbd")
        with self.point("resume"):
            self.watch_reports(*INPUTS)
            self.check_works()
        self.settle("resume", "kbd", "tablet")
        progress(f"{self.name}: resumed")

        with self.point("hotplug"):
            self.replug()
            self.check_works()
        self.settle("hotplug", "kbd", "tablet")
        with self.point("reboot"):
            vm.reboot()
            self.check_booted()
            self.find_devices(INPUTS)
            self.check_works()
        self.settle("reboot", "kbd", "tablet")
        progress(f"{self.name}: rebooted")

        with self.point("snapshot"):
            self.save_and_restore()
            self.check_works()
        with self.point("off"):
            reason, status = vm.power_off()
            if (reason, status) != ("guest-shutdown", 0):
                raise Failure(f"QEMU exits with status {status}, "
                              f"shutdown reason {reason}")
        # Only now is it certain that nothing came late or twice.
        self.settle("snapshot", "kbd", "tablet")
        with self.point("log"):
            self.log.check()

    def settle(self, point: str, *labels: str) -> None:
        """What came late or twice is here by now: POINT fails for it."""
        if self.results[point][0]:      # else known to be incomplete
            with self.point(point):
                for label in labels:
                    self.inputs.compare(label)

    def check_booted(self) -> None:
        """xhci_hcd drives as many controllers as there are."""
        found = self.vm.command("wait_for controllers >/dev/null; "
                                "controllers")[1]
        if len(found) != len(self.mode.controllers):
            raise Failure("controllers that xhci_hcd drives, "
                          f"{len(self.mode.controllers)} expected: "
                          f"{' '.join(found) or 'none'}")

    def find_devices(self, inputs: Dict[str, Tuple[str, int]]) -> None:
        """Wait for them, and have their events reported."""
        for label, (name, _) in inputs.items():
            self.vm.check_command(f"wait_for input_event '{name}'")
            self.vm.check_command(f"watch_events {label} '{name}'")
            self.watch_reports(label)
        for n in self.numbers:
            self.vm.check_command(f"wait_for disk {n}")

    def watch_reports(self, *labels: str) -> None:
        """Have their HID reports, too."""
        for label in labels:
            name, size = INPUTS[label]
            self.vm.check_command(f"watch_reports {label} '{name}' {size}")

    def replug(self) -> None:
        """Unplug keyboard and disks, and plug them in again."""
        vm = self.vm
        gone = ["kbd", *(f"disk{n}" for n in self.numbers)]
        looks = [f"input_event '{KEYBOARD['kbd'][0]}'",
                 *(f"disk {n}" for n in self.numbers)]
        places = ["/sys/class/input", *["/sys/block"] * len(self.numbers)]
        for look, place in zip(looks, places):
            self.log.unplugged += vm.check_command(
                f'unplug_line "{place}/$({look})"')
        for label in gone:
            since = len(vm.qmp_events)
            vm.qmp("device_del", id=label)
            vm.wait_event("DEVICE_DELETED", since, device=label)
        for look in looks:
            vm.check_command(f"wait_for not {look}")
        for label in gone:
            vm.qmp("device_add", **self.devices[label], id=label)
        self.find_devices(KEYBOARD)

    def save_and_restore(self) -> None:
        """Another QEMU goes on while the disk is read and a key is pressed."""
        vm = self.vm
        self.inputs.forget()
        state = os.path.join(self.logdir, "state")
        vm.qmp("qom-set", path="/objects/disks", property="limits",
               value={"bps-read": SAVED_SPEED << 20})
        before = self.disks.bytes_read()
        reading = self.disks.begin_reading(SAVED_MIB)
        deadline = time.monotonic() + self.timeout
        while not all(self.disks.read_since(before)):
            if time.monotonic() >= deadline:
                raise Failure("the guest does not read the disk")
            time.sleep(.02)
        # Not waited for: it may be anywhere on its way.
        self.inputs.expected["evdev", "kbd"] = [(KEYCODES["s"][0], 1)]
        self.inputs.expected["hidraw", "kbd"] = [[KEYCODES["s"][1]]]
        vm.qmp("input-send-event", events=[self.inputs.key_event("s", True)])
        vm.qmp("stop")
        read = self.disks.read_since(before)
        try:
            vm.save(state)
            vm.restore(state)
        except Dead:
            raise
        except Failure as e:    # neither of them can go on
            raise Dead(str(e)) from e
        finally:
            with contextlib.suppress(OSError):
                self.notes.append(f"state: {os.path.getsize(state) >> 20} "
                                  f"MiB, read before: {read}")
                os.unlink(state)
        self.inputs.wait_for("kbd", "key 's' down, from before")
        self.inputs.expected["evdev", "kbd"].append((KEYCODES["s"][0], 0))
        self.inputs.expected["hidraw", "kbd"].append([])
        self.inputs.send_key("s", False)
        self.disks.check_reading(reading, SAVED_MIB)
        self.inputs.compare("kbd")
        if max(read, default=0) >= SAVED_MIB << 20:
            raise Failure("the disk was read before the state was saved")

    def check_works(self) -> None:
        """A bit of everything, after what was done to the guest."""
        self.inputs.forget()
        self.interrupts.check_kind()
        # Linux may have started to count anew.
        before = self.interrupts.count()
        self.inputs.send_keys(LATER_KEYS)
        self.inputs.send_moves(LATER_MOVES)
        after_inputs = self.interrupts.count()
        self.disks.check_reading(self.disks.begin_reading(LATER_MIB), LATER_MIB)
        self.interrupts.check_count(before, after_inputs, self.interrupts.count(),
                                    LATER_KEYS + LATER_MOVES)

    def send_under_load(self, readings: List[Answer]) -> None:
        """While the disks are read; once more, if that is too fast."""
        for _ in range(LOAD_INPUTS):
            time.sleep(self.random.uniform(0, .1))
            self.inputs.send_keys(2)
            self.inputs.send_moves(1)
            if readings[-1].status is not None:     # that was fast
                readings.append(self.disks.begin_reading("all"))


class Files:
    """What the guests of one run share."""

    def __init__(self, opts: argparse.Namespace, rundir: str) -> None:
        self.firmware = firmware_options(opts.qemu)
        if opts.kernel:
            self.vmlinuz, busybox = opts.kernel, "/bin/busybox"
        else:
            p = subprocess.run([GUEST / "fetch-kernel"],
                               stdout=subprocess.PIPE, check=False)
            if p.returncode:
                raise Failure("no kernel for the guest, see above")
            top = p.stdout.decode().rstrip("\n").split("\n")[-1]
            self.vmlinuz = max(glob.glob(f"{glob.escape(top)}/boot/vmlinuz-*"),
                               default=f"{top}/boot/vmlinuz")
            busybox = f"{top}/bin/busybox"
        if not os.path.isfile(self.vmlinuz):
            raise Failure(f"no kernel {self.vmlinuz}")
        self.initrd, unpacked, *self.disks = (os.path.join(rundir, name)
                                              for name in SHARED_FILES)
        image.build_initramfs(self.initrd, self.vmlinuz,
                              opts.busybox or busybox)
        self.kernel = image.unpack_kernel(unpacked, self.vmlinuz)
        content = random.Random(opts.seed)
        self.disk_sums = [make_disk(disk, content) for disk in self.disks]
