# SPDX-License-Identifier: GPL-2.0-or-later
"""What the patches change that a driver can see.

It takes no guest and less than a second, and does nothing that brings stock QEMU
down.
"""

import re
import socket
import struct
import subprocess
import tempfile
from dataclasses import dataclass, field
from typing import IO, List, Optional, Tuple


from xhcitest.bench import xhci
from xhcitest.qemu import query


#: Seconds for one answer of QEMU
TIMEOUT = 20
#: Interrupters to ask for: a number that is not the default
INTRS = 4
#: 6.4.3.5, and the completion codes of 6.4.5
CONFIGURE_ENDPOINT = 12

#: A piece of evidence: what the range does, and whether this QEMU does so
Evidence = Tuple[str, Optional[bool]]


@dataclass
class Patches:
    """Evidence for each range, in the order of docs/series.md."""

    core: List[Evidence] = field(default_factory=list)
    interrupts: List[Evidence] = field(default_factory=list)
    hardening: List[Evidence] = field(default_factory=list)
    #: The default of conditional-intr-mapping; None where there is no such property
    default: Optional[bool] = None
    #: Why QEMU could not be asked
    failure: str = ''

    def ranges(self) -> List[Tuple[str, List[Evidence]]]:
        """(name, evidence) of each."""
        return [('core', self.core), ('interrupts', self.interrupts),
                ('hardening', self.hardening)]


def has(evidence: List[Evidence]) -> Optional[bool]:
    """Whether a range is there: what is known of it agrees, or None."""
    known = {value for _, value in evidence if value is not None}
    return known.pop() if len(known) == 1 else None


def listed(qemu: str) -> Patches:
    """What its lists of properties and trace events tell."""
    found = Patches()
    help_text = query(qemu, '-device', 'nec-usb-xhci,help')
    match = re.search(r'^ *conditional-intr-mapping=.*\(default: (\w+)\)', help_text, re.M)
    if match:
        found.default = match[1] in ('on', 'true')
    traces = set(query(qemu, '-trace', 'help').split())
    known = 'usb_xhci_queue_event' in traces
    found.core += [
        ('conditional-intr-mapping is on by default', bool(found.default)),
        ('changes of the interrupt mode can be traced',
         'usb_xhci_pci_intr_mode' in traces if known else None)]
    found.interrupts.append(('all MSI-X vectors stay in use',
                             'usb_xhci_irq_msix_use' not in traces if known else None))
    return found


def ask(found: Patches, qemu: str, firmware: List[str]) -> None:
    """What a driver sees. `firmware` are -L options."""
    intrs: Optional[bool] = None
    type0: Optional[bool] = None
    try:
        intrs, type0 = _ask(qemu, firmware)
    except (xhci.DriverError, OSError, ValueError, struct.error) as error:
        found.failure = str(error)
    found.interrupts.append(('intrs= of nec-usb-xhci has an effect', intrs))
    found.hardening.append(('endpoints of type 0 are rejected', type0))


def _ask(qemu: str, firmware: List[str]) -> Tuple[bool, bool]:
    """Whether `intrs` works, and whether endpoints of type 0 are rejected."""
    with tempfile.TemporaryFile() as words, Stopped(
            [qemu, *firmware, '-machine', 'pc', '-accel', 'tcg', '-m', '64',
             '-nodefaults', '-no-user-config', '-display', 'none',
             '-device', f'nec-usb-xhci,{xhci.DEVICE},msi=off,msix=off,intrs={INTRS}',
             '-device', 'usb-kbd'], words) as machine:
        try:
            driver = xhci.Xhci(machine, 'pin')
            return driver.max_intrs == INTRS, _rejects_type0(driver)
        except xhci.DriverError as error:
            machine.end()
            words.seek(0)
            said = words.read().decode('utf-8', 'replace').strip().splitlines()
            raise xhci.DriverError(said[-1] if said else str(error)) from None


