# SPDX-License-Identifier: GPL-2.0-or-later
"""A small xHCI driver over the qtest protocol.

It knows one PCI xHCI (in slot 4 of -machine pc) with USB devices, and keeps their
endpoint 0 busy with control transfers, each of which ends in one event, one
interrupt and one acknowledgement. Section numbers are those of the xHCI
specification, revision 1.2.
"""

import struct
from typing import Any, List, Optional, Protocol, Tuple

from xhciseries.ui import Error

SLOT = 4                        # of the PCI function, on bus 0
DEVICE = f'addr={SLOT:#x}'      # what -device needs for that
BAR = 0xe0000000                # below 4 GB, above the RAM of the machine

# Guest memory: a page for each thing
PAGE = 0x1000
DCBAA, CMD_RING, ERST, IN_CTX, MSG = (0x100000 + PAGE * n for n in range(5))
EVENT_RINGS = 0x200000
DEVICES = 0x300000              # three pages for each
BIG_RING = 0x1000000            # a transfer ring for long TDs

# Whole laps of both rings are 100 transfers, so that what a lap costs (a Link
# TRB, the wrap of the event ring) is the same in every hundred.
TRANSFERS_PER_LAP = 50
EP0_TRBS = 3 * TRANSFERS_PER_LAP + 1
EVENT_TRBS = 100
CMD_TRBS = 64                   # of which only a few are used
LAP = 100

# Operational, runtime and PCI registers
USBCMD, USBSTS, CRCR, DCBAAP, CONFIG = 0x00, 0x04, 0x18, 0x30, 0x38
IMAN, IMOD, ERSTSZ, ERSTBA, ERDP = 0x00, 0x04, 0x08, 0x10, 0x18
RS, HCRST, INTE = 1, 2, 4
HCH, CNR = 1, 1 << 11
IP, IE, EHB = 1, 2, 8
PCI_COMMAND, PCI_BAR0, PCI_CAP = 0x04, 0x10, 0x34
PCI_INTX_STATUS = 1 << 19       # in the dword at PCI_COMMAND
CAP_MSI, CAP_MSIX = 0x05, 0x11
MSG_DATA = 0xa500

# TRB types, 6.4.6
NORMAL, SETUP, DATA, STATUS, LINK, ENABLE_SLOT, ADDRESS_DEV = 1, 2, 3, 4, 6, 9, 11
EV_TRANSFER, EV_COMMAND, EV_PORT = 32, 33, 34

GET_DEVICE_DESCRIPTOR = 0x0012000001000680      # 18 bytes

#: Parameter, completion code and control of an event TRB
Event = Tuple[int, int, int]


class DriverError(Error):
    """The controller does not do as it must, or QEMU is gone."""


class Connection(Protocol):
    """What a qtest protocol can be spoken over: a socket, or what acts as one."""

    def makefile(self, mode: Any) -> Any:
        """A file for both directions."""


class Qtest:
    """The protocol: a line for a command, a line for the answer."""

    def __init__(self, sock: Connection) -> None:
        self.stream = sock.makefile('rwb')

    def ask(self, *words: str) -> str:
        """A command; the first word of the answer."""
        try:
            self.stream.write(' '.join(words).encode() + b'\n')
            self.stream.flush()
            answer = self.stream.readline().decode().split()
        except OSError as e:
            raise DriverError(f'QEMU does not answer: {e}') from None
        if not answer:
            raise DriverError('QEMU died')
        if answer[0] != 'OK':
            raise DriverError(f'QEMU answered "{" ".join(answer)}" to {words}')
        return answer[1] if len(answer) > 1 else ''

    def writel(self, addr: int, val: int) -> None:
        """Write 32 bits of memory."""
        self.ask('writel', hex(addr), hex(val & 0xffffffff))

    def readl(self, addr: int) -> int:
        """Read 32 bits of memory."""
        return int(self.ask('readl', hex(addr)), 16)

    def outl(self, port: int, val: int) -> None:
        """Write to an I/O port."""
        self.ask('outl', hex(port), hex(val))

    def inl(self, port: int) -> int:
        """Read an I/O port."""
        return int(self.ask('inl', hex(port)), 16)

    def write(self, addr: int, data: bytes) -> None:
        """Guest memory."""
        self.ask('write', hex(addr), hex(len(data)), '0x' + data.hex())

    def read(self, addr: int, size: int) -> bytes:
        """Guest memory."""
        return bytes.fromhex(self.ask('read', hex(addr), hex(size))[2:])


