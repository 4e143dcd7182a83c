# SPDX-License-Identifier: GPL-2.0-or-later
"""How a controller can interrupt, and what has to be asked of QEMU for that."""

from dataclasses import dataclass
from typing import FrozenSet, Tuple

#: mode: properties of the controller
PROPERTIES = {
    "pin": "msi=off,msix=off",
    "msi": "msi=on,msix=off",
    "msix": "msi=off,msix=on",
}
#: mode: what people call it
TITLES = {"pin": "the pin", "msi": "MSI", "msix": "MSI-X"}
DEVICES = "nec-usb-xhci", "qemu-xhci"
#: device: the other kind
OTHER = dict(zip(DEVICES, reversed(DEVICES)))


@dataclass(frozen=True)
class LinuxMode:
    """A mode with Linux as the guest.

    Args:
        controllers: properties of each; the second one is of the other kind
        append: to the kernel's command line
        title: what people call it
        chip: who interrupts, in /proc/interrupts
        kinds: what is in msi_irqs of the PCI function
    """

    controllers: Tuple[str, ...]
    append: str
    title: str
    chip: str
    kinds: FrozenSet[str] = frozenset()


LINUX = {
    # The controller has nothing but the pin.
    "pin": LinuxMode((PROPERTIES["pin"],), "pci=nomsi", "the pin (IO-APIC)", "IO-APIC"),
    # It could do more, but the guest chose the pin.
    "pin-capable": LinuxMode(("msi=on,msix=on",), "pci=nomsi", "the pin (IO-APIC)",
                             "IO-APIC"),
    "msi": LinuxMode((PROPERTIES["msi"],), "", "MSI", "PCI-MSI", frozenset({"msi"})),
    "msix": LinuxMode((PROPERTIES["msix"],), "", "MSI-X", "PCI-MSI", frozenset({"msix"})),
    # Pins are swizzled by slot, on pc and q35, so four apart is one line.
    "two": LinuxMode(tuple(f"addr={slot},{PROPERTIES['pin']}" for slot in (4, 8)),
                     "pci=nomsi", "one line that two share (IO-APIC)", "IO-APIC"),
}
