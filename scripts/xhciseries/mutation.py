# SPDX-License-Identifier: GPL-2.0-or-later
"""Break the lines that a series adds one at a time, and see the qtests fail."""

import argparse
import collections
import contextlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from . import mutants
from .bases import Base, find
from .git import Repo
from .mutants import VARIABLE, Mutant, Reason
from .paths import TOP, WORK
from .ranges import CORE, HARDENING, INTERRUPTS, Range, by_name, of_tree
from .tree import Tree
from .ui import Parser, die, lines, run_main, say, scratch_dir

USAGE = 'scripts/faults BASE --generate [--range RANGE]... [--jobs N] [TEXT...]'

TEXT = '''
Break each line that the ranges 01xx to 03xx add to QEMU's code, one at a
time, and run the tests that the series has where the range ends, and those
of sysbus, until one fails: conditions are negated, statements dropped,
operators and constants changed. A mutant that no test notices survives, and
has to be in tests/faults/survivors with a reason.

  --range RANGE  only that range, such as 01 or core
  --jobs N       mutants at a time (2)
  TEXT           only mutants whose names contain it; these are tried again

What was found is kept in work/mutants, so an interrupted run resumes where it
stopped, unless the code has changed. Survivors are tried again when the tests
change. The commits in the tree are used, so a new test can be tried before it
is exported. One TAP line for each range and each survivor.
'''

RANGES = (CORE, INTERRUPTS, HARDENING)

#: The share of the mutants that must be killed, of all but equivalent ones, %.
WANTED = {CORE: 100.0, INTERRUPTS: 95.0, HARDENING: 95.0}

SURVIVORS = TOP / 'tests' / 'faults' / 'survivors'

QEMU = 'qemu-system-x86_64'

#: One controller on one machine has to do; sysbus is tested by 09xx only.
_OURS = re.compile(r'^/x86_64/pc/.*xhci')
_NOT_OURS = re.compile(r'/qemu-xhci/|pci-device-tests')
_SYSBUS = re.compile(r'/microvm/.*xhci-sysbus-tests/lines')

#: Tests in one process, after those that are likely to fail.
_CHUNK = 50
_LIKELY = 4


# --- one QEMU --------------------------------------------------------------


@dataclass
class Command:
    """How the build makes a file, taken apart for use with other files."""

    words: List[str]
    folder: Path

    def run(self, replace: Dict[str, str], extra: Sequence[str] = (),
            first: Sequence[str] = ()) -> Tuple[bool, str]:
        """Run it with other words. Whether it succeeds, and its messages."""
        words = [replace.get(word, word) for word in self.words] + list(extra)
        at = next(i for i, word in enumerate(words) if word.startswith('-'))
        words[at:at] = first
        done = subprocess.run(words, cwd=self.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              check=False, start_new_session=True)
        return done.returncode == 0, done.stdout.decode(errors='replace')


def _ninja() -> str:
    # The distribution's, as scripts/build takes.
    path = '/usr/bin/ninja'
    return path if os.access(path, os.X_OK) else shutil.which('ninja') or die(
        'ninja is not installed: run scripts/setup')


