# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/diagnose --qmp: look at a running VM, and change nothing.

Only queries are sent: registers of the controller are read with the monitor's
`xp`, and no register that is read here changes by that. Section numbers are those
of the xHCI specification, revision 1.2.
"""

import collections
import re
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from xhciseries.ui import Error, die

from xhcitest.qmp import Dead, Gone, Message, Qmp

from .verdict import AFFECTED, FINE, UNKNOWN, Report

#: Seconds for an answer of QEMU
TIMEOUT = 10
#: How often the interrupters are looked at, and seconds between two looks
LOOKS, INTERVAL = 20, .05

#: PCI IDs of QEMU's xHCI controllers
TYPES = {(0x1033, 0x0194): 'nec-usb-xhci', (0x1b36, 0x000d): 'qemu-xhci'}
PROPERTIES = 'msi', 'msix', 'intrs', 'slots', 'conditional-intr-mapping'

# Registers: 5.3, 5.4, 5.5.2; the MSI-X table is QEMU's choice
HCSPARAMS1, RTSOFF, USBCMD = 0x04, 0x18, 0x00
RS, INTE, IP, IE, EHB = 1, 4, 1, 2, 8
MSIX_TABLE = 0x3000
PCI_CAPABILITIES, CAP_MSI, CAP_MSIX = 0x34, 0x05, 0x11
MSI_ENABLE, MSIX_ENABLE = 1 << 16, 1 << 31


class Monitor(Qmp):
    """A client of the QMP socket at an address, with what messages it needs."""

    def __init__(self, address: str) -> None:
        host, colon, port = address.rpartition(':')
        try:
            if colon and port.isdigit() and '/' not in address:
                sock = socket.create_connection((host or 'localhost', int(port)), TIMEOUT)
            else:
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(TIMEOUT)
                sock.connect(address)
        except OSError as error:
            die(f'cannot connect to {address}: {error.strerror or error} (start QEMU with '
                '-qmp unix:PATH,server=on,wait=off)')
        super().__init__(sock, TIMEOUT)
        greeting = self.message(lambda m: True, TIMEOUT, 'greeting')
        if 'QMP' not in greeting:
            die(f'{address} is not a QMP socket')
        version = greeting['QMP']['version']
        numbers = version['qemu']
        self.version = f"{numbers['major']}.{numbers['minor']}.{numbers['micro']}"
        self.package = version.get('package', '')
        self.execute('qmp_capabilities')

    def close(self) -> None:
        """Leave the socket to others."""
        self.sock.close()

    def message(self, enough: Callable[[Message], bool], timeout: float, what: str) -> Message:
        """The next one that is enough; seconds until that is too late."""
        try:
            return super().message(enough, timeout, what)
        except Gone:
            die('QEMU has closed the QMP socket')
        except Dead:
            die(f'QEMU does not answer in {TIMEOUT} s: if something else, such as libvirt, uses '
                'this socket, give QEMU another one (-qmp once more)')
        except ValueError:
            die('this is not a QMP socket: its answer is not JSON')

    def hmp(self, command: str) -> str:
        """What the human monitor prints."""
        return str(self.execute('human-monitor-command', **{'command-line': command}))

    def words(self, address: int, count: int) -> List[int]:
        """32-bit words of the guest's physical memory; fewer if there are none."""
        text = self.hmp(f'xp /{count}wx {address:#x}')
        return [int(word, 16) for line in text.splitlines()
                for word in re.findall(r'0x([0-9a-f]{8})\b', line.partition(':')[2])]


@dataclass
class Controller:
    """An xHCI controller on PCI."""

    kind: str
    bus: int
    slot: int
    function: int
    bar: Optional[int]
    qdev_id: str
    properties: Dict[str, Any] = field(default_factory=dict)
    #: What follows is None if it cannot be seen
    running: Optional[bool] = None
    mode: Optional[str] = None
    how: str = ''
    rings: List[int] = field(default_factory=list)      # that have IE and a size
    #: Ring: the looks that found IP or EHB set
    waiting: 'collections.Counter[int]' = field(default_factory=collections.Counter)
    msix_table: bool = False

    def name(self) -> str:
        """For people."""
        return (f'{self.kind} {self.qdev_id or ""}'.strip()
                + f' at {self.bus:02x}:{self.slot:02x}.{self.function}')


