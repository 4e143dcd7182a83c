# SPDX-License-Identifier: GPL-2.0-or-later
"""The macOS-like guest of tests/guest/macos, on any binary."""

import os
import random
import shlex
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from xhciseries.paths import WORK
from xhciseries.ui import die

from xhcitest.macos import guest as macos
from xhcitest.qmp import Failure

#: Seconds that the guest may take to start, and QEMU to save or load its state
START_TIMEOUT, STATE_TIMEOUT = 60, 30
#: Key events, half of them releases, and seconds between two of them
KEYS, KEYS_AFTER_RESTORE = 16, 6
INTERVAL = .05, .25
#: Seconds until the last ones must have arrived: the guest's timeout is one
KEY_TIMEOUT = 4


def build() -> str:
    """The guest's ELF file, compiled unless it is there and current."""
    folder = WORK / 'diagnose'
    elf = folder / 'macos-guest.elf'
    sources = Path(macos.SOURCES).glob('*.*')
    try:
        made = elf.stat().st_mtime
    except OSError:
        made = 0
    if all(source.stat().st_mtime <= made for source in sources):
        return str(elf)
    try:
        return str(macos.build(str(folder)))
    except Failure as error:
        die(str(error).replace('\n', ' / ') + ' (install gcc)')


class Guest(macos.Guest):
    """A guest with a keyboard, and with the controller that `options` make."""

    def __init__(self, name: str, qemu: str, options: Sequence[str], elf: str,
                 folder: Path, *more: str) -> None:
        super().__init__(name, qemu, 'pc', 'nec-usb-xhci', elf, os.devnull, str(folder))
        self.options, self.folder = options, folder
        self.events: List[Dict[str, Any]] = []
        # The base class puts QEMU and its firmware first. A keyboard alone
        # starts soonest where every transfer waits for the guest's timeout.
        first = self.argv.index('-machine')
        self.firmware = self.argv[1:first]
        self.argv[first:] = [
            *_unless(options, ('-machine', '-M', '-readconfig'), '-machine', 'pc'),
            *_unless(options, ('-accel',), '-accel', 'tcg'),
            '-m', '64', '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot',
            # QEMU creates devices in JSON last: the controller may be one.
            '-kernel', elf, *options, '-device', '{"driver": "usb-kbd"}', *more]

    def _qmp_line(self, message: Dict[str, Any]) -> None:
        super()._qmp_line(message)
        if 'event' in message:
            self.events.append(message)

    def begin(self) -> None:
        """Start QEMU, with events for what happens to its state."""
        self.start()
        self.qmp('migrate-set-capabilities',
                 capabilities=[{'capability': 'events', 'state': True}])

    def wait(self, enough: Callable[[Any], Any], seconds: float, what: str) -> bool:
        """Whether enough() came to be; else self.failure says why not."""
        macos.wait([self], enough, seconds, what)
        return not self.failure

    def boot(self) -> bool:
        """Start, until the guest takes input."""
        self.begin()
        return self.wait(lambda g: g.ready, START_TIMEOUT, 'start of the guest')

    def type_keys(self, count: int) -> None:
        """Press and release keys, and give each time to arrive."""
        rand = random.Random(self.name)
        for number in range(count):
            due = time.monotonic() + rand.uniform(*INTERVAL)
            while not self.failure and (left := due - time.monotonic()) > 0:
                macos.serve([self], time.monotonic() + left)
            if self.failure:
                return
            self.send_counted(macos.key_input('abcd'[number // 2 % 4], number % 2 == 0))
        deadline = time.monotonic() + KEY_TIMEOUT
        while time.monotonic() < deadline and self.lost() and not self.failure:
            macos.serve([self], deadline)

    def migrated(self) -> Optional[str]:
        """How saving or loading the state ended, if it has."""
        for event in self.events:
            status = event.get('data', {}).get('status')
            if event['event'] == 'MIGRATION' and status in ('completed', 'failed'):
                return str(status)
        return None

    def restore_in(self, other: 'Guest') -> None:
        """Save the state, and load it into another QEMU, which has -incoming defer."""
        path = self.folder / f'{self.name}.state'
        self.qmp('migrate', uri=f'exec:cat >{shlex.quote(str(path))}')
        if not self.wait(Guest.migrated, STATE_TIMEOUT, 'saving the state') or \
                self.migrated() != 'completed':
            other.failure = self.failure or 'QEMU cannot save the state'
            return
        self.close()
        other.begin()
        other.qmp('migrate-incoming', uri=f'exec:cat {shlex.quote(str(path))}')
        if other.wait(Guest.migrated, STATE_TIMEOUT, 'loading the state') and \
                other.migrated() != 'completed':
            other.failure = 'QEMU does not load the state'

    def arrived(self) -> List[Any]:
        """Of the inputs that were sent, those that the guest saw."""
        return [i for i in self.inputs if i.arrived is not None]

    def late(self) -> int:
        """How many of these no interrupt had told the guest of."""
        return sum(i.how == 'watchdog' for i in self.arrived())

    def median(self) -> float:
        """Of the latencies, in milliseconds."""
        return float(1000 * statistics.median(i.latency for i in self.arrived()))


def _unless(options: Sequence[str], given: Sequence[str], *default: str) -> Sequence[str]:
    return () if any(o in given for o in options) else default
