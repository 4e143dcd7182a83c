# SPDX-License-Identifier: GPL-2.0-or-later
"""Run qtest binaries to the end, whatever aborts on the way.

A failed assertion, or a QEMU that crashes, takes the whole test process with
it. So the tests are run by path, a few at a time; when a process dies, the
test that it was in has failed, and the others go on in a new process.

Prints TAP: a line per test, in the order in which the binaries list them.
"""

import argparse
import collections
import json
import math
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Deque, Dict, List, Optional, Sequence, Set, TextIO, Tuple

from xhciseries.ui import Parser, die, run_main, say

from . import process, results, tap
from .results import Result

REASON = re.compile(r'ERROR:|Assertion|assertion|QEMU death|Broken pipe|'
                    r'qemu-system-\S+: ')

#: (binary, path)
Test = Tuple[str, str]

# Each of its tests starts as if it were the only one, so they can run side by
# side; in other programs a test may lean on the one before it.
INDEPENDENT = 'qos-test'


class Runner:
    """Runs tests, a few processes at a time."""

    def __init__(self, args: argparse.Namespace, scratch: str) -> None:
        self.args = args
        self.env = dict(os.environ, QTEST_QEMU_BINARY=args.qemu,
                        TMPDIR=scratch)
        self.queue: Deque[Tuple[str, List[str]]] = collections.deque()
        self.results: Dict[Test, Result] = {}
        self.running: Set["subprocess.Popen[bytes]"] = set()
        self.lock = threading.Lock()
        self.stopping = False
        self.log: Optional[TextIO] = (open(args.log, 'w', errors='replace') if args.log
                                      else None)

    def start(self, command: Sequence[str], **kw: Any) -> 'subprocess.Popen[bytes]':
        """Start in a session of its own, so that its QEMU can be killed too."""
        started = subprocess.Popen(
            command, env=self.env, cwd=self.args.cwd, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **kw)
        with self.lock:
            self.running.add(started)
        if self.stopping:
            process.end(started)
        return started

    def finish(self, started: 'subprocess.Popen[bytes]') -> int:
        """End it with its QEMU; its exit status."""
        status = process.end(started)
        with self.lock:
            self.running.discard(started)
        return status

    def stop(self) -> None:
        """End all, whatever they do."""
        self.stopping = True
        with self.lock:
            running = list(self.running)
        for started in running:
            process.end(started)

    def list_tests(self, binary: str) -> List[str]:
        """The paths of its tests."""
        started = self.start([binary, '-l'], stderr=subprocess.DEVNULL)
        try:
            out, _ = started.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            out = b''
        self.finish(started)
        return [line for line in out.decode(errors='replace').splitlines()
                if line.startswith('/')]

    def select(self) -> List[Test]:
        """Those that are asked for."""
        selected: List[Test] = []
        for binary in self.args.binary:
            paths = self.list_tests(binary)
            if not paths:
                die(f'{binary} lists no tests with {self.args.qemu}')
            selected += [(binary, p) for p in dict.fromkeys(paths)
                         if re.search(self.args.match, p)
                         and not (self.args.exclude
                                  and re.search(self.args.exclude, p))]
        return selected

    def run(self, tests: Sequence[Test]) -> None:
        """Run them all, with progress on stderr."""
        for binary in dict.fromkeys(b for b, _ in tests):
            paths = [p for b, p in tests if b == binary]
            size = len(paths)
            if os.path.basename(binary) == INDEPENDENT:
                size = math.ceil(size / (self.args.jobs * 4))
            for i in range(0, len(paths), size):
                self.queue.append((binary, paths[i:i + size]))
        threads = [threading.Thread(target=self.worker, daemon=True)
                   for _ in range(self.args.jobs)]
        for thread in threads:
            thread.start()
        last = time.monotonic()
        while any(t.is_alive() for t in threads):
            time.sleep(0.1)
            if time.monotonic() - last > 5:
                last = time.monotonic()
                say(f'# {len(self.results)} of {len(tests)} tests')

    def worker(self) -> None:
        """One of the threads."""
        while not self.stopping:
            try:
                binary, paths = self.queue.popleft()
            except IndexError:
                return
            left = self.run_some(binary, paths)
            if left:
                self.queue.append((binary, left))

    def run_some(self, binary: str, paths: Sequence[str]) -> List[str]:
        """Run paths in one process; return those that it did not get to."""
        left = list(paths)
        # Without -p all would run.
        command = [binary, '--tap', '-k']
        for path in paths:
            command += ['-p', path]
        started = self.start(command, stderr=subprocess.STDOUT)
        assert started.stdout
        os.set_blocking(started.stdout.fileno(), False)
        poll = selectors.DefaultSelector()
        poll.register(started.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + self.args.timeout
        since: List[str] = []
        pending = b''
        timeout = aborted = False
        while True:
            if not poll.select(max(0, deadline - time.monotonic())):
                timeout = True
                break
            data = started.stdout.read()
            if not data:
                break
            *lines, pending = (pending + data).split(b'\n')
            for line in lines:
                text = line.decode(errors='replace')
                since.append(text)
                if self.log:
                    self.log.write(text + '\n')
                point = tap.parse(text.strip())
                path = point.title.partition(' ')[0] if point else ''
                if not point or path not in left:
                    continue
                left.remove(path)
                # GLib gives no number to a test that aborts.
                aborted = point.number is None
                if not point.ok:
                    result = 'fail', reason_in(since)
                elif point.skip is not None:
                    result = 'skip', point.skip
                else:
                    result = 'pass', ''
                self.results[binary, path] = result
                since = []
                deadline = time.monotonic() + self.args.timeout
        if not timeout:
            try:
                started.wait(5)
            except subprocess.TimeoutExpired:
                timeout = True
        status = self.finish(started)
        if left and not aborted and not self.stopping:
            # They run in the order of the list: this one was running.
            why = (f'no result within {self.args.timeout:g} s' if timeout
                   else reason_in(since + [pending.decode(errors='replace')])
                   or f'the test ended with status {status}')
            self.results[binary, left.pop(0)] = 'fail', why
        return left


def reason_in(lines: Sequence[str]) -> str:
    """The first line that says why, or nothing."""
    for line in lines:
        if REASON.search(line):
            return re.sub(r'^(# |Bail out! |not ok \S+ (- )?)*', '', line).strip()
    return ''


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The command line."""
    parser = Parser('scripts/lib/qtest', None, __doc__ or '')
    parser.add_argument('--qemu', required=True, help='QEMU binary to test')
    parser.add_argument('--match', default='', metavar='REGEX',
                        help='run only these test paths')
    parser.add_argument('--exclude', metavar='REGEX', help='leave these out')
    parser.add_argument('--jobs', type=int, default=2,
                        help='processes at a time (2)')
    parser.add_argument('--timeout', type=float, default=60,
                        help='seconds for one test (60)')
    parser.add_argument('--cwd', help='run the tests in this folder')
    parser.add_argument('--log', help='everything the tests print')
    parser.add_argument('--json', help='write the results to this file')
    parser.add_argument('--baseline', metavar='JSON',
                        help='results of another QEMU: what did not pass there'
                             ' does not count here')
    parser.add_argument('--expect', nargs=2, metavar=('FILE', 'COLUMN'),
                        help='a table, and the column that has the results'
                             ' to expect: any other result, and any other'
                             ' test, is a failure')
    parser.add_argument('--record', nargs=2, metavar=('FILE', 'COLUMN'),
                        help='write the results to that column of the table')
    parser.add_argument('binary', nargs='+')
    args = parser.parse(argv)
    args.qemu = os.path.abspath(args.qemu)
    args.binary = [os.path.abspath(path) for path in args.binary]
    for path in [args.qemu] + args.binary:
        if not os.access(path, os.X_OK):
            die(f'no such program: {path}')
    return args


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('qtest', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    args = parse(argv)
    expected = results.read_column(*args.expect) if args.expect else {}
    # Sockets go there, and their paths must be short.
    scratch = tempfile.mkdtemp(prefix='qtest-', dir='/tmp')
    runner = Runner(args, scratch)
    try:
        tests = runner.select()
        if not tests:
            die(f'no test matches {args.match!r}')
        runner.run(tests)
    finally:
        runner.stop()
        shutil.rmtree(scratch, ignore_errors=True)

    found = {f'{os.path.basename(b)} {p}': runner.results[b, p] for b, p in tests}
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(found, file, indent=1)
    if args.record:
        path, column = args.record
        results.write_column(path, column, {name: result for name, (result, _)
                                            in found.items()})
    return report(args, found, expected)


def report(args: argparse.Namespace, found: Dict[str, Result],
           expected: Dict[str, str]) -> int:
    """Print the TAP; return the exit status."""
    baseline: Dict[str, Result] = {}
    if args.baseline:
        with open(args.baseline) as file:
            baseline = json.load(file)
    out = tap.Writer()
    for name in dict.fromkeys([*expected, *found]):
        result, reason = found.get(name, ('gone', ''))
        note = ''
        if args.expect:
            good = result == expected.get(name)
            if good:
                note = f' # {result}s as recorded'
            else:
                reason = (f'{expected.get(name, "nothing")} is recorded, the'
                          f' result is {result}: {reason}')
        elif baseline and baseline.get(name, ('gone', ''))[0] != 'pass':
            good, note = True, ' # SKIP does not pass on stock either'
        elif baseline:
            good = result == 'pass'
        else:
            good = result in ('pass', 'skip')
            note = f' # SKIP {reason}' if result == 'skip' else ''
        out.point(good, name + note, dash='')
        if not good and reason:
            out.note(reason)
    out.end()
    return 1 if out.failed else 0


if __name__ == '__main__':
    sys.exit(main())
