# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs QEMU under callgrind, and counts the instructions of its xHCI."""

import concurrent.futures
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import xhci
from binaries import Failed, say

MODES = {
    'pin': 'msi=off,msix=off',
    'MSI': 'msi=on,msix=off',
    'MSI-X': 'msi=off,msix=on',
}
# Every register write comes in here. Callgrind counts only what happens inside.
DISPATCH = 'memory_region_dispatch_write'
EVENT = 'xhci_event'
COUNTED = (EVENT, DISPATCH)
# Left out of the figures about DISPATCH: what these cost depends on the state of
# the heap, and so on everything that QEMU did before.
ALLOCATOR = ('malloc', 'calloc', 'realloc', 'free', 'posix_memalign',
             'aligned_alloc')
FIRMWARE = ('/usr/share/seabios', '/usr/share/qemu', '/usr/lib/ipxe/qemu')
TIMEOUT = 600                                   # seconds, for one run


# --- the binaries ------------------------------------------------------------

def check_tools():
    """Raise Failed if valgrind or nm is not there."""
    for tool, package in (('valgrind', 'valgrind'), ('nm', 'binutils')):
        if not shutil.which(tool):
            raise Failed(f'{tool} is not installed: install the package {package} '
                         f'(Debian, Ubuntu: apt-get install {package})')


def check_binary(path):
    """The functions that the figures are about must be there by name."""
    done = subprocess.run(['nm', path], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL)
    symbols = {line.split()[-1] for line in done.stdout.splitlines() if line}
    for function in COUNTED:
        if not any(is_function(name, function) for name in symbols):
            raise Failed(f'{path} has no symbol {function}: it is stripped, or the '
                         'compiler inlined the function, and its cost cannot be told')
        if any(name.startswith(function + '.part.') for name in symbols):
            raise Failed(f'{path}: the compiler inlined a part of {function} into '
                         'its callers, and its cost cannot be told')


def is_function(symbol, function):
    """Whether symbol is function, or a whole clone of it."""
    return re.fullmatch(re.escape(function) + r'(\.(isra|constprop)\.\d+)*',
                        symbol) is not None


# --- one run -----------------------------------------------------------------

class Job:
    """One QEMU under callgrind, with a guest.

    Args:
        name: of the profile and the log, and what messages call it
        options: of the controller, as for -device
        guest: called with a socket for the qtest protocol
        keyboards: how many USB devices there are
        out: the folder for the profile
        scratch: a folder for what the run leaves behind
    """

    def __init__(self, name, qemu, options, guest, out, scratch, keyboards=1):
        self.name, self.qemu, self.options = name, qemu, options
        self.guest, self.keyboards = guest, keyboards
        self.profile = os.path.join(out, name + '.callgrind')
        self.log = os.path.join(out, name + '.log')
        self.home = os.path.join(scratch, name)

    def command(self, path):
        data = [d for d in FIRMWARE if os.path.isdir(d)]
        return ['valgrind', '--tool=callgrind', '--compress-pos=no',
                f'--toggle-collect={DISPATCH}',
                f'--callgrind-out-file={self.profile}', self.qemu,
                *(word for d in data for word in ('-L', d)),
                '-machine', 'pc', '-accel', 'qtest', '-m', '128',
                '-nodefaults', '-no-user-config', '-display', 'none',
                '-qtest', f'unix:{path}', '-qtest-log', 'none',
                '-device', f'nec-usb-xhci,id=xhci,{xhci.DEVICE},{self.options}',
                *(('-device', 'usb-kbd,bus=xhci.0') * self.keyboards)]

    def run(self, running):
        os.mkdir(self.home)
        # Nothing of the user's environment changes what is counted.
        env = {'PATH': os.environ.get('PATH', os.defpath), 'LC_ALL': 'C',
               'HOME': self.home, 'TMPDIR': self.home, 'LD_BIND_NOW': '1'}
        path = os.path.join(self.home, 's')
        with open(self.log, 'w') as log, \
                socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(1)
            process = subprocess.Popen(
                self.command(path), env=env, cwd=self.home,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)
            running.append(process)
            try:
                self.drive(listener, process)
                process.terminate()
                process.wait(TIMEOUT)
            except (xhci.Error, OSError, subprocess.TimeoutExpired) as e:
                raise Failed(f'{self.name}: {e} '
                             f'(log: {self.log})') from None
            finally:
                process.kill()
                process.wait()
        return self.count()

    def drive(self, listener, process):
        start = time.monotonic()
        while True:
            try:
                sock, _ = listener.accept()
                break
            except socket.timeout:
                if process.poll() is not None:
                    raise xhci.Error('QEMU does not start') from None
                if time.monotonic() - start > TIMEOUT:
                    raise
        with sock:
            sock.settimeout(TIMEOUT)
            self.guest(sock)

    def count(self):
        """function -> (calls, instructions in it and in what it calls)."""
        names, function, callee = {}, None, None
        counts = {f: [0, 0] for f in COUNTED}
        allocator = calls = 0
        try:
            profile = open(self.profile)
        except OSError:
            raise Failed('callgrind wrote no profile '
                         f'(log: {self.log})') from None
        with profile:
            for line in profile:
                if line.startswith(('fn=', 'cfn=')):
                    key, _, value = line.rstrip().partition('=')
                    number, _, name = value.partition(' ')
                    name = names.setdefault(number, name)
                    if key == 'fn':
                        function = name
                    else:
                        callee = name
                elif line.startswith('calls='):
                    calls = int(line[6:].split()[0])
                elif calls:
                    # The line after calls=: what these calls cost.
                    cost = int(line.split()[1])
                    if callee in ALLOCATOR and function not in ALLOCATOR:
                        allocator += cost
                    for wanted, sums in counts.items():
                        if not callee.startswith(wanted) or \
                                not is_function(callee.partition("'")[0], wanted):
                            continue
                        if "'" in callee or is_function(function, wanted):
                            raise Failed(f'{wanted} calls itself: its cost would '
                                         f'count twice (profile: {self.profile})')
                        sums[0] += calls
                        sums[1] += cost
                    calls = 0
        counts[DISPATCH][1] -= allocator
        return counts


def run_all(jobs, workers):
    """The counts of each job, by its name."""
    running, results, stop = [], {}, threading.Event()

    def work(job):
        return None if stop.is_set() else job.run(running)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(futures):
                name = futures[future].name
                results[name] = future.result()
                say(f'  {len(results):2} of {len(jobs)}: {name}')
        except BaseException:
            stop.set()
            for process in running:
                if process.returncode is None:
                    process.kill()
            raise
    return results


def scratch():
    return tempfile.TemporaryDirectory(prefix='xhci-bench-')