def diagnose(report: Report, address: str) -> None:
    """Fill in the report about a running VM."""
    monitor = Monitor(address)
    try:
        found = list(_controllers(monitor))
        traces = _trace_events(monitor)
        ecam = _ecam(monitor) if found else None
        for controller in found:
            _look(monitor, controller, ecam)
        state = monitor.execute('query-status')['status']
    finally:
        monitor.close()
    report.fact('QEMU', f'{monitor.version} {monitor.package}'.strip() + f', VM is {state}')
    report.fact('patches', _patches(traces))
    if not found:
        report.conclude(UNKNOWN, 'this VM has no xHCI controller on PCI')
        return
    verdicts = []
    for controller in found:
        _describe(report, controller)
        verdicts.append(_judge(controller, traces))
    status, reason, advice = max(verdicts, key=lambda v: {FINE: 0, UNKNOWN: 1, AFFECTED: 2}[v[0]])
    report.conclude(status, reason, *advice)


# --- what there is -----------------------------------------------------------

def _controllers(monitor: Monitor) -> Iterator[Controller]:
    objects = list(_objects(monitor))
    for device in _pci_devices(monitor.execute('query-pci')):
        kind = TYPES.get((device['id']['vendor'], device['id']['device']))
        if not kind:
            continue
        bars = [r['address'] for r in device['regions'] if r['bar'] == 0 and r['address'] > 0]
        new = Controller(kind, device['bus'], device['slot'], device['function'],
                         bars[0] if bars else None, device.get('qdev_id', ''))
        # By its id, or by where it is: without ids, only one of a kind is sure.
        same = [path for name, path in objects
                if name == kind and path.rsplit('/', 1)[1] == new.qdev_id] or \
               [path for name, path in objects if name == kind]
        if len(same) == 1:
            new.properties = _properties(monitor, same[0])
        yield new


