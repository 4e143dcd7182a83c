# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest boots: the kernel, and an initramfs of busybox, /init and the
modules it needs."""

import gzip
import lzma
import os
import re
import stat
import struct
import subprocess
import zlib
from typing import BinaryIO, Dict, List, Tuple

from xhciseries.paths import TOP
from xhciseries.ui import Error

# What the guest loads; the rest follows from the modules' own dependencies.
MODULES = ["xhci_pci", "usbhid", "hid_generic", "evdev", "usb_storage",
           "sd_mod"]
OPTIONS = {"usb_storage": "delay_use=0"}    # seconds before it looks


class ImageError(Error):
    """The kernel or what comes with it is not of use."""


def _module_name(path: str) -> str:
    base = os.path.basename(path).split(".ko")[0]
    return base.replace("-", "_")


def _read_module(path: str) -> bytes:
    with open(path, "rb") as f:
        data = f.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".gz"):
        return gzip.decompress(data)
    if path.endswith(".zst"):
        try:
            return subprocess.run(["zstd", "-dcq", path], check=True,
                                  stdout=subprocess.PIPE).stdout
        except (OSError, subprocess.CalledProcessError) as e:
            raise ImageError(f"cannot decompress {path}: {e}") from e
    return data


def _modules(moddir: str) -> List[Tuple[str, bytes]]:
    """[(name, content)] in an order in which insmod takes them.

    The dependencies come from the modules themselves: modules.dep is made by
    depmod when a kernel package is installed, and this one is not.
    """
    files = {}
    for top, dirs, names in os.walk(os.path.join(moddir, "kernel")):
        dirs.sort()
        for name in sorted(names):
            if ".ko" in name:
                files[_module_name(name)] = os.path.join(top, name)
    try:
        with open(os.path.join(moddir, "modules.builtin")) as f:
            builtin = {_module_name(line.strip()) for line in f}
    except OSError as e:
        raise ImageError(f"no modules of this kernel: {e}") from e
    order: Dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in order or name in builtin:
            return
        if name not in files:
            raise ImageError(f"module {name} not found in {moddir}")
        content = _read_module(files[name])
        fields: List[bytes] = re.findall(rb"\0depends=([^\0]*)", content)
        for field in fields:
            for dep in filter(None, field.decode().split(",")):
                add(dep.replace("-", "_"))
        order[name] = content

    for name in MODULES:
        add(name)
    return list(order.items())


def _check_static(path: str) -> None:
    """A busybox that is not static x86-64 would be a kernel panic later."""
    try:
        with open(path, "rb") as f:
            elf = f.read(4096)
    except OSError as e:
        raise ImageError(f"no busybox: {e}") from e
    if elf[:6] != b"\x7fELF\2\1" or struct.unpack_from("<H", elf, 18)[0] != 62:
        raise ImageError(f"{path} is not an x86-64 program")
    phoff, = struct.unpack_from("<Q", elf, 32)
    phentsize, phnum = struct.unpack_from("<HH", elf, 54)
    for i in range(phnum):
        if struct.unpack_from("<I", elf, phoff + i * phentsize)[0] == 3:
            raise ImageError(f"{path} is not static (PT_INTERP); "
                             "use that of Debian's busybox-static")


class _Cpio:
    """The newc format, with nothing in it that differs between two runs."""

    def __init__(self, f: BinaryIO) -> None:
        self.f = f
        self.ino = 0

    def add(self, path: str, mode: int, data: bytes = b"",
            rdev: Tuple[int, int] = (0, 0)) -> None:
        """A file, folder, link or device."""
        self.ino += 1
        name = path.encode() + b"\0"
        fields = (self.ino, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev,
                  len(name), 0)
        head = b"070701" + b"".join(b"%08X" % x for x in fields) + name
        self.f.write(head + b"\0" * (-len(head) % 4))
        self.f.write(data + b"\0" * (-len(data) % 4))


def unpack_kernel(out: str, vmlinuz: str) -> str:
    """Write the ELF kernel in VMLINUZ to OUT; the path of what to boot.

    Emulated, the kernel takes six seconds to unpack itself.  QEMU starts an
    ELF kernel directly if that has the PVH entry point, as Debian's has.
    """
    with open(vmlinuz, "rb") as f:
        data = f.read()
    if data[0x202:0x206] != b"HdrS":
        raise ImageError(f"{vmlinuz} is not an x86 kernel")
    setup = (data[0x1f1] or 4) + 1
    offset, length = struct.unpack_from("<II", data, 0x248)
    payload = data[setup * 512 + offset:][:length]
    try:
        if payload.startswith(b"\xfd7zXZ\0"):
            kernel = lzma.LZMADecompressor().decompress(payload)
        elif payload.startswith(b"\x1f\x8b"):
            kernel = zlib.decompressobj(31).decompress(payload)
        else:
            return vmlinuz
    except (lzma.LZMAError, zlib.error) as e:
        raise ImageError(f"{vmlinuz}: damaged kernel: {e}") from e
    # The ELF note with the entry point: XEN_ELFNOTE_PHYS32_ENTRY.
    notes = (struct.pack("<III4s", 4, size, 18, b"Xen") for size in (4, 8))
    if not any(note in kernel for note in notes):
        return vmlinuz
    with open(out, "wb") as f:
        f.write(kernel)
    return out


def build_initramfs(out: str, vmlinuz: str, busybox: str) -> None:
    """Write the initramfs for the kernel VMLINUZ to OUT.

    Not compressed: emulated, unpacking takes longer than reading.
    """
    _check_static(busybox)
    release = os.path.basename(vmlinuz).partition("-")[2]
    root = os.path.dirname(os.path.dirname(os.path.abspath(vmlinuz)))
    moddir = os.path.join(root, "lib/modules", release)
    if not release or not os.path.isdir(moddir):
        raise ImageError(f"no modules for {vmlinuz}: a kernel is expected "
                         "at DIR/boot/vmlinuz-VERSION with its modules in "
                         "DIR/lib/modules/VERSION")
    modules = _modules(moddir)
    with open(out, "wb") as f:
        cpio = _Cpio(f)
        for name in ("bin", "dev", "modules"):
            cpio.add(name, stat.S_IFDIR | 0o755)
        cpio.add("dev/console", stat.S_IFCHR | 0o600, rdev=(5, 1))
        with open(busybox, "rb") as b:
            cpio.add("bin/busybox", stat.S_IFREG | 0o755, b.read())
        cpio.add("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
        with open(TOP / "tests" / "guest" / "init", "rb") as b:
            cpio.add("init", stat.S_IFREG | 0o755, b.read())
        for name, content in modules:
            cpio.add(f"modules/{name}.ko", stat.S_IFREG | 0o644, content)
        order = "".join(f"{name}.ko {OPTIONS.get(name, '')}".rstrip() + "\n"
                        for name, _ in modules)
        cpio.add("modules/order", stat.S_IFREG | 0o644, order.encode())
        cpio.add("TRAILER!!!", 0)
