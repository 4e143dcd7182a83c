# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys and pointer moves: sent through QMP, seen in the guest."""

import random
from typing import Any, Dict, List, Tuple

from ..qmp import Dead, Failure
from .vm import VM

Event = Dict[str, Any]

#: label: (name in Linux, size of a report in bytes)
KEYBOARD = {"kbd": ("QEMU QEMU USB Keyboard", 8)}
INPUTS = {**KEYBOARD, "tablet": ("QEMU QEMU USB Tablet", 6)}

#: QKeyCode: (Linux key code, USB HID usage)
KEYCODES = {
    **{c: (code, 4 + ord(c) - ord("a"))
       for row, first in (("qwertyuiop", 16), ("asdfghjkl", 30),
                          ("zxcvbnm", 44))
       for code, c in enumerate(row, first)},
    **{c: (code, 28 + code) if c != "0" else (11, 39)
       for code, c in enumerate("1234567890", 1 + 1)},
}
EV_KEY, EV_ABS, ABS_X, ABS_Y, REPEAT = 1, 3, 0, 1, 2


class Inputs:
    """What was sent to the guest, and what of it was seen there.

    Args:
        timeout: seconds until an event that did not arrive is lost
    """

    def __init__(self, vm: VM, rand: random.Random, timeout: float) -> None:
        self.vm = vm
        self.random = rand
        self.timeout = timeout
        #: (source, label): [what must be seen]
        self.expected: Dict[Tuple[str, str], List[Any]] = {}
        self.inputs_start = 0       # where in vm.inputs
        self.pointer = 0, 0

    def send_keys(self, count: int) -> None:
        """Presses and releases, COUNT in all."""
        keys = sorted(KEYCODES)
        down: List[str] = []
        evdev = self.expected.setdefault(("evdev", "kbd"), [])
        hidraw = self.expected.setdefault(("hidraw", "kbd"), [])
        for left in range(count, 0, -1):
            # A random walk over up to three keys held, none at the end.
            press = len(down) < min(3, left - 1) and \
                (not down or self.random.random() < .5)
            if press:
                key = self.random.choice([k for k in keys if k not in down])
                down.append(key)
            else:
                key = down.pop(self.random.randrange(len(down)))
            evdev.append((KEYCODES[key][0], int(press)))
            hidraw.append(sorted(KEYCODES[k][1] for k in down))
            try:
                self.send_key(key, press)
            except Dead:
                raise
            except Failure:     # with a key down it would not suspend later
                for held in {key, *down}:
                    self.vm.qmp("input-send-event",
                                events=[self.key_event(held, False)])
                self.vm.command("sleep 1")      # that is not of what follows
                raise

    def send_key(self, key: str, press: bool) -> None:
        """One, and wait for it."""
        self.send("kbd", f"key '{key}' {'down' if press else 'up'}",
                  self.key_event(key, press))

    @staticmethod
    def key_event(key: str, press: bool) -> Event:
        """For input-send-event."""
        return {"type": "key",
                "data": {"down": press,
                         "key": {"type": "qcode", "data": key}}}

    def send_moves(self, count: int) -> None:
        """Moves of the pointer."""
        evdev = self.expected.setdefault(("evdev", "tablet"), [])
        hidraw = self.expected.setdefault(("hidraw", "tablet"), [])
        x, y = self.pointer
        for _ in range(count):
            # A coordinate that stays as it is makes no event in Linux.
            x = (x + self.random.randrange(1, 0x8000)) % 0x8000
            y = (y + self.random.randrange(1, 0x8000)) % 0x8000
            evdev += [(ABS_X, x), (ABS_Y, y)]
            hidraw.append((x, y))
            self.send("tablet", f"pointer to {x},{y}", *(
                {"type": "abs", "data": {"axis": axis, "value": value}}
                for axis, value in (("x", x), ("y", y))))
            self.pointer = x, y

    def send(self, label: str, what: str, *events: Event) -> None:
        """Send, and wait until the guest has it.

        The devices' queues are 16 deep and the tablet merges moves: what
        sets the pace is the guest.
        """
        self.vm.qmp("input-send-event", events=list(events))
        self.wait_for(label, what)

    def wait_for(self, label: str, what: str) -> None:
        """Until as much came as is expected of a device."""
        expected = [e for e in self.expected if e[1] == label]
        if not self.vm.wait_until(
                lambda: all(len(self.seen(*e)) >= len(self.expected[e])
                            for e in expected), self.timeout):
            raise Failure(f"{what} (event {len(self.expected[expected[-1]])})"
                          f" not in the guest after {self.timeout} s")

    def forget(self) -> None:
        """Begin anew: nothing is expected, nothing was seen."""
        self.expected = {}
        self.inputs_start = len(self.vm.inputs)

    def seen(self, source: str, label: str) -> List[Any]:
        """What the guest saw so far, in the form of self.expected."""
        fields = [f for s, l, f in self.vm.inputs[self.inputs_start:]
                  if (s, l) == (source, label)]
        if source == "evdev":
            events = [tuple(map(int, f[1:])) for f in fields]
            if label == "kbd":     # repeats are made by the guest's own timer
                return [(c, v) for t, c, v in events
                        if t == EV_KEY and v != REPEAT]
            return [(c, v) for t, c, v in events if t == EV_ABS]
        reports = [bytes.fromhex(f[0]) for f in fields]
        if label == "kbd":
            return [sorted(filter(None, r[2:])) for r in reports]
        return [(int.from_bytes(r[1:3], "little"),
                 int.from_bytes(r[3:5], "little")) for r in reports]

    def compare(self, label: str) -> None:
        """All that is expected of a device was seen, and nothing else."""
        for (source, of), want in self.expected.items():
            got = self.seen(source, label)
            if of != label or want == got:
                continue
            at = next((i for i, (w, g) in enumerate(zip(want, got)) if w != g),
                      min(len(want), len(got)))
            raise Failure(f"{source} of {label}: {len(got)} of {len(want)}; "
                          f"from number {at + 1} on expected "
                          f"{want[at:at + 3]}, got {got[at:at + 3]}")