class Pci:
    """Configuration space, through ports 0xcf8 and 0xcfc."""

    def __init__(self, qtest: Qtest) -> None:
        self.qtest = qtest

    def select(self, reg: int) -> None:
        """Aim CONFIG_DATA at a register."""
        self.qtest.outl(0xcf8, 1 << 31 | SLOT << 11 | reg & ~3)

    def read(self, reg: int) -> int:
        """A register of the PCI function."""
        self.select(reg)
        return self.qtest.inl(0xcfc)

    def write(self, reg: int, val: int) -> None:
        """A register of the PCI function."""
        self.select(reg)
        self.qtest.outl(0xcfc, val)

    def capability(self, wanted: int) -> int:
        """Where a PCI capability is."""
        cap = self.read(PCI_CAP) & 0xff
        while cap:
            head = self.read(cap)
            if head & 0xff == wanted:
                return cap
            cap = head >> 8 & 0xff
        raise DriverError(f'the controller has no PCI capability {wanted:#x}')


def trb(parameter: int, status: int, control: int) -> bytes:
    """One TRB; 4.11."""
    return struct.pack('<QII', parameter, status, control)


class EventRing:
    """The event ring of an interrupter, one segment, and what comes next on it."""

    def __init__(self, intr: int) -> None:
        self.addr = EVENT_RINGS + PAGE * intr
        self.idx, self.cycle = 0, 1


class Device:
    """A USB device, its slot, and its endpoint 0."""

    def __init__(self, number: int, port: int) -> None:
        self.port, self.slot = port, 0          # no slot yet
        self.out_ctx, self.ring, self.buf = (
            DEVICES + PAGE * (3 * number + n) for n in range(3))
        self.idx, self.cycle = 0, 1