def _pci_devices(buses: List[Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
    for bus in buses:
        for device in bus['devices']:
            yield device
            bridge = device.get('pci_bridge')
            if bridge:
                yield from _pci_devices([{'devices': bridge.get('devices', [])}])


def _objects(monitor: Monitor) -> Iterator[Tuple[str, str]]:
    """(type, path) of the controllers in the object tree."""
    for parent in ('/machine/peripheral', '/machine/peripheral-anon', '/machine/unattached'):
        try:
            children = monitor.execute('qom-list', path=parent)
        except Error:
            continue
        for child in children:
            match = re.fullmatch(r'child<(nec-usb-xhci|qemu-xhci)>', child['type'])
            if match:
                yield match[1], f"{parent}/{child['name']}"


def _properties(monitor: Monitor, path: str) -> Dict[str, Any]:
    names = {p['name'] for p in monitor.execute('qom-list', path=path)}
    return {name: monitor.execute('qom-get', path=path, property=name)
            for name in PROPERTIES if name in names}


def _trace_events(monitor: Monitor) -> Optional[List[str]]:
    try:
        events = monitor.execute('trace-event-get-state', name='usb_xhci_*')
    except Error:
        return None
    return [event['name'] for event in events] or None


def _ecam(monitor: Monitor) -> Optional[int]:
    """Where PCI configuration space is in memory, if the machine has that."""
    match = re.search(r'^ *([0-9a-f]{16})-[0-9a-f]{16} .*: pcie-mmcfg-mmio',
                      monitor.hmp('info mtree -f'), re.M)
    return int(match[1], 16) if match else None


# --- what the controller does ------------------------------------------------

def _look(monitor: Monitor, new: Controller, ecam: Optional[int]) -> None:
    """Its registers, for a second."""
    if new.bar is None:
        return
    caps = monitor.words(new.bar, 8)
    # HCIVERSION is 0100 or 0110; all ones are no controller.
    if len(caps) < 8 or caps[0] >> 24 != 1:
        return
    oper, runtime = new.bar + (caps[0] & 0xff), new.bar + caps[RTSOFF // 4]
    interrupters = min(caps[HCSPARAMS1 // 4] >> 8 & 0x7ff, 16)
    pending = False
    for _ in range(LOOKS):
        command = monitor.words(oper + USBCMD, 1)
        words = monitor.words(runtime + 0x20, 8 * interrupters)
        if not command or len(words) < 8 * interrupters:
            return
        new.running = bool(command[0] & RS)
        new.rings = []
        for n in range(interrupters):
            iman, _, size, _, _, _, erdp, _ = words[8 * n:8 * n + 8]
            if iman & IE and size:
                new.rings.append(n)
                new.waiting[n] += bool(iman & IP or erdp & EHB)
                pending |= bool(iman & IP and command[0] & INTE)
        time.sleep(INTERVAL)
    table = monitor.words(new.bar + MSIX_TABLE, 4 * interrupters)
    new.msix_table = any(table[n] and not table[n + 3] & 1 for n in range(0, len(table) - 3, 4))
    new.mode, new.how = _mode(monitor, new, ecam, pending)


def _mode(monitor: Monitor, new: Controller, ecam: Optional[int],
          pending: bool) -> Tuple[Optional[str], str]:
    if ecam is not None:
        found = _mode_of_config(monitor, ecam | new.bus << 20 | new.slot << 15
                                | new.function << 12)
        if found:
            return found, 'by its configuration space'
    if all(str(new.properties.get(name)) == 'off' for name in ('msi', 'msix')):
        return 'pin', 'as msi=off,msix=off'
    if pending:
        # With messages IP is clear as soon as one was sent, 4.17.5.
        return 'pin', 'as IP stays set'
    if new.msix_table:
        return 'MSI-X', 'as its MSI-X table is filled in'
    return None, 'this machine does not show it'


def _mode_of_config(monitor: Monitor, config: int) -> Optional[str]:
    words = monitor.words(config, 64)
    if len(words) < 64 or (words[0] & 0xffff, words[0] >> 16) not in TYPES:
        return None
    at = words[PCI_CAPABILITIES // 4] & 0xfc
    enabled = []
    while at:
        word = words[at // 4]
        if word & 0xff == CAP_MSI and word & MSI_ENABLE:
            enabled.append('MSI')
        elif word & 0xff == CAP_MSIX and word & MSIX_ENABLE:
            enabled.append('MSI-X')
        at = word >> 8 & 0xfc
    return 'MSI-X' if 'MSI-X' in enabled else enabled[0] if enabled else 'pin'


# --- what is said of it ------------------------------------------------------

def _patches(traces: Optional[List[str]]) -> str:
    if traces is None:
        return 'unknown: this QEMU has no trace events'
    core = 'usb_xhci_pci_intr_mode' in traces
    interrupts = 'usb_xhci_irq_msix_use' not in traces
    return (f"core {'yes' if core else 'no'}, interrupts {'yes' if interrupts else 'no'}, "
            'hardening cannot be seen in a running VM')


def _describe(report: Report, new: Controller) -> None:
    report.fact('controller', new.name() + ''.join(
        f', {name}={_value(value)}' for name, value in new.properties.items()))
    if new.running is None:
        report.fact('state', 'its registers cannot be read: the guest has not set it up')
        return
    report.fact('state', 'runs' if new.running else 'is halted')
    report.fact('interrupts', f"{new.mode or 'unknown'} ({new.how})")
    report.fact('rings', f"the guest uses {', '.join(map(str, new.rings)) or 'none'}"
                + ''.join(f'; an event waited on ring {n} in {count} of {LOOKS} looks'
                          for n, count in sorted(new.waiting.items()) if n and count))


def _value(value: Any) -> str:
    return {True: 'on', False: 'off'}.get(value, str(value)) \
        if isinstance(value, bool) else str(value)


def _judge(new: Controller, traces: Optional[List[str]]) -> Tuple[int, str, List[str]]:
    mapping = new.properties.get('conditional-intr-mapping')
    core = traces is not None and 'usb_xhci_pci_intr_mode' in traces
    without_msix = str(new.properties.get('msix')) == 'off'
    many = any(new.rings[1:])
    patch = 'Patch QEMU with `scripts/apply --to ~/src/qemu` (README.md).'
    if not new.running:
        return UNKNOWN, 'the guest does not run the controller now', [
            'Try again when the guest has started.']
    if new.mode == 'pin' and many and not mapping:
        option = [f'Start the VM with `-global {new.kind}.conditional-intr-mapping=on`: this '
                  'mends input.'] if mapping is False else []
        return AFFECTED, (
            'the guest uses rings that the pin cannot signal, and finds their events when it '
            'next looks'), [*option, patch]
    if new.mode is None and many and not mapping:
        return UNKNOWN, ('the guest uses several rings, and whether it has MSI, MSI-X or '
                         'the pin cannot be seen'), [
            'Log a run and use `scripts/diagnose --log`, or type while this command looks.']
    if without_msix and traces is not None and not core:
        return AFFECTED, (
            'input is signalled, but stock QEMU up to 11.1 aborts when it restores a snapshot '
            'of a controller without MSI-X, or takes in such a VM'), [
            'Do not load snapshots of this VM, and do not migrate it. `scripts/diagnose --qemu` '
            'tries that with a VM of its own.', patch]
    return FINE, ('every ring that the guest uses is signalled'
                  + ('' if many else '; it uses ring 0 only, which is so in every mode')), []