class Stopped:
    """A QEMU whose processors never run, as the socket of the qtest protocol.

    Distributions leave out the accelerator qtest. But QEMU's gdb stub reads and
    writes physical memory and its monitor I/O ports, and xHCI carries out
    commands at once, so bench/xhci.py can drive that as well.
    """

    def __init__(self, argv: List[str], log: IO[bytes]) -> None:
        self.gdb, gdb = socket.socketpair()
        self.hmp, hmp = socket.socketpair()
        self.answer = b''
        for sock in (self.gdb, self.hmp):
            sock.settimeout(TIMEOUT)
        with gdb, hmp:
            self.process = subprocess.Popen(
                [*argv, '-S', '-chardev', f'socket,id=gdb,fd={gdb.fileno()}',
                 '-gdb', 'chardev:gdb', '-chardev', f'socket,id=hmp,fd={hmp.fileno()}',
                 '-monitor', 'chardev:hmp'],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(gdb.fileno(), hmp.fileno()))

    def __enter__(self) -> 'Stopped':
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End QEMU."""
        self.process.kill()
        self.process.wait()
        self.gdb.close()
        self.hmp.close()

    # The file that xhci.Qtest wants of its socket

    def makefile(self, mode: str) -> 'Stopped':
        """Itself, once it answers."""
        self._monitor_answer()
        self._packet('Qqemu.PhyMemMode:1')
        return self

    def write(self, line: bytes) -> None:
        """A command of the qtest protocol."""
        name, *words = line.decode().split()
        values = [int(word, 16) for word in words]
        value: Optional[str] = None
        if name in ('outl', 'inl'):
            value = self._port(*values)
        elif name == 'writel':
            self._poke(values[0], struct.pack('<I', values[1]))
        elif name == 'write':
            self._poke(values[0], bytes.fromhex(words[2][2:]))
        elif name == 'readl':
            value = hex(struct.unpack('<I', self._peek(values[0], 4))[0])
        elif name == 'read':
            value = '0x' + self._peek(values[0], values[1]).hex()
        else:
            raise xhci.DriverError(f'no {name} without qtest')
        self.answer = f"OK {value or ''}\n".encode()

    def flush(self) -> None:
        """Nothing is kept back."""

    def readline(self) -> bytes:
        """The answer to the command."""
        return self.answer

    # How QEMU is asked

    def _receive(self, sock: socket.socket) -> bytes:
        try:
            data = sock.recv(65536)
        except TimeoutError:
            raise xhci.DriverError(f'QEMU does not answer in {TIMEOUT} s') from None
        if not data:
            raise xhci.DriverError('QEMU died')
        return data

    def _packet(self, text: str) -> str:
        """A packet of the gdb protocol, and the answer."""
        self.gdb.sendall(f'${text}#{sum(text.encode()) & 0xff:02x}'.encode())
        data = b''
        while not (match := re.search(rb'\$([^#]*)#..', data)):
            data += self._receive(self.gdb)
        self.gdb.sendall(b'+')
        return match[1].decode()

    def _poke(self, address: int, data: bytes) -> None:
        if self._packet(f'M{address:x},{len(data):x}:{data.hex()}') != 'OK':
            raise xhci.DriverError('QEMU\'s gdb stub does not write to physical memory')

    def _peek(self, address: int, size: int) -> bytes:
        data = bytes.fromhex(self._packet(f'm{address:x},{size:x}'))
        if len(data) != size:
            raise xhci.DriverError('QEMU\'s gdb stub does not read physical memory')
        return data

    def _monitor_answer(self) -> str:
        data = b''
        while not data.endswith(b'(qemu) '):
            data += self._receive(self.hmp)
        return data.decode('utf-8', 'replace')

    def _port(self, port: int, value: Optional[int] = None) -> Optional[str]:
        command = f'i /w {port:#x}' if value is None else f'o /w {port:#x} {value:#x}'
        self.hmp.sendall(command.encode() + b'\n')
        match = re.search(r'= (0x[0-9a-f]+)', self._monitor_answer())
        return match[1] if match else None


def _rejects_type0(driver: xhci.Xhci) -> bool:
    """Configure endpoint 1 IN, with a context that is no endpoint's (6.2.3)."""
    size, endpoint, device = driver.ctx_size, 3, driver.devices[0]
    slot_context = struct.unpack(
        '<II', driver.qtest.read(xhci.IN_CTX + size, 8))
    driver.qtest.write(xhci.IN_CTX, struct.pack('<II', 0, 1 << endpoint | 1))
    driver.qtest.write(xhci.IN_CTX + size, struct.pack(
        '<I', slot_context[0] & 0x07ffffff | endpoint << 27))
    driver.qtest.write(
        xhci.IN_CTX + size * (endpoint + 1),
        struct.pack('<IIQI', 0, 8 << 16 | 0 << 3 | 3 << 1, device.buf | 1, 8))
    try:
        driver.command(CONFIGURE_ENDPOINT, xhci.IN_CTX, device.slot)
    except xhci.DriverError as error:
        if 'completion code' not in str(error):
            raise
        return True
    return False
