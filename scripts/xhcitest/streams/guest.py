# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that has a controller and its devices in use: keyboard, tablet and disk.

Before the state is saved, all endpoints run; the keyboard has keys that the guest did
not fetch, an interrupt transfer of the tablet waits, and the disk is amid a command.
After the state is loaded, the guest uses everything that there is.
"""

import copy
import itertools
import struct
import time
from functools import partial
from typing import Callable, Dict, List, Sequence

from ..bench import xhci
from ..bench.xhci import DriverError, trb
from ..qmp import Dead, Failure, Qmp

CONFIGURE_ENDPOINT, DISABLE_SLOT, RESET_ENDPOINT, STOP_ENDPOINT = 12, 10, 14, 15
SET_DEQUEUE, RESET_DEVICE, NO_OP_COMMAND = 16, 17, 23
#: Endpoint types, 6.2.3
BULK_OUT, CONTROL, BULK_IN, INTERRUPT_IN = 2, 4, 6, 7
#: bmRequestType, bRequest, wValue, wIndex and wLength, as the parameter of a TRB
SET_CONFIGURATION = 1 << 16 | 9 << 8
SET_REMOTE_WAKEUP = 1 << 16 | 3 << 8
SET_IDLE = 4 << 24 | 10 << 8 | 0x21
BULK_ONLY_RESET = 0xff << 8 | 0x21
#: With this one, QEMU looks at how far the last transfer was
ALL_ZERO = 0

KEYBOARD, TABLET, DISK = 0, 1, 2
KINDS = 'usb-kbd', 'usb-tablet', 'usb-storage'
ENDPOINTS = {KEYBOARD: ((3, INTERRUPT_IN, 8),), TABLET: ((3, INTERRUPT_IN, 8),),
             DISK: ((3, BULK_IN, 512), (4, BULK_OUT, 512))}
IN, OUT = 3, 4                  # of the disk
RINGS = 0x400000
CBW, CSW, BLOCK = 31, 13, 512
TEST_UNIT_READY, REQUEST_SENSE, INQUIRY, READ, WRITE = 0x00, 0x03, 0x12, 0x28, 0x2a

#: How far the disk is with a command
DISK_STATES = 'idle', 'read', 'write', 'status'
#: What can come first after the load
ORDERS = 'use', 'unplug', 'reset'
#: Nanoseconds, more than 2048 ms
MFINDEX_WRAP = 3_000_000_000

Step = Callable[[], object]


def cdb(code: int, count: int = 0) -> bytes:
    """A command of the disk, for its first blocks or so many bytes."""
    if code in (READ, WRITE):
        return bytes([code, 0, 0, 0, 0, 0, 0, 0, count, 0])
    return bytes([code, 0, 0, 0, count, 0])


def cbw(tag: int, length: int, command: bytes) -> bytes:
    """A command of usb-storage, with its wrapper."""
    flags = 0 if command[0] == WRITE else 0x80
    return struct.pack('<4sIIBBB16s', b'USBC', tag, length, flags, 0, len(command), command)


class Endpoint:
    """An endpoint other than 0; its ring has a page, and so has its data."""

    def __init__(self, slot: int, epid: int) -> None:
        self.slot, self.epid = slot, epid
        self.ring = RINGS + xhci.PAGE * 2 * (8 * slot + epid)
        self.buf = self.ring + xhci.PAGE
        self.idx = 0


class Guest(xhci.Xhci):
    """The controller with all devices configured."""

    def __init__(self, sock: xhci.Connection, mode: str, rings: int) -> None:
        super().__init__(sock, mode, rings, devices=len(KINDS))
        # The disk is the one with SuperSpeed.
        self.devices.sort(key=lambda d: self.qtest.readl(self.portsc(d.port)) >> 10 & 15)
        self.endpoints: Dict[int, Dict[int, Endpoint]] = {}
        self.disk = 'idle'
        for n, wanted in ENDPOINTS.items():
            device = self.devices[n]
            self.configure(device, wanted)
            self.endpoints[n] = {epid: Endpoint(device.slot, epid) for epid, _, _ in wanted}
            self.control(device, SET_CONFIGURATION)
            self.settle()
        self.control(self.devices[TABLET], SET_REMOTE_WAKEUP)
        self.control(self.devices[KEYBOARD], SET_IDLE)
        self.settle()

    def copy(self, sock: xhci.Connection) -> 'Guest':
        """The same guest, on another QEMU."""
        here = (self.qtest, self.pci)
        del self.qtest, self.pci
        try:
            other = copy.deepcopy(self)
        finally:
            self.qtest, self.pci = here
        other.qtest = xhci.Qtest(sock)
        other.pci = xhci.Pci(other.qtest)
        return other

    # -- what a driver does ----------------------------------------------------

    def post_command(self, kind: int, parameter: int = 0, slot: int = 0,
                     epid: int = 0) -> None:
        """Any command, whatever comes of it."""
        if self.cmd_idx == xhci.CMD_TRBS - 1:
            return
        self.qtest.write(xhci.CMD_RING + 16 * self.cmd_idx,
                         trb(parameter, 0, slot << 24 | epid << 16 | kind << 10 | 1))
        self.cmd_idx += 1
        self.qtest.writel(self.doorbell, 0)

    def configure(self, device: xhci.Device, wanted: Sequence[Sequence[int]]) -> None:
        """Configure Endpoint, for these: ID, type, maximum packet size."""
        last = max(epid for epid, _, _ in wanted)
        flags = 1 | sum(1 << epid for epid, _, _ in wanted)
        self.qtest.write(xhci.IN_CTX, struct.pack('<II', 0, flags))
        slot = struct.unpack('<I', self.qtest.read(device.out_ctx, 4))[0]
        self.qtest.write(xhci.IN_CTX + self.ctx_size,
                         struct.pack('<II', slot & ~(31 << 27) | last << 27,
                                     device.port << 16))
        for epid, kind, size in wanted:
            ring = Endpoint(device.slot, epid).ring
            self.qtest.write(xhci.IN_CTX + self.ctx_size * (1 + epid),
                             struct.pack('<IIQI', 3 << 16, size << 16 | kind << 3 | 3 << 1,
                                         ring | 1, size))
        self.command(CONFIGURE_ENDPOINT, xhci.IN_CTX, device.slot)

    def control(self, device: xhci.Device, setup: int, size: int = 0) -> None:
        """A control transfer to the device, with a Data Stage if there is a size."""
        trbs = [trb(setup, 8, bool(size) << 17 | xhci.SETUP << 10 | 1 << 6 | 1)]
        if size:
            trbs.append(trb(device.buf, size, xhci.DATA << 10 | 1))
        trbs.append(trb(0, 0, 1 << 16 | xhci.STATUS << 10 | 1 << 5 | 1))
        if device.idx + len(trbs) < xhci.EP0_TRBS:
            self.qtest.write(device.ring + 16 * device.idx, b''.join(trbs))
            device.idx += len(trbs)
        self.ring_doorbell(device)

    def post(self, endpoint: Endpoint, size: int, data: bytes = b'') -> None:
        """A Normal TRB for an endpoint, with data to send; all rings get events."""
        target = endpoint.slot % len(self.rings)
        if data:
            self.qtest.write(endpoint.buf, data)
        self.qtest.write(endpoint.ring + 16 * endpoint.idx,
                         trb(endpoint.buf, target << 22 | size,
                             xhci.NORMAL << 10 | 1 << 5 | 1))
        endpoint.idx += 1
        self.kick(endpoint)

    def kick(self, endpoint: Endpoint) -> None:
        """Its doorbell."""
        self.qtest.writel(self.doorbell + 4 * endpoint.slot, endpoint.epid)

    def settle(self) -> None:
        """Take all events."""
        for n in range(len(self.rings)):
            while self.try_event(n):
                pass
            self.acknowledge(n)

    def move(self, size: int, data: bytes = b'') -> None:
        """Move data from the disk, or to it, and wait for the event."""
        self.post(self.endpoints[DISK][OUT if data else IN], size, data)
        deadline = time.monotonic() + 10
        while not self.try_event(self.devices[DISK].slot % len(self.rings)):
            if time.monotonic() > deadline:
                raise DriverError('the disk does not answer')
            time.sleep(.001)
        self.settle()

    def do_command(self, length: int, command: bytes, data: int, status: bool) -> None:
        """A command of the disk, as far as so many bytes, and perhaps its status."""
        self.move(CBW, cbw(7, length, command))
        for _ in range(0, data, BLOCK):
            self.move(BLOCK, bytes(BLOCK) if command[0] == WRITE else b'')
        if status:
            self.move(CSW)

    # -- before the state is saved ------------------------------------------------

    def get_busy(self, qmp: Qmp, disk: str) -> None:
        """Begin what is not finished when the state is saved."""
        self.do_command(0, cdb(TEST_UNIT_READY), 0, True)   # takes the Unit Attention
        self.disk = disk
        if disk == 'read':
            self.do_command(8 * BLOCK, cdb(READ, 8), BLOCK, False)
        elif disk == 'write':
            self.do_command(8 * BLOCK, cdb(WRITE, 8), BLOCK, False)
        elif disk == 'status':
            self.do_command(0, cdb(TEST_UNIT_READY), 0, False)
        self.post(self.endpoints[TABLET][IN], 8)
        press(qmp)

    # -- after it is loaded ---------------------------------------------------------

    def use(self, qmp: Qmp, first: str) -> None:
        """Use everything. Raises DriverError or Dead only if QEMU does not answer."""
        parts = {'use': self.transfers, 'unplug': self.unplugs, 'reset': self.resets}
        todo = [parts.pop(first), *parts.values()]
        for step in itertools.chain.from_iterable(part(qmp) for part in todo):
            try:
                step()
            except Dead:
                raise
            except (DriverError, Failure) as e:
                if 'not answer' in str(e) or 'died' in str(e):
                    raise

    def transfers(self, qmp: Qmp) -> List[Step]:
        """What a driver does, and then what none should."""
        disk = self.endpoints[DISK]
        return [
            lambda: self.step(1000),
            lambda: press(qmp),
            # The disk answers while QEMU serves what comes next.
            *self.rest_of_command(),
            self.look,
            lambda: self.do_quick(cdb(REQUEST_SENSE, 252), 252),
            self.look,
            lambda: self.do_quick(cdb(TEST_UNIT_READY), 0),
            self.look,
            lambda: self.do_quick(cdb(READ, 1), BLOCK),
            lambda: self.step(10_000_000),
            self.settle,
            *(partial(self.control, device, ALL_ZERO, BLOCK) for device in self.devices),
            *(partial(self.control, device, xhci.GET_DEVICE_DESCRIPTOR, 18)
              for device in self.devices),
            self.post_all,
            lambda: self.post(disk[IN], CSW),
            lambda: self.post(disk[OUT], CBW, cbw(8, 0, cdb(TEST_UNIT_READY))),
            lambda: self.post(disk[IN], 4096),
            lambda: self.step(10_000_000),
            lambda: self.control(self.devices[DISK], BULK_ONLY_RESET),
            *(partial(self.recover, endpoint) for endpoint in disk.values()),
            lambda: self.do_quick(cdb(WRITE, 1), BLOCK),
            lambda: self.do_quick(cdb(INQUIRY, 36), 36),
            lambda: self.post_command(NO_OP_COMMAND),
            lambda: self.post_command(STOP_ENDPOINT, slot=2, epid=3),
            lambda: self.post_command(RESET_DEVICE, slot=1),
            self.kick_all,
            lambda: press(qmp),
            lambda: self.step(MFINDEX_WRAP),
            self.settle,
        ]

    def rest_of_command(self) -> List[Step]:
        """What is left to do of the command that was begun, and its status."""
        disk = self.endpoints[DISK]
        data = {'read': partial(self.post, disk[IN], BLOCK),
                'write': partial(self.post, disk[OUT], BLOCK, bytes(BLOCK))}
        steps = [data[self.disk]] * 7 if self.disk in data else []
        return steps + [lambda: self.post(disk[IN], CSW)] * (self.disk != 'idle')

    def unplugs(self, qmp: Qmp) -> List[Step]:
        """The disk is unplugged while its slot is enabled, and then the keyboard."""
        return [
            lambda: qmp.execute('device_del', id=KINDS[DISK]),
            lambda: self.step(10_000_000),
            self.kick_all,
            lambda: self.post_command(DISABLE_SLOT, slot=self.devices[DISK].slot),
            self.reset_ports,
            lambda: qmp.execute('device_del', id=KINDS[KEYBOARD]),
            lambda: press(qmp),
            lambda: self.step(MFINDEX_WRAP),
        ]

    def resets(self, qmp: Qmp) -> List[Step]:
        """The controller is reset by its driver, then with the machine."""
        return [
            lambda: self.qtest.writel(self.oper + xhci.USBCMD, xhci.HCRST),
            self.look,
            lambda: self.start(1),
            self.kick_all,
            lambda: press(qmp),
            lambda: qmp.execute('system_reset'),
            lambda: self.step(MFINDEX_WRAP),
            lambda: qmp.execute('query-pci'),
        ]

    def step(self, ns: int) -> None:
        """Let virtual time pass."""
        self.qtest.ask('clock_step', str(ns))

    def look(self) -> None:
        """Read all registers that tell something."""
        for offset in range(0, 0x20, 4):
            self.qtest.readl(xhci.BAR + offset)
        for offset in (*range(0, 0x40, 4), *(0x400 + 16 * n for n in range(self.max_ports))):
            self.qtest.readl(self.oper + offset)
        self.qtest.readl(self.runtime)
        for n in range(self.max_intrs):
            self.qtest.readl(self.intr(n) + xhci.IMAN)

    def post_all(self) -> None:
        """A TRB for each endpoint."""
        for endpoints in self.endpoints.values():
            for endpoint in endpoints.values():
                self.post(endpoint, BLOCK)

    def kick_all(self) -> None:
        """All doorbells that could be of a device."""
        for slot in range(1, len(KINDS) + 2):
            for epid in range(1, 5):
                self.qtest.writel(self.doorbell + 4 * slot, epid)

    def do_quick(self, command: bytes, length: int) -> None:
        """A command, its data and its status, without waiting."""
        disk = self.endpoints[DISK]
        self.post(disk[OUT], CBW, cbw(9, length, command))
        if length:
            self.post(disk[OUT if command[0] == WRITE else IN], length)
        self.post(disk[IN], CSW)

    def recover(self, endpoint: Endpoint) -> None:
        """Have an endpoint go on behind what it has, if it is halted."""
        self.post_command(RESET_ENDPOINT, 0, endpoint.slot, endpoint.epid)
        self.post_command(SET_DEQUEUE, endpoint.ring + 16 * endpoint.idx | 1,
                          endpoint.slot, endpoint.epid)

    def reset_ports(self) -> None:
        """Reset each, and clear what changed."""
        for port in range(1, self.max_ports + 1):
            self.qtest.writel(self.portsc(port), 0xfe0210)


def press(qmp: Qmp) -> None:
    """Keys, a button, and a position."""
    for down in True, False:
        qmp.execute('input-send-event', events=[
            {'type': 'key', 'data': {'down': down, 'key': {'type': 'qcode', 'data': 'a'}}},
            {'type': 'key', 'data': {'down': down, 'key': {'type': 'qcode',
                                                           'data': 'ctrl_r'}}},
            {'type': 'btn', 'data': {'down': down, 'button': 'left'}},
            {'type': 'abs', 'data': {'axis': 'x', 'value': 1000 + down}}])
