# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that each go through a fixed list of TAP points."""

import collections
import concurrent.futures
import contextlib
import os
import re
import shutil
import time
from typing import Dict, Iterator, List, Sequence, Tuple

from .qemu import Qemu
from .qmp import Dead, Failure, Gone
from .tap import Writer


class Scenario:
    """One guest, from power on to power off."""

    #: name: what is right then
    POINTS: Dict[str, str] = {}
    #: set by what is derived from this
    vm: Qemu

    def __init__(self, name: str, logdir: str) -> None:
        self.name = name
        self.logdir = os.path.join(logdir, re.sub(r"[^\w.=-]+", "-",
                                                  name).strip("-"))
        os.mkdir(self.logdir)
        #: point: (ok, [diagnostic, ...])
        self.results: Dict[str, Tuple[bool, List[str]]] = {}
        self.notes: List[str] = []
        self.took: Dict[str, float] = collections.defaultdict(float)

    def scenario(self) -> None:
        """What happens, in `with self.point(NAME)` blocks."""
        raise NotImplementedError

    def title(self, point: str) -> str:
        """What a point is called in TAP."""
        return f"{self.name}: {self.POINTS[point]}"

    def logs(self) -> str:
        """Where to look when something failed."""
        return f"console: {self.vm.serial}; beside it qemu.log"

    def post_mortem(self) -> List[str]:
        """What to say when QEMU has ended by itself."""
        return [f"QEMU {self.vm.ending()}: {self.vm.last_words()}"]

    @contextlib.contextmanager
    def point(self, name: str) -> Iterator[None]:
        """The body decides this point; only Dead ends the whole boot."""
        start = time.monotonic()
        try:
            yield
        except Failure as e:
            said = str(e).split("\n")
            if isinstance(e, Gone):
                said += self.post_mortem()
            self.results[name] = (False, said)
            if isinstance(e, Dead):
                raise
        else:
            self.results.setdefault(name, (True, []))
        finally:
            self.took[name] += time.monotonic() - start

    def run(self) -> "Scenario":
        """Go through it."""
        start = time.monotonic()
        try:
            self.scenario()
        except Dead:
            pass
        finally:
            self.vm.close()
        self.notes.append(
            f"{self.name}: {time.monotonic() - start:.0f} s ("
            + ", ".join(f"{p} {t:.1f}" for p, t in self.took.items()) + ")")
        return self

    def ok(self) -> bool:
        """Did every point pass?"""
        return all(self.results.get(p, (False, []))[0] for p in self.POINTS)


def run_all(scenarios: Sequence[Scenario], jobs: int, heading: str) -> int:
    """Print TAP; the number of points that failed."""
    tap = Writer(sum(len(s.POINTS) for s in scenarios))
    tap.note(heading)
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        for s in pool.map(lambda s: s.run(), scenarios):
            for point in s.POINTS:
                tap.point(*_verdict(s, point))
            for line in s.notes:
                tap.note(line)
            if s.ok():
                shutil.rmtree(s.logdir)
            else:
                tap.note(s.logs())
    finally:
        # On an interrupt: start no other, and end those that run.
        pool.shutdown(wait=False, cancel_futures=True)
        for s in scenarios:
            s.vm.kill()
    return tap.failed


def _verdict(s: Scenario, point: str) -> Tuple[bool, str, List[str]]:
    good, why = s.results.get(point, (False, ["not reached"]))
    return good, s.title(point), why
