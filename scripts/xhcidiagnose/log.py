# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/diagnose --log: what the trace of a real run shows."""

import gzip
import statistics
import sys
from typing import IO, Dict, List, Optional, Set

from xhciseries.ui import die

from .trace import PIN, POLLED, QUIET, TOLD, UNTOLD, Event, Trace, parse
from .verdict import AFFECTED, FINE, UNKNOWN, Report

HOW = "start QEMU with -trace 'usb_xhci_*' -msg timestamp=on -D FILE"
#: As many changes of mode as are shown
SHOWN = 8


def read(path: str) -> Trace:
    """Parse a log, also one that gzip made, or stdin."""
    if path == '-':
        return _parse('stdin', sys.stdin.buffer)
    with open(path, 'rb') as file:
        if file.peek(2)[:2] == b'\x1f\x8b':
            with gzip.open(file) as unpacked:
                try:
                    return _parse(path, unpacked)       # type: ignore[arg-type]
                except (EOFError, gzip.BadGzipFile) as error:
                    die(f'{path}: {error}')
        return _parse(path, file)


def _parse(name: str, file: IO[bytes]) -> Trace:
    trace = parse(name, (line.decode('utf-8', 'replace') for line in file))
    if not any(trace.seen.values()):
        die(f'{name} has no usb_xhci line: {HOW}')
    return trace


def diagnose(report: Report, trace: Trace) -> None:
    """Fill in the report about a log."""
    span = f', {trace.ops[-1].time:.1f} s' if trace.timed else ', without time stamps'
    report.fact('log', f'{trace.name}, {trace.lines} lines{span}')
    report.fact('QEMU', _which(trace))
    for mode in trace.modes[:SHOWN]:
        report.fact('interrupts', f'from {_place(trace, mode.op.where)} on: '
                    f"{mode.mode or 'unknown'} ({mode.how})")
    if len(trace.modes) > SHOWN:
        report.fact('interrupts', f'and {len(trace.modes) - SHOWN} more changes')
    for ring in trace.rings():
        report.fact(f'ring {ring}', _describe(trace, trace.of(ring)))
    report.fact('sent', _sent(trace))
    _conclude(report, trace)


def _place(trace: Trace, where: float) -> str:
    return f'{where:.3f} s' if trace.timed else f'line {where:.0f}'


def _which(trace: Trace) -> str:
    """Which ranges, as far as a log shows them."""
    if trace.logs_interrupts:
        return 'patched (core, interrupts; a log does not show hardening)'
    if trace.seen['pci_intr_mode']:
        return 'patched (core; it does not log interrupts, so it has not the range interrupts)'
    if trace.seen['irq_msix_use']:
        return 'without the range interrupts; stock, unless the log starts late'
    if trace.seen['reset']:
        return 'stock, unless the log starts late'
    return 'unknown, as the log starts late'


def _describe(trace: Trace, events: List[Event]) -> str:
    words = []
    for state, text in ((TOLD, 'signalled'),
                        (UNTOLD, 'not signalled'),
                        (POLLED, 'polled, with interrupts off'),
                        (QUIET, 'for which the guest wanted no interrupt (BEI)')):
        some = [e for e in events if e.state == state]
        if not some:
            continue
        waits = [1000 * e.wait for e in some if e.wait is not None]
        words.append(f'{len(some)} {text}' + (
            f' (served after {statistics.median(waits):.1f} ms, median; '
            f'{max(waits):.0f} ms at most)' if waits and state in (TOLD, UNTOLD) else ''))
    return f"{len(events)} events: {', '.join(words) or 'none served before a reset'}"


def _sent(trace: Trace) -> str:
    counts: Dict[str, int] = {}
    for _, mode, number in trace.interrupts:
        name = 'INTx' if mode == PIN else f"{mode or 'interrupter'} {number}"
        counts[name] = counts.get(name, 0) + 1
    words = ', '.join(f'{name}: {count}' for name, count in sorted(counts.items())) or 'nothing'
    return words if trace.logs_interrupts else \
        f'{words} (worked out: this QEMU does not log it)'


def _conclude(report: Report, trace: Trace) -> None:
    untold = [e for e in trace.events if e.state == UNTOLD]
    told = [e for e in trace.events if e.state == TOLD]
    unsure = [e for e in untold if e.ring and _mode_at(trace, e) is None]
    if not trace.events:
        report.conclude(UNKNOWN, 'the log has no event', f'Log the whole run: {HOW}.')
    elif not trace.seen['runtime_write']:
        report.conclude(UNKNOWN, 'the log does not show what the guest does',
                        f'Log all of xHCI: {HOW}.')
    elif unsure and len(unsure) == len(untold):
        report.conclude(
            UNKNOWN, 'the guest uses rings other than 0, and the log does not show which '
            'interrupts it has', f'Log the whole run, with time stamps and some input: {HOW}.')
    elif untold:
        rings = ', '.join(str(r) for r in sorted({e.ring for e in untold}))
        modes = {_mode_at(trace, e) for e in untold}
        report.conclude(
            AFFECTED, f'{len(untold)} of {len(trace.events)} events, on ring {rings}, were not '
            'signalled to the guest, which finds them when it next looks',
            *_advice(modes, any(e.ring for e in untold), bool(trace.seen['pci_intr_mode'])))
    elif not told:
        report.conclude(UNKNOWN, 'nothing in this log uses interrupts of the controller; '
                        'firmware polls', 'Log until the guest itself has started, and type '
                        'some keys.')
    elif trace.rings() == [0]:
        report.conclude(FINE, 'every event was signalled; they were all on ring 0, which is '
                        'signalled in every mode')
    else:
        report.conclude(FINE, 'every event was signalled')
    if report.status != UNKNOWN:
        report.advice.append('A log says nothing about snapshots: `scripts/diagnose --qemu` '
                             'tries them.')


def _mode_at(trace: Trace, event: Event) -> Optional[str]:
    found = None
    for mode in trace.modes:
        if mode.op.line <= event.op.line:
            found = mode.mode
    return found


def _advice(modes: Set[Optional[str]], others: bool, core: bool) -> List[str]:
    advice = []
    if PIN in modes and others and core:
        advice.append('This QEMU is patched, and conditional-intr-mapping=off turns that off for '
                      'input: leave it out.')
    elif PIN in modes and others:
        advice.append('QEMU 10.0 or later, for input: add `-global '
                      'nec-usb-xhci.conditional-intr-mapping=on` (or qemu-xhci).')
    if modes - {PIN, None} or not others:
        advice.append('The range interrupts (02xx) is about interrupts that are lost in any '
                      'mode: docs/interrupts.md.')
    if not core:
        advice.append('Any version: patch it with `scripts/apply --to ~/src/qemu` (README.md).')
    return advice
