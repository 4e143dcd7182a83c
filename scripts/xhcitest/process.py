# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes: started in a session of their own, watched, and ended whole."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Sequence, Set

from xhciseries.ui import die, say

#: Seconds between two lines of progress where stderr is no terminal.
INTERVAL = 15

#: What running() has started, in any thread, and has not seen the end of.
_running: 'Set[subprocess.Popen[bytes]]' = set()


def end(process: 'subprocess.Popen[bytes]', number: int = signal.SIGKILL) -> int:
    """Signal all of its session, and wait; its exit status."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    return process.wait()


def ending(status: int) -> str:
    """An exit status of subprocess in words."""
    if status == -signal.SIGABRT:
        return 'aborts'
    if status < 0:
        return f'is ended by {signal.Signals(-status).name}'
    return f'exits with status {status}'


def last_words(log: Path, width: int) -> str:
    """The end of the last line of a log that is not empty."""
    with open(log, 'rb') as file:
        file.seek(max(0, log.stat().st_size - 400))
        text = file.read().decode('utf-8', 'replace').replace('\r', '\n')
    words = [line for line in text.split('\n') if line.strip()]
    return ''.join(c for c in words[-1] if c.isprintable())[:width] if words else ''


class Progress:
    """Says on stderr that a long command is still at it."""

    def __init__(self, label: str, log: Path) -> None:
        self.label, self.log = label, log
        self.start = time.monotonic()
        self.next = INTERVAL
        self.terminal = sys.stderr.isatty()

    def show(self) -> None:
        """Call this now and then."""
        spent = int(time.monotonic() - self.start)
        if not self.terminal and spent < self.next:
            return
        text = f'  {self.label}: {spent} s  {last_words(self.log, 50)}'
        if self.terminal:
            sys.stderr.write(f'\r\x1b[K{text}')
            sys.stderr.flush()
        else:
            self.next = spent + INTERVAL
            say(text)

    def clear(self) -> None:
        """The command is over."""
        if self.terminal:
            sys.stderr.write('\r\x1b[K')
            sys.stderr.flush()


@contextlib.contextmanager
def running(command: Sequence[Any], **options: Any) -> 'Iterator[subprocess.Popen[bytes]]':
    """A process that is ended with its children if this block is left early."""
    process = subprocess.Popen([str(word) for word in command], start_new_session=True,
                               stdin=subprocess.DEVNULL, **options)
    _running.add(process)
    try:
        yield process
    except BaseException:
        end(process, signal.SIGTERM)
        raise
    finally:
        _running.discard(process)


def end_all() -> None:
    """End what other threads run: a signal is only heeded in the main one."""
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def run_logged(label: str, command: Sequence[Any], log: Path,
               each: Optional[Callable[[str], None]] = None) -> int:
    """Run a command with its output in a log, and progress on stderr.

    Args:
        each: is given each line of stdout, without its end

    Returns:
        Its exit status, as of subprocess.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = open(log, 'wb', buffering=0)
    except OSError as error:
        die(f'cannot write {log}: {error.strerror}')
    progress, rest = Progress(label, log), b''
    with file, running(command, stdout=subprocess.PIPE, stderr=file) as process, \
            selectors.DefaultSelector() as poll:
        assert process.stdout
        poll.register(process.stdout, selectors.EVENT_READ)
        while True:
            # Whoever inherited stdout may hold it longer than the process lives.
            if not poll.select(0.5):
                progress.show()
                if process.poll() is None:
                    continue
            os.set_blocking(process.stdout.fileno(), False)
            data = process.stdout.read()
            if not data:
                break
            file.write(data)
            *lines, rest = (rest + data).split(b'\n')
            for line in lines if each else ():
                each(line.decode('utf-8', 'replace'))   # type: ignore[misc]
            progress.show()
        if rest and each:
            each(rest.decode('utf-8', 'replace'))
        while True:
            try:
                status = process.wait(0.5)
                break
            except subprocess.TimeoutExpired:
                progress.show()
        progress.clear()
        return status