class Xhci:
    """The controller and its devices, ready for transfer().

    Args:
        rings: how many event rings to set up
        target: Interrupter Target of the transfers, one of these rings
        devices: how many USB devices there are
        big: endpoint 0 has the ring for run_td(); for one device
    """

    def __init__(self, sock: Connection, mode: str, rings: int = 1, target: int = 0,
                 devices: int = 1, big: bool = False) -> None:
        self.qtest = Qtest(sock)
        self.pci = Pci(self.qtest)
        self.mode, self.target, self.big = mode, target, big
        self.map_bar()
        {'pin': lambda: None, 'MSI': self.setup_msi,
         'MSI-X': self.setup_msix}[mode]()
        self.start(rings)
        self.devices: List[Device] = []
        self.address_devices(devices)
        # The transfers look at the INTx status with no more than an inl.
        self.pci.select(PCI_COMMAND)

    # -- set-up --------------------------------------------------------------

    def map_bar(self) -> None:
        """Give the BAR an address."""
        self.pci.write(PCI_BAR0, BAR)
        self.pci.write(PCI_BAR0 + 4, 0)
        self.pci.write(PCI_COMMAND, 6)          # memory, bus master
        params = self.qtest.readl(BAR + 4)
        self.max_slots = params & 0xff
        self.max_intrs = params >> 8 & 0x7ff
        self.max_ports = params >> 24
        self.ctx_size = 64 if self.qtest.readl(BAR + 0x10) & 4 else 32
        self.oper = BAR + (self.qtest.readl(BAR) & 0xff)
        self.doorbell = BAR + self.qtest.readl(BAR + 0x14)
        self.runtime = BAR + self.qtest.readl(BAR + 0x18)

    def intr(self, n: int) -> int:
        """The registers of an interrupter."""
        return self.runtime + 0x20 + 0x20 * n

    def setup_msi(self) -> None:
        """One vector for each interrupter."""
        cap = self.pci.capability(CAP_MSI)
        flags = self.pci.read(cap) >> 16
        vectors = self.max_intrs.bit_length() - 1       # log2
        if flags >> 1 & 7 < vectors or self.max_intrs < 2:
            raise DriverError('the controller has no MSI vector for each interrupter')
        self.pci.write(cap + 4, MSG)
        if flags & 1 << 7:                              # 64-bit
            self.pci.write(cap + 8, 0)
        self.pci.write(cap + (12 if flags & 1 << 7 else 8), MSG_DATA)
        flags = flags & ~0x70 | vectors << 4 | 1
        self.pci.write(cap, flags << 16)

    def setup_msix(self) -> None:
        """One vector for each interrupter."""
        cap = self.pci.capability(CAP_MSIX)
        table = self.pci.read(cap + 4)
        if table & 7:
            raise DriverError('the MSI-X table is not in BAR 0')
        for vector in range(self.max_intrs):
            entry = BAR + table + 16 * vector
            for n, val in enumerate((MSG, 0, MSG_DATA + vector, 0)):
                self.qtest.writel(entry + 4 * n, val)
        self.pci.write(cap, 1 << 31)

    def write64(self, addr: int, val: int) -> None:
        """A register of 64 bits."""
        self.qtest.writel(addr, val)
        self.qtest.writel(addr + 4, val >> 32)

    def start(self, rings: int) -> None:
        """Reset and start the controller, with so many event rings."""
        q = self.qtest
        q.writel(self.oper + USBCMD, HCRST)
        if q.readl(self.oper + USBSTS) & (HCH | CNR) != HCH:
            raise DriverError('the controller does not come out of reset')
        if rings > self.max_intrs:
            raise DriverError(f'the controller has only {self.max_intrs} interrupters')
        q.write(CMD_RING + 16 * (CMD_TRBS - 1),
                trb(CMD_RING, 0, LINK << 10 | 2))
        q.writel(self.oper + CONFIG, self.max_slots)
        self.write64(self.oper + DCBAAP, DCBAA)
        self.write64(self.oper + CRCR, CMD_RING | 1)
        self.cmd_idx = 0
        self.rings: List[EventRing] = []
        for n in range(rings):
            ring, intr, erst = EventRing(n), self.intr(n), ERST + 64 * n
            self.rings.append(ring)
            q.write(erst, trb(ring.addr, EVENT_TRBS, 0))
            self.write64(intr + ERDP, ring.addr)
            q.writel(intr + ERSTSZ, 1)
            self.write64(intr + ERSTBA, erst)
            q.writel(intr + IMOD, 0)
            q.writel(intr + IMAN, IE)
        q.writel(self.oper + USBCMD, RS | INTE)
        if q.readl(self.oper + USBSTS) & HCH:
            raise DriverError('the controller does not start')

    def address_devices(self, count: int) -> None:
        """Find so many devices, and give each a slot and an address."""
        for port in range(1, self.max_ports + 1):
            if self.qtest.readl(self.portsc(port)) & 1 and \
                    len(self.devices) < count:          # CCS
                self.devices.append(Device(len(self.devices), port))
        if not self.devices:
            raise DriverError('no USB device is connected')
        if len(self.devices) < count:
            raise DriverError(f'only {len(self.devices)} of {count} USB devices are '
                              'connected')
        for device in self.devices:
            self.address_device(device)

    def portsc(self, port: int) -> int:
        """The register of a port."""
        return self.oper + 0x400 + 16 * (port - 1)

    def address_device(self, device: Device) -> None:
        """Give a device a slot and an address."""
        portsc = self.portsc(device.port)
        self.qtest.writel(portsc, 1 << 9 | 1 << 4)      # PP, PR
        status = self.qtest.readl(portsc)
        if not status & 2:                              # PED
            raise DriverError(f'port {device.port} does not come up')
        device.slot = self.command(ENABLE_SLOT, 0, 0)
        self.qtest.write(DCBAA + 8 * device.slot, struct.pack('<Q', device.out_ctx))
        self.qtest.write(IN_CTX + 4, struct.pack('<I', 3))      # A0, A1
        speed = status >> 10 & 15
        self.qtest.write(IN_CTX + self.ctx_size,
                         struct.pack('<II', 1 << 27 | speed << 20, device.port << 16))
        ring = BIG_RING if self.big else device.ring
        self.qtest.write(IN_CTX + 2 * self.ctx_size,    # control, 64 bytes
                         struct.pack('<IIQI', 0, 64 << 16 | 4 << 3 | 3 << 1,
                                     ring | 1, 8))
        self.command(ADDRESS_DEV, IN_CTX, device.slot)

    # -- events --------------------------------------------------------------

    def try_event(self, n: int = 0) -> Optional[Event]:
        """Take the next event off ring n, if there is one."""
        ring = self.rings[n]
        parameter, status, control = struct.unpack(
            '<QII', self.qtest.read(ring.addr + 16 * ring.idx, 16))
        if control & 1 != ring.cycle:
            return None
        ring.idx += 1
        if ring.idx == EVENT_TRBS:
            ring.idx, ring.cycle = 0, 1 - ring.cycle
        return parameter, status >> 24, control

    def next_event(self, n: int = 0) -> Event:
        """Take an event, which must be there: nothing here is deferred."""
        event = self.try_event(n)
        if event is None:
            raise DriverError('the controller delivers no event (USBSTS '
                              f'{self.qtest.readl(self.oper + USBSTS):#x})')
        return event

    def acknowledge(self, n: int = 0) -> None:
        """Clear IP and EHB of an interrupter."""
        ring, intr = self.rings[n], self.intr(n)
        self.qtest.writel(intr + IMAN, IE | IP)
        self.write64(intr + ERDP, ring.addr + 16 * ring.idx | EHB)

    def command(self, kind: int, parameter: int, slot: int) -> int:
        self.qtest.write(CMD_RING + 16 * self.cmd_idx,
                         trb(parameter, 0, slot << 24 | kind << 10 | 1))
        self.cmd_idx += 1
        self.qtest.writel(self.doorbell, 0)
        while True:
            _, code, control = self.next_event()
            if control >> 10 & 63 != EV_PORT:
                break
        self.acknowledge()
        if control >> 10 & 63 != EV_COMMAND or code != 1:
            raise DriverError(f'command {kind} failed, completion code {code}')
        return control >> 24

    def signalled(self) -> bool:
        """Whether an interrupt came; takes the message, if it is one."""
        if self.mode == 'pin':
            return bool(self.qtest.inl(0xcfc) & PCI_INTX_STATUS)
        if self.qtest.readl(MSG) != MSG_DATA + self.target:
            return False
        self.qtest.write(MSG, bytes(4))
        return True

    def drain_signal(self) -> None:
        """Take it back."""
        if self.mode != 'pin':
            self.qtest.write(MSG, bytes(4))

    # -- what is measured ----------------------------------------------------

    def transfer(self, device: Device) -> None:
        """GET_DESCRIPTOR: four register writes, and one event."""
        first = device.ring + 16 * device.idx
        c, target = device.cycle, self.target << 22
        trbs = (trb(GET_DEVICE_DESCRIPTOR, target | 8,
                    3 << 16 | SETUP << 10 | 1 << 6 | c) +   # IN, IDT
                trb(device.buf, target | 18, 1 << 16 | DATA << 10 | c) +
                trb(0, target, STATUS << 10 | 1 << 5 | c))  # IOC
        device.idx += 3
        if device.idx == EP0_TRBS - 1:
            trbs += trb(device.ring, 0, LINK << 10 | 2 | c)
            device.idx, device.cycle = 0, 1 - c
        self.qtest.write(first, trbs)
        self.ring_doorbell(device)

        parameter, code, control = self.next_event(self.target)
        if (control >> 10 & 63 != EV_TRANSFER or code != 1 or
                parameter != first + 32):
            raise DriverError(f'a transfer failed, completion code {code}')
        if not self.signalled():
            raise DriverError('an event came without its interrupt')
        self.acknowledge(self.target)

    def ring_doorbell(self, device: Device) -> None:
        """Of endpoint 0."""
        self.qtest.writel(self.doorbell + 4 * device.slot, 1)

    def run(self, transfers: int) -> None:
        """Do so many transfers, of all devices in turn."""
        self.drain_signal()
        for n in range(transfers):
            device = self.devices[n % len(self.devices)]
            self.transfer(device)
            if n == 0 and self.qtest.read(device.buf, 2) != b'\x12\x01':
                raise DriverError('that was not a device descriptor')
        if self.signalled():
            raise DriverError('an interrupt stays after the acknowledgement')

    def run_td(self, trbs: int) -> None:
        """One TD of an odd number of TRBs, every other of which has an event (BEI).

        4.11.5.2 has no limit for the TRBs of a stage. The Setup TRBs make that
        an event is due for each Normal TRB, of which none moves any data. The
        event ring overflows: what is measured is what finding the TRBs takes.
        """
        device = self.devices[0]
        pair = (trb(0, 8, SETUP << 10 | 1 << 6 | 1) +
                trb(device.buf, 0, 1 << 9 | NORMAL << 10 | 1 << 5 | 1))  # BEI
        self.qtest.write(
            BIG_RING, trb(GET_DEVICE_DESCRIPTOR, 8,
                          3 << 16 | SETUP << 10 | 1 << 6 | 1) +
            trb(device.buf, 18, 1 << 16 | DATA << 10 | 1))
        done = 2
        while done < trbs - 1:
            count = min((trbs - 1 - done) // 2, 1000)   # pairs
            self.qtest.write(BIG_RING + 16 * done, pair * count)
            done += 2 * count
        self.qtest.write(BIG_RING + 16 * done,
                         trb(0, 0, STATUS << 10 | 1 << 5 | 1))
        self.ring_doorbell(device)
        events = 0
        while self.try_event():
            events += 1
        if events < min((trbs - 3) // 2, EVENT_TRBS - 2):
            raise DriverError(f'a TD of {trbs} TRBs made only {events} events')
