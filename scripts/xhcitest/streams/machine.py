# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU whose state is saved, and others that load it, changed."""

import contextlib
import re
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass, replace
from typing import Iterator, List, Optional, Sequence, Tuple

from xhciseries.ui import Error

from .. import process
from ..bench import xhci
from ..modes import DEVICES, PROPERTIES
from ..qemu import Process
from ..qmp import Dead, Failure, Gone, Qmp
from .guest import DISK_STATES, KINDS, ORDERS, Guest

#: Bytes of address space for a QEMU that loads a state
MEMORY = 2 << 30
#: Seconds for an answer of QEMU; more is a hang
LIMIT = 20
#: As bench.xhci calls them
MODES = {'pin': 'pin', 'msi': 'MSI', 'msix': 'MSI-X'}


@dataclass(frozen=True)
class Scenario:
    """A guest whose state is saved, and what is done once it is loaded.

    Args:
        controller: nec-usb-xhci or qemu-xhci
        mode: how it interrupts
        disk: what the disk is at, one of DISK_STATES
        then: what comes first after the load, one of ORDERS
    """

    controller: str
    mode: str
    disk: str
    then: str = 'use'

    def __str__(self) -> str:
        return ','.join((self.controller, self.mode, self.disk, self.then))

    @classmethod
    def parse(cls, text: str) -> 'Scenario':
        """From what str() gives."""
        words = text.split(',')
        known = DEVICES, tuple(MODES), DISK_STATES, ORDERS
        if len(words) not in (3, 4) or any(word not in names
                                           for word, names in zip(words, known)):
            raise Error(f'{text} is no scenario: CONTROLLER,MODE,DISK[,THEN]')
        return cls(*words)

    @property
    def saved(self) -> 'Scenario':
        """The same for all that are loaded from one state."""
        return replace(self, then='use')

    def command(self, qemu: str) -> List[str]:
        """The command line, without sockets."""
        properties = f'{xhci.DEVICE},{PROPERTIES[self.mode]}'
        command = [
            qemu, '-machine', 'pc', '-accel', 'qtest', '-m', '8', '-nodefaults',
            '-no-user-config', '-display', 'none', '-mon', 'chardev=qmp,mode=control',
            '-qtest', 'chardev:qtest', '-qtest-log', 'none', '-blockdev',
            'driver=null-co,node-name=disk,read-zeroes=on,size=1048576',
            '-device', f'{self.controller},id=xhci,{properties}']
        for port, kind in enumerate(KINDS, 1):
            device = f'{kind},id={kind},bus=xhci.0,port={port}'
            command += ['-device', device + ',drive=disk' * (kind == 'usb-storage')]
        return command


class Machine:
    """A process, with the ends of its sockets."""

    def __init__(self, command: Sequence[str], log: str) -> None:
        self.process = Process(command, log)
        near, far = socket.socketpair()
        qtest, qtest_far = socket.socketpair()
        near.settimeout(LIMIT)
        qtest.settimeout(LIMIT)
        self.qtest, self.qmp = qtest, Qmp(near, LIMIT)
        self.process.start({'qmp': far, 'qtest': qtest_far})

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        if self.process.proc:
            self.process.wait()
        self.qtest.close()
        self.qmp.sock.close()

    def wait(self) -> Optional[int]:
        """Its exit status, or None if it does not end."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return None


@contextlib.contextmanager
def running(command: Sequence[str], log: str) -> Iterator[Machine]:
    """A machine for the time of a block."""
    machine = Machine(command, log)
    try:
        yield machine
    finally:
        machine.close()


def save(qemu: str, scenario: Scenario, path: str, log: str) -> Guest:
    """Bring up a guest, and save its state to a file."""
    with running(scenario.command(qemu), log) as machine:
        machine.qmp.greet()
        rings = 1 if scenario.mode == 'pin' else 3
        guest = Guest(machine.qtest, MODES[scenario.mode], rings)
        guest.get_busy(machine.qmp, scenario.disk)
        machine.qmp.execute('migrate', uri=f'exec:cat >{shlex.quote(path)}')
        deadline = time.monotonic() + LIMIT
        while (status := machine.qmp.execute('query-migrate')['status']) != 'completed':
            if status == 'failed' or time.monotonic() > deadline:
                raise Error(f'the state of {scenario} is not saved: {status}')
            time.sleep(.01)
    return guest


def load(qemu: str, scenario: Scenario, guest: Guest, path: str, log: str,
         memory: str = str(MEMORY)) -> Tuple[bool, str]:
    """Load a state, and use it if QEMU takes it: whether all is well, and what came."""
    command = ['prlimit', f'--as={memory}', '--core=0',
               *scenario.command(qemu),
               '-incoming', f'exec:cat {shlex.quote(path)}']
    loaded, doing = False, 'loads the state'
    with running(command, log) as machine:
        try:
            machine.qmp.greet()
            deadline = time.monotonic() + LIMIT
            while machine.qmp.execute('query-status')['status'] == 'inmigrate':
                if time.monotonic() > deadline:
                    raise Dead(f'the state is not loaded after {LIMIT} s')
                time.sleep(.002)
            loaded, doing = True, 'is used'
            guest.copy(machine.qtest).use(machine.qmp, scenario.then)
            doing = 'ends'
            machine.qmp.send('quit')
        except (Dead, Failure, xhci.DriverError) as e:
            if not isinstance(e, Gone) and 'died' not in str(e) and machine.process.runs():
                return False, f'hangs when it {doing}: {e}'
        status = machine.wait()
        if status is None:
            return False, f'hangs when it {doing}'
        if status == 0 and loaded:
            return True, 'goes on'
        if status == 1 and not loaded:
            return True, 'refuses the state'
        return False, f'{process.ending(status)} when it {doing}: {last_words(log)}'


def last_words(log: str) -> str:
    """What QEMU says about its end: the last line that it printed, without its name."""
    with open(log, encoding='utf-8', errors='replace') as file:
        lines = [line for line in file.read().splitlines()[1:] if 'warning: ' not in line]
    return re.sub(r'^\S+: ', '', lines[-1]) if lines else 'no message'
