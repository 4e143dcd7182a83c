# SPDX-License-Identifier: GPL-2.0-or-later
"""A small xHCI driver over the qtest protocol.

It knows one PCI xHCI (in slot 4 of -machine pc) with one USB device, and keeps
endpoint 0 busy with control transfers, each of which ends in one event, one
interrupt and one acknowledgement. Section numbers are those of the xHCI
specification, revision 1.2.
"""

import struct
from typing import Any, Protocol, Tuple

from xhciseries.ui import Error

SLOT = 4                        # of the PCI function, on bus 0
DEVICE = f'addr={SLOT:#x}'      # what -device needs for that
BAR = 0xe0000000                # below 4 GB, above the RAM of the machine

# Guest memory: a page for each thing
DCBAA, CMD_RING, ERST, EVENT_RING, EP0_RING, IN_CTX, OUT_CTX, BUF, MSG = (
    0x100000 + 0x1000 * n for n in range(9))

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
SETUP, DATA, STATUS, LINK, ENABLE_SLOT, ADDRESS_DEV = 2, 3, 4, 6, 9, 11
EV_TRANSFER, EV_COMMAND, EV_PORT = 32, 33, 34

GET_DEVICE_DESCRIPTOR = 0x0012000001000680      # 18 bytes


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


class Xhci:
    """The controller and its one device, ready for transfer()."""

    def __init__(self, sock: Connection, mode: str) -> None:
        self.qtest = Qtest(sock)
        self.pci = Pci(self.qtest)
        self.mode = mode
        self.map_bar()
        {'pin': lambda: None, 'MSI': self.setup_msi,
         'MSI-X': self.setup_msix}[mode]()
        self.start()
        self.address_device()
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
        self.intr0 = BAR + self.qtest.readl(BAR + 0x18) + 0x20

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

    def start(self) -> None:
        """Reset and start the controller."""
        q = self.qtest
        q.writel(self.oper + USBCMD, HCRST)
        if q.readl(self.oper + USBSTS) & (HCH | CNR) != HCH:
            raise DriverError('the controller does not come out of reset')
        q.write(CMD_RING + 16 * (CMD_TRBS - 1),
                trb(CMD_RING, 0, LINK << 10 | 2))
        q.writel(self.oper + CONFIG, self.max_slots)
        self.write64(self.oper + DCBAAP, DCBAA)
        self.write64(self.oper + CRCR, CMD_RING | 1)
        self.cmd_idx = 0
        self.event_idx, self.event_cycle = 0, 1
        q.write(ERST, trb(EVENT_RING, EVENT_TRBS, 0))
        self.write64(self.intr0 + ERDP, EVENT_RING)
        q.writel(self.intr0 + ERSTSZ, 1)
        self.write64(self.intr0 + ERSTBA, ERST)
        q.writel(self.intr0 + IMOD, 0)
        q.writel(self.intr0 + IMAN, IE)
        q.writel(self.oper + USBCMD, RS | INTE)
        if q.readl(self.oper + USBSTS) & HCH:
            raise DriverError('the controller does not start')

    def address_device(self) -> None:
        """Give the device a slot and an address."""
        for port in range(1, self.max_ports + 1):
            portsc = self.oper + 0x400 + 16 * (port - 1)
            if self.qtest.readl(portsc) & 1:            # CCS
                break
        else:
            raise DriverError('no USB device is connected')
        self.qtest.writel(portsc, 1 << 9 | 1 << 4)      # PP, PR
        status = self.qtest.readl(portsc)
        if not status & 2:                              # PED
            raise DriverError(f'port {port} does not come up')
        self.slot = self.command(ENABLE_SLOT, 0, 0)
        self.qtest.write(DCBAA + 8 * self.slot, struct.pack('<Q', OUT_CTX))
        self.qtest.write(IN_CTX + 4, struct.pack('<I', 3))      # A0, A1
        speed = status >> 10 & 15
        self.qtest.write(IN_CTX + self.ctx_size,
                         struct.pack('<II', 1 << 27 | speed << 20, port << 16))
        self.qtest.write(IN_CTX + 2 * self.ctx_size,    # control, 64 bytes
                         struct.pack('<IIQI', 0, 64 << 16 | 4 << 3 | 3 << 1,
                                     EP0_RING | 1, 8))
        self.command(ADDRESS_DEV, IN_CTX, self.slot)
        self.ep0_idx, self.ep0_cycle = 0, 1

    # -- events --------------------------------------------------------------

    def next_event(self) -> Tuple[int, int, int]:
        """Take an event, which must be there: nothing here is deferred."""
        parameter, status, control = struct.unpack(
            '<QII', self.qtest.read(EVENT_RING + 16 * self.event_idx, 16))
        if control & 1 != self.event_cycle:
            raise DriverError('the controller delivers no event (USBSTS '
                              f'{self.qtest.readl(self.oper + USBSTS):#x})')
        self.event_idx += 1
        if self.event_idx == EVENT_TRBS:
            self.event_idx, self.event_cycle = 0, 1 - self.event_cycle
        return parameter, status >> 24, control

    def acknowledge(self) -> None:
        """Clear IP and EHB."""
        self.qtest.writel(self.intr0 + IMAN, IE | IP)
        self.write64(self.intr0 + ERDP, EVENT_RING + 16 * self.event_idx | EHB)

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
        if self.qtest.readl(MSG) != MSG_DATA:
            return False
        self.qtest.write(MSG, bytes(4))
        return True

    def drain_signal(self) -> None:
        """Take it back."""
        if self.mode != 'pin':
            self.qtest.write(MSG, bytes(4))

    # -- what is measured ----------------------------------------------------

    def transfer(self) -> None:
        """GET_DESCRIPTOR: four register writes, and one event for target 0."""
        first = EP0_RING + 16 * self.ep0_idx
        c = self.ep0_cycle
        trbs = (trb(GET_DEVICE_DESCRIPTOR, 8,
                    3 << 16 | SETUP << 10 | 1 << 6 | c) +   # IN, IDT
                trb(BUF, 18, 1 << 16 | DATA << 10 | c) +
                trb(0, 0, STATUS << 10 | 1 << 5 | c))       # IOC
        self.ep0_idx += 3
        if self.ep0_idx == EP0_TRBS - 1:
            trbs += trb(EP0_RING, 0, LINK << 10 | 2 | c)
            self.ep0_idx, self.ep0_cycle = 0, 1 - c
        self.qtest.write(first, trbs)
        self.qtest.writel(self.doorbell + 4 * self.slot, 1)

        parameter, code, control = self.next_event()
        if (control >> 10 & 63 != EV_TRANSFER or code != 1 or
                parameter != first + 32):
            raise DriverError(f'a transfer failed, completion code {code}')
        if not self.signalled():
            raise DriverError('an event came without its interrupt')
        self.acknowledge()

    def run(self, transfers: int) -> None:
        """Set up, and do so many transfers."""
        self.drain_signal()
        for n in range(transfers):
            self.transfer()
            if n == 0 and self.qtest.read(BUF, 2) != b'\x12\x01':
                raise DriverError('that was not a device descriptor')
        if self.signalled():
            raise DriverError('an interrupt stays after the acknowledgement')
