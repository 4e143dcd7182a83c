# SPDX-License-Identifier: GPL-2.0-or-later
"""What happened to each event, from the trace of a QEMU run.

A QEMU with range 02xx logs the interrupts that it sends. Any other does not, so
what it sends is worked out here from the registers that the guest writes, by the
rules of stock QEMU's xhci_intr_raise() and xhci_intr_update(). Section numbers
are those of the xHCI specification, revision 1.2.
"""

import datetime
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Optional, Set, Tuple

PIN, MSI, MSIX, MESSAGES = 'pin', 'MSI', 'MSI-X', 'MSI or MSI-X'

#: What became of an event. QUIET has BEI: the guest wants no interrupt for it.
#: POLLED was for a guest with interrupts off.
TOLD, UNTOLD, POLLED, QUIET, RESET = 'told', 'untold', 'polled', 'quiet', 'reset'

#: Seconds: where events of a ring wait less, something told the guest of them;
#: where they wait more, a timeout did
SOON, LATE = .05, .2
#: Fewer events than this say nothing about the time that they wait
ENOUGH = 4

# Registers: 5.4.1, 5.5.2
USBCMD, RS, INTE = 0x00, 1, 4
FIRST_INTERRUPTER, IMAN, ERDP = 0x20, 0x00, 0x18
IP, IE, EHB = 1, 2, 8
# TRBs: 6.4.1; the types that have BEI
BEI, WITH_BEI = 1 << 9, ('TR_NORMAL', 'TR_ISOCH', 'TR_EVDATA')

_LINE = re.compile(r'\b(usb_xhci_\w+) (.*)')
_SECONDS = re.compile(r'^(?:\d+@)?(\d{9,}\.\d+):')
_ISO = re.compile(r'^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?)\d*(?:Z|[+-]\d\d(?::?\d\d)?)? ')
_NUMBER = re.compile(r'0x[0-9a-f]+|\d+')
#: The lines that count, and how many numbers each has
_WANTED = {'queue_event': 5, 'fetch_trb': 4, 'irq_intx': 1, 'irq_msi': 1, 'irq_msix': 1,
           'irq_msix_use': 1, 'irq_msix_unuse': 1, 'pci_intr_mode': 0, 'reset': 0,
           'runtime_read': 2, 'runtime_write': 2, 'oper_write': 2}


@dataclass
class Op:
    """A line of the log."""

    name: str                   # without usb_xhci_
    line: int
    time: Optional[float]       # seconds since the first one
    text: str
    values: List[int]

    @property
    def where(self) -> float:
        """Its place: seconds, or without time stamps the line."""
        return self.line if self.time is None else self.time


@dataclass
class Event:
    """A TRB on an event ring."""

    op: Op
    ring: int
    state: str = UNTOLD
    wait: Optional[float] = None        # seconds, until the guest had served it


@dataclass
class Mode:
    """From a place on, the guest has these interrupts."""

    op: Op
    mode: Optional[str]         # None: could not be told
    how: str


@dataclass
class _Ring:
    """An interrupter, as far as the log shows it."""

    ie: Optional[bool] = None           # None: the log starts too late
    ip: bool = False
    ehb: Optional[str] = None           # TOLD or UNTOLD while EHB is set
    pending: List[Event] = field(default_factory=list)


@dataclass
class Trace:
    """A log, and what was found in it."""

    name: str
    lines: int = 0
    ops: List[Op] = field(default_factory=list)
    events: List[Event] = field(default_factory=list)
    modes: List[Mode] = field(default_factory=list)
    interrupts: List[Tuple[Op, str, int]] = field(default_factory=list)    # mode, number
    seen: Dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def timed(self) -> bool:
        """Whether the lines have time stamps."""
        return bool(self.ops) and self.ops[0].time is not None

    @property
    def logs_interrupts(self) -> bool:
        """Whether this QEMU logs what it sends."""
        return any(self.seen[name] for name in ('irq_intx', 'irq_msi', 'irq_msix'))

    def rings(self) -> List[int]:
        """Those that have events."""
        return sorted({event.ring for event in self.events})

    def of(self, ring: int, *states: str) -> List[Event]:
        """Its events, in these states."""
        return [e for e in self.events if e.ring == ring and (not states or e.state in states)]


def parse(path: str, lines: Iterable[str]) -> Trace:
    """Read a log, and find out what happened."""
    trace = Trace(path)
    first: Optional[float] = None
    last: Optional[float] = None
    for number, line in enumerate(lines, 1):
        trace.lines = number
        match = _LINE.search(line)
        if not match:
            continue
        name = match[1][len('usb_xhci_'):]
        trace.seen[name] += 1
        if name not in _WANTED:
            continue
        values = [int(x, 0) for x in _NUMBER.findall(_plain(name, match[2]))]
        if len(values) < _WANTED[name]:
            continue            # cut off: QEMU was killed
        stamp = _time(line)
        if stamp is not None:
            first = stamp if first is None else first
            last = stamp - first
        trace.ops.append(Op(name, number, last, match[2], values))
    if trace.ops and trace.ops[0].time is None:
        for op in trace.ops:
            op.time = None
    _find_modes(trace)
    _Model(trace).run()
    return trace


