# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that each go through a fixed list of TAP points."""

import collections
import concurrent.futures
import contextlib
import os
import re
import shutil
import sys
import time

from vm import Dead, Failure, Gone


class Scenario:
    """One guest, from power on to power off."""

    POINTS = {}             # name: what is right then

    def __init__(self, name, logdir):
        self.name = name
        self.logdir = os.path.join(logdir, re.sub(r"[^\w.=-]+", "-",
                                                  name).strip("-"))
        os.mkdir(self.logdir)
        self.results = {}   # point: (ok, [diagnostic, ...])
        self.notes = []
        self.took = collections.Counter()
        self.vm = None

    def scenario(self):
        raise NotImplementedError

    def title(self, point):
        return f"{self.name}: {self.POINTS[point]}"

    def logs(self):
        return f"console: {self.vm.serial}; beside it qemu.log"

    def post_mortem(self):
        """What to say when QEMU has ended by itself."""
        return [f"QEMU {self.vm.ending()}: {self.vm.last_words()}"]

    @contextlib.contextmanager
    def point(self, name):
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

    def run(self):
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

    def ok(self):
        return all(self.results.get(p, (False,))[0] for p in self.POINTS)


def run_all(scenarios, jobs, heading):
    """Print TAP; the number of points that failed."""
    print(f"1..{sum(len(s.POINTS) for s in scenarios)}")
    print(f"# {heading}", flush=True)
    number = failed = 0
    pool = concurrent.futures.ThreadPoolExecutor(jobs)
    try:
        for s in pool.map(lambda s: s.run(), scenarios):
            for point in s.POINTS:
                number += 1
                ok, diag = s.results.get(point, (False, ["not reached"]))
                failed += not ok
                print(f"{'ok' if ok else 'not ok'} {number} - "
                      f"{s.title(point)}")
                for line in diag:
                    print(f"#   {line}")
            for line in s.notes:
                print(f"# {line}")
            if s.ok():
                shutil.rmtree(s.logdir)
            else:
                print(f"# {s.logs()}")
            sys.stdout.flush()
    finally:
        # On an interrupt: start no other, and end those that run.
        pool.shutdown(wait=False, cancel_futures=True)
        for s in scenarios:
            s.vm.kill()
    return failed