class Build:
    """The build folder of a base, where it is at the end of a range."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # With @file arguments written out, as ninja removes the files.
        database = subprocess.run(
            [_ninja(), '-C', str(folder), '-t', 'compdb', '-x'], check=False,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        try:
            rules = json.loads(database)
        except ValueError:
            die(f'ninja does not say how {folder} is built')
        self.rules: Dict[str, Dict[str, str]] = {rule['output']: rule for rule in rules}

    def link(self) -> Command:
        """How QEMU is linked."""
        rule = self.rules.get(QEMU) or die(f'{self.folder} has no {QEMU}')
        command = rule['command'].split(' && ')[0]
        words = shlex.split(command)
        return Command(_expanded(words, self.folder), self.folder)

    def compile(self, file: str) -> Tuple[Command, str, str]:
        """How a file of the tree is compiled: the command, and its words for
        the source and the object."""
        for output, rule in self.rules.items():
            if rule['file'].endswith('/' + file) and output.endswith('.o'):
                words = shlex.split(rule['command'])
                for option in ('-MF', '-MQ'):
                    if option in words:
                        at = words.index(option)
                        del words[at:at + 2]
                words = [word for word in words if word not in ('-MD', '-Werror', '-g')]
                return Command(words, self.folder), rule['file'], output
        die(f'{self.folder} does not build {file}')


def _expanded(words: Sequence[str], folder: Path) -> List[str]:
    result: List[str] = []
    for word in words:
        file = folder / word[1:]
        if word.startswith('@') and file.is_file():
            result += shlex.split(file.read_text())
        else:
            result.append(word)
    return result


class Stopped(Exception):
    """The run was interrupted."""


class Tests:
    """Runs tests of qos-test on a QEMU."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary = binary
        self.folder = folder
        self.running: Set['subprocess.Popen[bytes]'] = set()
        self.lock = threading.Lock()
        self.stopped = False

    def listed(self, qemu: Path, binary: Optional[Path] = None) -> List[str]:
        """The tests that there are."""
        done = subprocess.run([str(binary or self.binary), '-l'], check=False,
                              cwd=self.folder, env=self._env(qemu, '/tmp'),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
        return [line for line in done.stdout.splitlines() if line.startswith('/')]

    @staticmethod
    def _env(qemu: Path, temp: str, number: int = 0) -> Dict[str, str]:
        return {**os.environ, 'QTEST_QEMU_BINARY': str(qemu), 'TMPDIR': temp,
                VARIABLE: str(number),
                # Freed memory that is used is noticed
                'MALLOC_PERTURB_': '165'}

    def run(self, qemu: Path, number: int, paths: Sequence[str],
            limit: float) -> Tuple[Dict[str, float], str]:
        """Run tests until one fails.

        Args:
            number: the mutant that the binary is to be, 0 for none
            limit: seconds for all of them
        Returns:
            those that passed, and how many seconds they took; and the one
            that failed, or an empty string
        """
        command = [str(self.binary), '--tap']
        for path in paths:
            command += ['-p', path]
        # Sockets go there, and their paths must be short.
        temp = tempfile.mkdtemp(prefix='mutant-', dir='/tmp')
        passed: Dict[str, float] = {}
        failed = ''
        last = time.monotonic()
        process = subprocess.Popen(
            command, cwd=self.folder, env=self._env(qemu, temp, number),
            start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        watch = threading.Timer(limit, _kill, [process])
        with self.lock:
            self.running.add(process)
            if self.stopped:
                _kill(process)
        try:
            watch.start()
            for line in process.stdout or ():
                tap = re.match(r'\s*(not ok|ok) (?:\d+ )?(/\S*)', line.decode(errors='replace'))
                if tap and tap[1] == 'ok':
                    passed[tap[2]] = time.monotonic() - last
                    last = time.monotonic()
                elif tap:
                    failed = tap[2]
        finally:
            watch.cancel()
            _kill(process)
            process.wait()
            with self.lock:
                self.running.discard(process)
            shutil.rmtree(temp, ignore_errors=True)
        if self.stopped:
            raise Stopped
        # They run in the order of the list, and one may end without a word.
        left = [path for path in paths if path not in passed]
        return passed, failed if failed in left else left[0] if left else ''

    def stop(self) -> None:
        """End what runs: it has no result then."""
        with self.lock:
            self.stopped = True
            for process in self.running:
                _kill(process)


def _kill(process: 'subprocess.Popen[bytes]') -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# --- a range ---------------------------------------------------------------


class Plant:
    """QEMU as it is at the end of a range, with mutants.

    Those of functions are all in one binary, which is told which one to be;
    the others are built one by one.
    """

    def __init__(self, build: Build, found: Sequence[Mutant], sources: Dict[str, str],
                 folder: Path) -> None:
        self.mutants = found
        self.sources = sources
        self.folder = folder
        self.source = folder / 'src'
        self.build = build
        self.numbers = {mutant.name: count for count, mutant in enumerate(found, 1)}
        self.unbuilt: Set[str] = set()
        self.qemu = self._binary('all')
        self.lock = threading.Lock()

    def _binary(self, name: str) -> Path:
        # Its firmware is where the build has it.
        (self.folder / name).mkdir(parents=True)
        (self.folder / name / 'qemu-bundle').symlink_to(self.build.folder / 'qemu-bundle')
        return self.folder / name / QEMU

    def _compile(self, file: str, text: str, name: str) -> Tuple[Optional[Path], str]:
        """Compile a file of the tree with another text: the object, messages."""
        command, source, output = self.build.compile(file)
        path = self.source / file
        made = self.folder / f'{name}.o'
        before = path.read_text()
        path.write_text(text)
        try:
            good, messages = command.run(
                {source: str(path), output: str(made)}, ['-w', '-g0', '-O1'],
                # Before those of the tree, which is at the end of the series.
                [f'-iquote{self.source}', f'-iquote{self.source / "include"}'])
        finally:
            path.write_text(before)
        return (made if good else None), messages

    def _link(self, objects: Dict[str, Path], qemu: Path) -> bool:
        """Link QEMU with those objects instead of the build's."""
        changed = {self.build.compile(file)[2]: str(made) for file, made in objects.items()}
        return self.build.link().run({**changed, QEMU: str(qemu)}, ['-Wl,--strip-debug'])[0]

    def make(self) -> None:
        """The binary with all mutants that compile."""
        objects: Dict[str, Path] = {}
        for file, source in self.sources.items():
            say(f'  compiling {file} with its mutants')
            made: Optional[Path] = None
            while made is None:
                numbered = {number: mutant for number, mutant in enumerate(self.mutants, 1)
                            if mutant.function and mutant.file == file
                            and mutant.name not in self.unbuilt}
                text, owners = mutants.switchable(source, numbered)
                made, messages = self._compile(file, text, file.replace('/', '_'))
                if made is None:
                    bad = {owners.get(int(line)) for line in re.findall(
                        rf'{re.escape(Path(file).name)}:(\d+):(?:\d+:)? error', messages)}
                    names = [numbered[number].name for number in bad if number]
                    if not names:
                        die(f'{file} does not compile: {messages.strip()[-300:]}')
                    self.unbuilt.update(names)
            objects[file] = made
        if not self._link(objects, self.qemu):
            die(f'{QEMU} with the mutants does not link')

    def binary(self, mutant: Mutant) -> Tuple[Optional[Path], int]:
        """The binary of a mutant, and its number there; None if it does not
        compile."""
        if mutant.name in self.unbuilt:
            return None, 0
        number = self.numbers[mutant.name]
        if mutant.function:
            return self.qemu, number
        with self.lock:
            made = self._compile(mutant.file, mutant.apply(self.sources[mutant.file]),
                                 f'one-{number}')[0]
            if made is None:
                return None, 0
            qemu = self._binary(f'one-{number}')
            return (qemu, 0) if self._link({mutant.file: made}, qemu) else (None, 0)


@dataclass
class Work:
    """What the mutants of a range need."""

    range: Range
    commit: str
    mutants: List[Mutant]
    plant: Plant
    tests: Tests
    seconds: Dict[str, float] = field(default_factory=dict)
    kills: Dict[str, 'collections.Counter[str]'] = field(default_factory=dict)


def added_lines(repo: Repo, since: str, commit: str, file: str,
                own: Set[str]) -> Set[int]:
    """The lines of a file, as it is in a commit, that come from own commits."""
    blame = repo.out('blame', '-l', '-s', f'{since}..{commit}', '--', file)
    return {count for count, line in enumerate(blame.splitlines(), 1)
            if line.split(' ', 1)[0] in own}


def of_range(repo: Repo, since: str, commit: str,
             own: Set[str]) -> Tuple[List[Mutant], Dict[str, str]]:
    """The mutants of the lines that commits add under hw/, and the sources."""
    found: List[Mutant] = []
    sources: Dict[str, str] = {}
    for file in lines(repo.out('diff', '--name-only', since, commit, '--', 'hw')):
        if not file.endswith('.c') or not repo.ok('cat-file', '-e', f'{commit}:{file}'):
            continue
        source = repo.raw('show', f'{commit}:{file}').decode()
        some = mutants.of_file(file, source, added_lines(repo, since, commit, file, own))
        if some:
            sources[file] = source
            found += some
    return found, sources


class Results:
    """What was found, one JSON object on each line of a file."""

    def __init__(self, path: Path, commit: str) -> None:
        self.path = path
        self.commit = commit
        self.found: Dict[str, Dict[str, str]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):   # cut by a kill
                    entry = json.loads(line)
                    self.found[entry['name']] = entry

    def add(self, mutant: Mutant, result: str, by: str = '') -> None:
        """Keep a result: killed, survived or unbuilt."""
        entry = {'name': mutant.name, 'text': mutant.text, 'commit': self.commit,
                 'result': result, 'by': by}
        self.found[mutant.name] = entry
        with open(self.path, 'a', encoding='utf-8') as file:
            file.write(json.dumps(entry) + '\n')

    def is_known(self, mutant: Mutant, tests: Iterable[str]) -> bool:
        """Was it tried, and does what was found still hold with these tests?"""
        entry = self.found.get(mutant.name)
        if entry is None or entry['text'] != mutant.text:
            return False
        if entry['result'] == 'killed':
            return entry['by'] in tests
        return entry['result'] == 'unbuilt' or entry['commit'] == self.commit

    def named(self, result: str) -> List[str]:
        return [name for name, entry in self.found.items() if entry['result'] == result]


def killer(work: Work, mutant: Mutant, qemu: Path, number: int) -> str:
    """The test that fails with a mutant, or an empty string.

    Those that killed others in the same function come first.
    """
    seconds = work.seconds
    local = work.kills.get(_place(mutant.name), collections.Counter())
    total: 'collections.Counter[str]' = sum(work.kills.values(), collections.Counter())
    order = sorted(seconds, key=lambda test: (-local[test], -total[test], seconds[test]))
    likely, rest = order[:_LIKELY], order[_LIKELY:]
    # Of tests that differ in the mode only, such as busy/pin-0, one comes
    # first: the last, which has all of MSI-X and two interrupters.
    one = {test.rsplit('/', 1)[0]: test for test in seconds}
    first = [test for test in rest if test in one.values()]
    rest = [test for test in rest if test not in one.values()]
    chunks = [likely, first]
    chunks += [rest[i:i + _CHUNK] for i in range(0, len(rest), _CHUNK)]
    for chunk in filter(None, chunks):
        limit = 30 + 8 * sum(seconds[test] for test in chunk)
        _, failed = work.tests.run(qemu, number, chunk, limit)
        if failed:
            return failed
    return ''


def _place(name: str) -> str:
    """The file and the function of a mutant."""
    return name.split(':', 1)[0]


def try_mutant(work: Work, mutant: Mutant, results: Results, lock: threading.Lock) -> None:
    """Build a mutant, test it and keep the result."""
    qemu, number = work.plant.binary(mutant)
    by = killer(work, mutant, qemu, number) if qemu else ''
    with lock:
        results.add(mutant, 'killed' if by else 'survived' if qemu else 'unbuilt', by)
        if by:
            work.kills.setdefault(_place(mutant.name), collections.Counter())[by] += 1


# --- a run -----------------------------------------------------------------


def script(name: str, *args: str) -> None:
    """Run another script; its messages are the user's, and so is its error."""
    done = subprocess.run([str(TOP / 'scripts' / name), *args], check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(done.returncode)


class Run:
    """The mutants of a base."""

    def __init__(self, base: Base, jobs: int, only: Sequence[str]) -> None:
        self.base = base
        self.jobs = jobs
        self.only = only
        self.tree = Tree(base)
        self.build = WORK / 'build' / base.name
        self.folder = WORK / 'mutants' / base.name
        self.number = self.bad = 0

    def prepare(self) -> None:
        """The tree, with the commits that it has, and qos-test with all tests."""
        script('tree', self.base.name)
        self.tree.need()
        if self.tree.repo.out('rev-parse', 'base') == self.tree.repo.out('rev-parse', 'HEAD'):
            script('apply', self.base.name)
        script('build', self.base.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.build / 'tests' / 'qtest' / 'qos-test', self.folder / 'qos-test')

    def report(self, good: bool, text: str) -> None:
        """A line of TAP."""
        self.number += 1
        self.bad += not good
        print(f'{"ok" if good else "not ok"} {self.number} - {text}', flush=True)

    def of(self, known: Range, temp: Path) -> Optional[Work]:
        """What a range needs: QEMU as it is at its end, and tests that pass."""
        repo = self.tree.repo
        series = of_tree(repo, str(self.tree.path))
        if not series.get(known):
            return None
        commit = series[known][-1].sha
        own = {entry.sha for entry in series[known]}
        found, sources = of_range(repo, 'base', commit, own)
        script('build', self.base.name, '--at', commit)
        folder = temp / known.code
        repo.unpack(folder / 'src', commit,
                    *lines(repo.out('ls-tree', '--name-only', commit, 'hw', 'include')))
        tests = Tests(self.folder / 'qos-test', self.build)
        plant = Plant(Build(self.build), found, sources, folder)
        plant.make()
        work = Work(known, commit, found, plant, tests)
        self.time_tests(work)
        return work

    def time_tests(self, work: Work) -> None:
        """Run the tests without a mutant; those that pass then count."""
        qemu = self.build / QEMU
        cache = self.folder / f'tests-{work.commit}.json'
        if cache.exists():
            work.seconds = json.loads(cache.read_text())
            return
        own = {path for path in
               work.tests.listed(qemu, self.build / 'tests' / 'qtest' / 'qos-test')
               if _OURS.search(path) and not _NOT_OURS.search(path)}
        some = [path for path in work.tests.listed(qemu)
                if path in own or _SYSBUS.search(path)]
        if not own:
            die(f'{work.range} has no tests')
        say(f'timing {len(some)} tests at the end of {work.range}')
        left = some
        while left:
            passed, failed = work.tests.run(work.plant.qemu, 0, left[:_CHUNK], 60 * _CHUNK)
            work.seconds.update(passed)
            if failed in own:
                die(f'without a mutant, {failed} does not pass at the end of {work.range}')
            left = [path for path in left if path not in passed and path != failed]
            say(f'  {len(some) - len(left)} of {len(some)}')
        cache.write_text(json.dumps(work.seconds))

    def try_all(self, work: Work, results: Results) -> None:
        """Try the mutants that were not tried yet."""
        todo: 'queue.SimpleQueue[Mutant]' = queue.SimpleQueue()
        wanted = [mutant for mutant in work.mutants
                  if (any(text in mutant.name for text in self.only) if self.only
                      else not results.is_known(mutant, work.seconds))]
        # Those that are expected to survive take all tests: last.
        why = reasons()
        for mutant in sorted(wanted, key=lambda mutant: (work.range.code, mutant.name) in why):
            todo.put(mutant)
        for entry in results.found.values():
            if entry['result'] == 'killed':
                work.kills.setdefault(_place(entry['name']),
                                      collections.Counter())[entry['by']] += 1
        if not wanted:
            return
        say(f'{work.range}: {len(wanted)} of {len(work.mutants)} mutants are to be tried')
        lock = threading.Lock()
        errors: List[BaseException] = []
        stopping = threading.Event()

        def worker() -> None:
            while not stopping.is_set():
                try:
                    mutant = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    try_mutant(work, mutant, results, lock)
                except Stopped:
                    return
                except BaseException as error:
                    errors.append(error)
                    stopping.set()

        threads = [threading.Thread(target=worker, daemon=True) for _ in range(self.jobs)]
        for thread in threads:
            thread.start()
        try:
            self.watch(work, threads, todo, len(wanted), results)
        finally:
            if any(thread.is_alive() for thread in threads):
                stopping.set()
                work.tests.stop()
                for thread in threads:
                    thread.join()
        if errors:
            raise errors[0]

    @staticmethod
    def watch(work: Work, threads: Sequence[threading.Thread],
              todo: 'queue.SimpleQueue[Mutant]', total: int, results: Results) -> None:
        """Progress, with the time that is left."""
        start = last = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.2)
            now = time.monotonic()
            if now - last < 15:
                continue
            last = now
            done = total - todo.qsize() - len(threads)
            left = (f', {(now - start) / done * (total - done) / 60:.0f} min left'
                    if done > 0 else '')
            say(f'  {work.range.code}xx: {max(done, 0)} of {total}, '
                f'{len(results.named("killed"))} killed, '
                f'{len(results.named("survived"))} survived{left}')


# --- what comes of it -------------------------------------------------------


def reasons() -> Dict[Tuple[str, str], Reason]:
    """tests/faults/survivors: by the number of the range, and the name."""
    found: Dict[Tuple[str, str], Reason] = {}
    if not SURVIVORS.exists():
        return found
    for number, code, name, reason in mutants.read_reasons(
            SURVIVORS.read_text().splitlines()):
        if reason is None:
            die(f'tests/faults/survivors, line {number}: write the reason below it, '
                f'indented, after one of: {", ".join(mutants.KINDS)}')
        found[code, name] = reason
    return found


def share(killed: int, survived: int) -> float:
    """The share of what was killed, %."""
    return 100 * killed / (killed + survived) if killed + survived else 100.0


def judge(run: Run, work: Work, results: Results) -> str:
    """Report a range; return the same for the file."""
    why = reasons()
    code = work.range.code
    count: 'collections.Counter[str]' = collections.Counter()
    text: List[str] = []
    for mutant in work.mutants:
        entry = results.found[mutant.name]
        result = entry['result']
        count[result] += 1
        reason = why.pop((code, mutant.name), None)
        if result == 'survived':
            if reason is None:
                run.report(False, f'{code} {mutant.name}: no test notices it, and '
                                  'tests/faults/survivors has no reason')
            else:
                count[reason.kind] += 1
                run.report(True, f'{code} {mutant.name}: survives, {reason.kind}: {reason.text}')
        elif reason is not None:
            run.report(False, f'{code} {mutant.name}: take it out of tests/faults/survivors: '
                              f'the result is {result} {entry["by"]}'.rstrip())
        text.append(f'{result:9} {mutant.file}:{mutant.line} {mutant.name}'
                    + (f'\n          {entry["by"]}' if entry['by'] else ''))
    for known, name in why:
        if known == code:
            run.report(False, f'{code} {name}: take it out of tests/faults/survivors: '
                              'there is no such mutant')
    survived = count['survived'] - count['equivalent']
    score = share(count['killed'], survived)
    line = (f'{work.range}: {count["killed"]} of {count["killed"] + survived} mutants '
            f'killed, {score:.1f} % (at least {WANTED[work.range]:g}); not counted: '
            f'{count["equivalent"]} equivalent, {count["unbuilt"]} that do not build')
    run.report(score >= WANTED[work.range], line)
    return '\n'.join([line, '', *text, ''])


def show(run: Run, work: Work, results: Results) -> None:
    """Report the mutants that were named."""
    for mutant in work.mutants:
        if any(text in mutant.name for text in run.only):
            entry = results.found[mutant.name]
            run.report(entry['result'] != 'survived',
                       f'{work.range.code} {mutant.name}: '
                       f'{entry["result"]} {entry["by"]}'.rstrip())


@contextlib.contextmanager
def built_at_the_end(run: Run) -> Iterator[None]:
    """In the end, the build is that of the whole series again."""
    try:
        yield
    finally:
        script('build', run.base.name)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command."""
    return run_main('faults', lambda: _main(argv))


def _main(argv: Optional[Sequence[str]]) -> int:
    parser = Parser('faults', USAGE, TEXT)
    parser.add_argument('base', metavar='BASE', nargs='?', help=argparse.SUPPRESS)
    parser.add_argument('only', metavar='TEXT', nargs='*', help=argparse.SUPPRESS)
    parser.add_argument('--generate', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--range', action='append', default=[], help=argparse.SUPPRESS)
    parser.add_argument('--jobs', type=int, default=2, help=argparse.SUPPRESS)
    args, rest = parser.parse_known_intermixed_args(argv)
    if rest:
        parser.error(f"unknown option '{rest[0]}'")
    if args.base is None:
        parser.error('which base?')
    if args.jobs < 1:
        parser.error('--jobs needs a number from 1 on')
    chosen = [by_name(word) for word in args.range] or list(RANGES)
    for known in chosen:
        if known not in RANGES:
            parser.error(f'no mutants are made of {known}')
    run = Run(find(args.base), args.jobs, args.only)
    reasons()
    run.prepare()
    with built_at_the_end(run), scratch_dir('faults') as temp:
        for known in chosen:
            work = run.of(known, temp)
            if work is None:
                say(f'{run.base.name} has no {known}')
                continue
            code = run.tree.repo.out('rev-parse', f'{work.commit}:hw')
            results = Results(run.folder / f'{known.code}-{code[:12]}.json', work.commit)
            run.try_all(work, results)
            if run.only:
                show(run, work, results)
            else:
                report = run.folder / f'{known.code}.txt'
                report.write_text(judge(run, work, results))
                say(f'all mutants of {known}: {report}')
    print(f'1..{run.number}')
    return 1 if run.bad else 0