def _plain(name: str, text: str) -> str:
    """Where the numbers are: names of TRBs have none that count."""
    return re.sub(r'\b[A-Z]\w*', '', text) if name in ('queue_event', 'fetch_trb') else text


def _time(line: str) -> Optional[float]:
    """Seconds, from what -msg timestamp=on puts first."""
    match = _SECONDS.match(line)
    if match:
        return float(match[1])
    match = _ISO.match(line)
    if match:
        return datetime.datetime.fromisoformat(match[1]).timestamp()
    return None


def _register(op: Op) -> Tuple[int, int]:
    """(interrupter, register) of a runtime register; interrupter -1 is none."""
    offset = op.values[0]
    return (offset - FIRST_INTERRUPTER) // 0x20, offset & 0x1f


# --- modes -------------------------------------------------------------------

def _find_modes(trace: Trace) -> None:
    """Which interrupts the guest has, from the best evidence that there is."""
    if trace.seen['pci_intr_mode']:
        for op in trace.ops:
            if op.name == 'pci_intr_mode':
                match = re.search(r'-> ([\w-]+)', op.text)
                trace.modes.append(Mode(op, match[1] if match else None, 'logged'))
        return
    if trace.logs_interrupts:
        names = {'irq_intx': PIN, 'irq_msi': MSI, 'irq_msix': MSIX}
        for op in trace.ops:
            mode = names.get(op.name)
            if mode and (mode != PIN or op.values[0]) and \
                    (not trace.modes or trace.modes[-1].mode != mode):
                trace.modes.append(Mode(op, mode, 'by the interrupts that are sent'))
        return
    # A driver chooses after it has reset the controller.
    start = 0
    resets = [number for number, op in enumerate(trace.ops) if op.name == 'reset']
    for end in [*resets, len(trace.ops)]:
        part = trace.ops[start:end]
        if any(op.name == 'queue_event' for op in part):
            mode, how = _mode_of(part)
            if not trace.modes or trace.modes[-1].mode != mode:
                trace.modes.append(Mode(part[0], mode, how))
        start = end


def _mode_of(ops: List[Op]) -> Tuple[Optional[str], str]:
    """The mode between two resets, where QEMU says nothing about it."""
    if any(op.name == 'irq_msix_use' for op in ops):
        return MSIX, 'as vectors are used'
    votes: Dict[str, int] = defaultdict(int)
    clears = 0
    waits: List[float] = []
    since: Dict[int, List[Op]] = defaultdict(list)
    state: Dict[int, _Ring] = defaultdict(_Ring)
    inte: Optional[bool] = None
    commands = 0
    for op in ops:
        if op.name == 'oper_write' and op.values[0] == USBCMD:
            inte = bool(op.values[1] & INTE)
            commands |= op.values[1]
        elif op.name == 'queue_event':
            number = op.values[0]
            ring = state[number]
            if ring.ie is not False and inte is not False:
                # With messages IP is clear again when it is read, 4.17.5.
                ring.ip = ring.ip or ring.ehb is None
                if number:
                    since[number].append(op)
            ring.ehb = TOLD
        elif op.name in ('runtime_read', 'runtime_write') and op.values[0] >= FIRST_INTERRUPTER:
            number, register = _register(op)
            ring, value = state[number], op.values[1]
            if register == IMAN and op.name == 'runtime_read':
                if ring.ip:
                    votes[PIN if value & IP else MESSAGES] += 1
            elif register == IMAN:
                clears += bool(value & IP and ring.ip)
                ring.ip = ring.ip and not value & IP
                ring.ie = bool(value & IE)
            elif register == ERDP and op.name == 'runtime_write' and value & EHB:
                ring.ehb = None
                waits += [op.time - o.time for o in since.pop(number, [])
                          if op.time is not None and o.time is not None]
    if votes:
        mode = max(votes, key=lambda m: votes[m])
        return mode, 'by IP when the guest reads it'
    if clears:
        return PIN, 'as the guest clears IP itself'
    if len(waits) >= ENOUGH:
        wait = statistics.median(waits)
        if wait <= SOON:
            return MESSAGES, 'as the guest serves rings 1 and up at once'
        if wait >= LATE:
            return PIN, 'as the guest serves rings 1 and up only after a timeout'
    polls = commands & RS and not commands & INTE
    return None, 'firmware that polls' if polls else 'no sign of it'


# --- what happened -----------------------------------------------------------

