# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages, errors, the command line, scratch folders and clean-up."""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, List, NoReturn, Optional, Sequence

from .paths import WORK


class Error(Exception):
    """Something is wrong. The message is one line: what, and what to do."""


def say(message: str) -> None:
    """Progress and notes go to stderr; results go to stdout."""
    print(message, file=sys.stderr, flush=True)


def die(message: str) -> NoReturn:
    """End the command with an error."""
    raise Error(message)


class Parser(argparse.ArgumentParser):
    """An argument parser with the error messages of the other scripts.

    Args:
        prog: the command; in scripts/, if it names no folder
        usage: None to have it made of the options
        text: what the command does
        epilog: what comes after the options
    """

    def __init__(self, prog: str, usage: Optional[str], text: str, epilog: str = '') -> None:
        super().__init__(prog=prog, usage=usage, description=text.strip(), epilog=epilog,
                         allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        command = self.prog if '/' in self.prog else f'scripts/{self.prog}'
        die(f'{message} (see {command} --help)')

    def parse(self, argv: Optional[Sequence[str]]) -> argparse.Namespace:
        """Parse, and name an option that does not exist. Options and other words
        may come in any order.
        """
        words = sys.argv[1:] if argv is None else list(argv)
        if {'-h', '--help'} & set(words):
            # While it takes them in any order, argparse knows no defaults.
            self.print_help()
            sys.exit()
        args, rest = self.parse_known_intermixed_args(words)
        for word in rest:
            if word.startswith('-'):
                self.error(f"unknown option '{word}'")
            self.error(f"unknown argument '{word}'")
        return args


def _stop(number: int, _frame: Any) -> NoReturn:
    sys.exit(128 + number)


def run_main(prog: str, main: Callable[[], Optional[int]]) -> int:
    """Run a command: errors become one line, signals end it in order."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        return main() or 0
    except Error as error:
        say(f'{prog}: error: {error}')
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        say(f'{prog}: error: {error.strerror}: {error.filename}')
        return 1


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let what must not stop half-way finish before a signal is heeded."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def need_space(megabytes: int) -> None:
    """Fail early if the disk of the work folder is too full."""
    try:
        WORK.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(WORK).free >> 20
    except OSError:
        die(f'cannot create {WORK} (set XHCI_WORK to choose another place)')
    if free < megabytes:
        die(f'{WORK} has {free} MB free and {megabytes} MB are needed: free '
            'some, or set XHCI_WORK to a folder on another disk')


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def scratch_dir(prog: str) -> Iterator[Path]:
    """A new folder below the work folder, removed at the end.

    The ones that killed runs of the same command left are removed, too.
    """
    parent = WORK / 'tmp'
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for old in parent.glob(f'{prog}.[0-9]*.*'):
            pid = old.name.split('.')[1]
            if pid.isdigit() and not _is_alive(int(pid)):
                shutil.rmtree(old, ignore_errors=True)
        path = tempfile.mkdtemp(prefix=f'{prog}.{os.getpid()}.', dir=parent)
    except OSError:
        die(f'cannot write to {WORK} (set XHCI_WORK to choose another place)')
    try:
        yield Path(path)
    finally:
        with signals_held():
            shutil.rmtree(path, ignore_errors=True)


def lines(text: str) -> List[str]:
    """The lines of a command's output, without empty ones."""
    return [line for line in text.splitlines() if line]
