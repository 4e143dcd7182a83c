# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/diagnose --qemu: try a binary with the macOS-like guest."""

import concurrent.futures
import re
from pathlib import Path
from typing import Callable, List, Optional, Sequence

from xhciseries.ui import die, say, scratch_dir

from xhcitest.qemu import query

from . import guests, probe
from .guests import KEYS_AFTER_RESTORE, START_TIMEOUT, STATE_TIMEOUT, Failure, Guest
from .verdict import AFFECTED, FINE, UNKNOWN, Report

#: What is tried unless the user says otherwise: only the pin, on every version
PIN = ['-device', 'nec-usb-xhci,msi=off,msix=off']
MODES = {'pin': 'the PCI interrupt pin (legacy INTx)', 'msi': 'MSI', 'msix': 'MSI-X'}
ALLOWED = ('-device', '-global', '-machine', '-M', '-accel', '-cpu', '-readconfig')
CONTROLLER = re.compile(r'\b(nec-usb-xhci|qemu-xhci)\b')
REMEDY = 'conditional-intr-mapping=on'

PATCH = ('Patch QEMU: `scripts/apply --to ~/src/qemu` picks the series for your source, then '
         'build as usual (README.md, docs/packaging.md).')
NO_STATES = ('Until then, do not load snapshots of this VM, and do not migrate it. Where the '
             'guest can use MSI-X, without `msix=off` a state loads.')


def check_options(options: Sequence[str]) -> List[str]:
    """The options for QEMU, with a controller among them."""
    words = [re.sub('^--', '-', o) if o.startswith('--') else o for o in options]
    for name in words[::2]:
        if name not in ALLOWED:
            die(f"'{name}' is not for the guest: after -- may be {', '.join(ALLOWED)}, each "
                'with its value; leave out the rest of your command line')
    if len(words) % 2:
        die(f'{words[-1]} needs a value')
    pairs = list(zip(words[::2], words[1::2]))
    if any(name == '-readconfig' for name, _ in pairs) or \
            any(name == '-device' and CONTROLLER.search(value) for name, value in pairs):
        return words
    return [*PIN, *words]


def controller(options: Sequence[str]) -> str:
    """The type of the controller, for -global."""
    for value in options[1::2]:
        match = CONTROLLER.search(value)
        if match:
            return match[1]
    return 'pci-xhci'


class Trial:
    """One binary, with all guests that are started for it."""

    def __init__(self, qemu: str, options: List[str], folder: Path) -> None:
        self.qemu, self.options, self.folder = qemu, options, folder
        self.elf = guests.build()
        self.guests: List[Guest] = []
        self.closed = False
        self.patches = probe.listed(qemu)
        self.main = self.guest('main', options)
        self.remedy: Optional[Guest] = None
        self.state = ''             # why a state does not load
        self.pin_state = ''         # the same, with PIN
        self.after: Optional[Guest] = None

    def guest(self, name: str, options: Sequence[str], *more: str) -> Guest:
        """A guest that close() takes care of."""
        new = Guest(name, self.qemu, options, self.elf, self.folder, *more)
        self.guests.append(new)
        if self.closed:
            raise KeyboardInterrupt
        return new

    def close(self) -> None:
        """End all guests."""
        self.closed = True
        for guest in self.guests:
            guest.close()

    def run(self) -> None:
        """Everything that does not wait for something else, at once."""
        jobs: List[Callable[[], None]] = [
            lambda: self.play(self.main), self.load_state, self.ask]
        if self.patches.default is False and REMEDY not in ' '.join(self.options):
            self.remedy = self.guest('remedy', [
                *self.options, '-global', f'{controller(self.options)}.{REMEDY}'])
            jobs.append(lambda: self.play(self.remedy))
        with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
            try:
                for done in [pool.submit(job) for job in jobs]:
                    done.result()
                if not self.main.failure and self.main.arrived() and not self.state:
                    self.go_on()
            except BaseException:
                self.close()        # ends what still runs
                raise

    @staticmethod
    def play(guest: Optional[Guest]) -> None:
        """Boot and type."""
        if guest and guest.boot():
            guest.type_keys(guests.KEYS)

    def load_state(self) -> None:
        """A controller that no guest has touched yet: stock QEMU aborts already here."""
        self.state = self.fresh_state('state', self.options)
        self.pin_state = self.state if self.options == PIN else \
            self.fresh_state('pin-state', PIN)

    def fresh_state(self, name: str, options: Sequence[str]) -> str:
        """Why a state does not load, or nothing."""
        guest = self.guest(name, options, '-S')
        guest.begin()
        other = self.guest(f'{name}-restored', options, '-S', '-incoming', 'defer')
        guest.restore_in(other)
        return _why(other)

    def go_on(self) -> None:
        """The running guest in another QEMU, with input again."""
        self.after = self.guest('restored', self.options, '-incoming', 'defer')
        self.main.restore_in(self.after)
        if self.after.failure:
            self.state = _why(self.after)
        elif self.after.wait(lambda g: any(e['event'] == 'RESUME' for e in g.events),
                             STATE_TIMEOUT, 'the guest goes on'):
            self.after.type_keys(KEYS_AFTER_RESTORE)

    def ask(self) -> None:
        """The controller itself."""
        probe.ask(self.patches, self.qemu, self.main.firmware)


def diagnose(report: Report, qemu: str, options: Sequence[str]) -> None:
    """Fill in the report about a binary."""
    words = check_options(options)
    try:
        version = query(qemu, '--version').splitlines()[0]
        say(f'diagnose: trying {qemu} (some ten seconds)')
        with scratch_dir('diagnose') as folder:
            trial = Trial(qemu, words, folder)
            try:
                trial.run()
            finally:
                trial.close()
    except Failure as error:
        die(str(error).replace('\n', ' / '))
    report.fact('QEMU', f"{version.replace('QEMU emulator version ', '')}, {qemu}")
    report.fact('controller', ' '.join(words))
    _say_input(report, trial)
    _say_state(report, trial)
    _say_patches(report, trial)
    _conclude(report, trial)