class _Model:
    """Goes through the log and decides what became of each event."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.rings: Dict[int, _Ring] = defaultdict(_Ring)
        self.inte: Optional[bool] = None
        self.halted = False                     # since a reset that the log shows
        self.mode: Optional[str] = None
        self.used: Set[int] = set()             # MSI-X vectors, in stock QEMU
        self.quiet: Set[int] = set()            # addresses of TRBs with BEI
        self.cause: Optional[int] = None        # whose interrupt a message can be

    def run(self) -> None:
        """All of it."""
        modes = {id(mode.op): mode.mode for mode in self.trace.modes}
        for op in self.trace.ops:
            if id(op) in modes:
                self.mode = modes[id(op)]
            handler = getattr(self, '_' + op.name, None)
            if handler:
                handler(op)
        for number in list(self.rings):
            self._serve(number, None)

    def _enabled(self, ring: _Ring) -> bool:
        return ring.ie is not False and self.inte is not False

    # The device

    def _reset(self, _op: Op) -> None:
        for ring in self.rings.values():
            for event in ring.pending:
                event.state = RESET
        self.rings.clear()
        for number in range(16):
            self.rings[number].ie = False
        self.inte = False
        self.halted = True

    def _fetch_trb(self, op: Op) -> None:
        kind = op.text.split(', ')[1]
        if kind in WITH_BEI:
            (self.quiet.add if op.values[-1] & BEI else self.quiet.discard)(op.values[0])

    def _queue_event(self, op: Op) -> None:
        if self.halted:
            # A controller that is halted has no events: a state was loaded.
            self.rings.clear()
            self.inte, self.halted = None, False
        number = op.values[0]
        ring = self.rings[number]
        event = Event(op, number)
        self.trace.events.append(event)
        ring.pending.append(event)
        self.cause = number
        if 'ER_TRANSFER' in op.text and op.values[2] in self.quiet and \
                'CC_SUCCESS' in op.text:
            event.state = QUIET
            if self.trace.logs_interrupts:
                return
        if ring.ehb:
            event.state = ring.ehb if event.state != QUIET or ring.ehb == TOLD else QUIET
        elif not self.trace.logs_interrupts:
            ring.ip = True
            self._signal(number)

    def _signal(self, number: int) -> None:
        """Stock QEMU's xhci_intr_raise(), once IP is set."""
        ring = self.rings[number]
        ring.ehb = UNTOLD
        if not self._enabled(ring):
            return
        if self.mode == PIN:
            told = number == 0
        elif self.mode == MSIX:
            told, ring.ip = number in self.used, False
        elif self.mode is None:
            told = number == 0          # that one is signalled in every mode
        else:
            told, ring.ip = True, False
        if told:
            self._told(number)
            self.trace.interrupts.append((ring.pending[-1].op, self.mode or '', number))

    def _told(self, number: int) -> None:
        ring = self.rings[number]
        ring.ehb = TOLD
        for event in ring.pending:
            event.state = TOLD

    def _irq_intx(self, op: Op) -> None:
        if op.values[0]:
            self.trace.interrupts.append((op, PIN, 0))
            self._told(0)

    def _irq_msix(self, op: Op) -> None:
        self.trace.interrupts.append((op, MSIX, op.values[0]))
        self._told(op.values[0])

    def _irq_msi(self, op: Op) -> None:
        vector = op.values[0]
        self.trace.interrupts.append((op, MSI, vector))
        # The vector is the interrupter modulo the enabled vectors, 4.17.
        fits = [n for n in self.rings if any(n % (1 << bits) == vector for bits in range(5))]
        for number in [self.cause] if self.cause in fits else fits:
            if number is not None:
                self._told(number)

    def _irq_msix_use(self, op: Op) -> None:
        self.used.add(op.values[0])

    def _irq_msix_unuse(self, op: Op) -> None:
        self.used.discard(op.values[0])

    # The guest

    def _oper_write(self, op: Op) -> None:
        if op.values[0] == USBCMD:
            self.inte = bool(op.values[1] & INTE)
            self.halted = self.halted and not op.values[1] & RS
            self.cause = None
            self._update_first()

    def _runtime_write(self, op: Op) -> None:
        if op.values[0] < FIRST_INTERRUPTER:
            return
        number, register = _register(op)
        ring, value = self.rings[number], op.values[1]
        self.cause = number
        if register == IMAN:
            ring.ip = ring.ip and not value & IP
            ring.ie = bool(value & IE)
            if number == 0:
                self._update_first()
        elif register == ERDP:
            self._serve(number, op)
            if value & EHB:
                ring.ehb = None

    def _update_first(self) -> None:
        """Of stock QEMU's interrupters only the first follows IE and INTE."""
        ring = self.rings[0]
        if not self.trace.logs_interrupts and ring.ip and ring.ehb == UNTOLD and \
                ring.pending and self._enabled(ring):
            self._signal(0)

    def _serve(self, number: int, op: Optional[Op]) -> None:
        """The guest has taken the events; without `op` the log ends here."""
        ring = self.rings[number]
        for event in ring.pending:
            if event.state == UNTOLD and not self._enabled(ring):
                event.state = POLLED
            if op and op.time is not None and event.op.time is not None:
                event.wait = op.time - event.op.time
        ring.pending.clear()