def _why(guest: Guest) -> str:
    """A failure without QEMU's warnings."""
    parts = str(guest.failure or '').split(' / ')
    kept = [part for part in parts[1:] if 'warning:' not in part]
    first = re.sub(r': \S+: (-[^:]*: )?warning:.*', ':' if kept else '', parts[0])
    return ' '.join([first, *kept]) if first.endswith(':') else ' / '.join([first, *kept])


# --- facts -------------------------------------------------------------------

def _describe(guest: Guest) -> str:
    """Of a guest's input."""
    if guest.failure and not guest.arrived():
        return f'could not be tried: {_why(guest)}'
    got, sent = len(guest.arrived()), len(guest.inputs)
    if not got:
        return f'none of {sent} keys arrived'
    words = f'median latency {_ms(guest.median())}'
    if guest.late():
        words += (f"; {guest.late()} of {got} keys waited for the guest's timeout (one second "
                  'here), as no interrupt came for them')
    else:
        words += f'; {got} keys, each with its interrupt'
    if sent > got:
        words += f'; {sent - got} did not arrive'
    return words + (f'; {_why(guest)}' if guest.failure else '')


def _ms(value: float) -> str:
    return f'{value:.1f} ms' if value < 10 else f'{value:.0f} ms'


def _say_input(report: Report, trial: Trial) -> None:
    if trial.main.ready:
        report.fact('interrupts', MODES[trial.main.ready])
    report.fact('input', _describe(trial.main))
    if trial.remedy and trial.main.late() and trial.remedy.arrived():
        report.fact('', f'with {REMEDY}: {_describe(trial.remedy)}')


def _say_state(report: Report, trial: Trial) -> None:
    if trial.main.failure and not trial.main.ready:
        return
    if trial.state:
        report.fact('snapshots', f'cannot be restored: {trial.state}')
    elif trial.after and (trial.after.late() or trial.after.lost() or trial.after.failure):
        report.fact('snapshots', f'are restored; input after that: {_describe(trial.after)}')
    elif trial.after:
        report.fact('snapshots', 'are restored, and input goes on')
    else:
        report.fact('snapshots', 'are restored, as far as could be tried without the guest')


def _say_patches(report: Report, trial: Trial) -> None:
    patches = trial.patches
    patches.core.append(('a state loads on the pin', not trial.pin_state))
    words = []
    for name, evidence in patches.ranges():
        known = probe.has(evidence)
        if known is not None:
            words.append(f"{name} {'yes' if known else 'no'}")
        elif all(value is None for _, value in evidence):
            words.append(f'{name} unknown' + (f' ({patches.failure})' if patches.failure else ''))
        else:
            words.append(f'{name} partly ('
                         + ', '.join(f"{what}: {'yes' if value else 'no'}"
                                     for what, value in evidence if value is not None) + ')')
    report.fact('patches', ', '.join(words))


# --- verdict -----------------------------------------------------------------

def _conclude(report: Report, trial: Trial) -> None:
    main, state = trial.main, trial.state
    if main.failure or not main.arrived():
        why = _why(main) or 'no key arrived in the guest'
        if 'aborts' in why or 'is ended by' in why:
            report.conclude(AFFECTED, f'while the guest ran, {why}', PATCH)
        else:
            report.conclude(UNKNOWN, why, _hint(why))
        return
    slow = main.late() or main.lost()
    after = trial.after
    slow_after = after and (after.late() or after.lost())
    if slow:
        advice = _against_lag(trial)
        report.conclude(AFFECTED, 'input is not signalled to the guest'
                        + (', and a snapshot cannot be restored' if state else ''),
                        *advice, *([NO_STATES] if state else []))
    elif state:
        report.conclude(AFFECTED, 'input works, but this QEMU cannot restore a snapshot of a VM '
                        'with this controller, nor take in a migration', PATCH, NO_STATES)
    elif slow_after or (after and after.failure):
        report.conclude(AFFECTED, 'input works, but no longer after a snapshot was restored',
                        PATCH)
    elif after is None:
        report.conclude(UNKNOWN, 'input works, but no running guest could be restored')
    elif main.ready != 'pin' and trial.patches.default is not True:
        report.conclude(FINE, f'with {MODES[main.ready]}, all input is signalled. '
                        'On the pin, without the patches, it would not be',
                        'Nothing, as long as the guest really uses it: see `scripts/diagnose '
                        '--log` and `--qmp`.')
    else:
        report.conclude(FINE, 'all input is signalled to the guest, and snapshots work')


def _against_lag(trial: Trial) -> List[str]:
    device, advice = controller(trial.options), []
    remedy = trial.remedy
    if remedy and remedy.arrived() and not remedy.late() and not remedy.lost():
        advice.append(f'For input, no other QEMU is needed: add `-global {device}.{REMEDY}` to '
                      f'your command line. It was tried here: median {_ms(remedy.median())}.')
    elif trial.main.ready == 'pin':
        advice.append('This QEMU has no option that helps on the pin. Where the guest can use '
                      'MSI-X, leave out `msix=off`.')
    return [*advice, PATCH]


def _hint(why: str) -> str:
    if f'not in {START_TIMEOUT} s' in why:
        return 'Try again when the machine is less busy.'
    return ('If QEMU complains of an option, correct it; docs/diagnosis.md has examples that '
            'work.')
