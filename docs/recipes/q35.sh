#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Usage: OSK=... q35.sh [QEMU OPTION...]
#
# macOS on Q35 with KVM. In the current folder: OVMF_CODE.fd and OVMF_VARS.fd,
# OpenCore.qcow2 (the boot loader) and macos.qcow2 (the disk). OSK is the key
# that isa-applesmc needs, which you read from a Mac. QEMU is the binary, ACCEL
# the accelerator, XHCI the controller.

set -euo pipefail
: "${OSK:?set OSK to the 64 characters that isa-applesmc needs}"

# shellcheck disable=SC2054 # the commas are those of options
args=(
    -name macos
    -machine q35 -accel "${ACCEL:-kvm}"
    -cpu Haswell-noTSX,vendor=GenuineIntel,+invtsc,vmware-cpuid-freq=on
    -smp 4 -m 4G
    -device isa-applesmc,osk="$OSK" -smbios type=2

    -drive if=pflash,format=raw,readonly=on,file=OVMF_CODE.fd
    -drive if=pflash,format=raw,file=OVMF_VARS.fd
    -drive id=opencore,if=none,format=qcow2,file=OpenCore.qcow2
    -device ide-hd,bus=ide.2,drive=opencore,bootindex=0
    -drive id=macos,if=none,format=qcow2,file=macos.qcow2
    -device ide-hd,bus=ide.3,drive=macos

    # The guest may use MSI-X or the pin. XHCI=nec-usb-xhci,msi=off,msix=off
    # leaves it nothing but the pin.
    -device "${XHCI:-nec-usb-xhci,msi=off},id=xhci"
    -device usb-kbd,id=keyboard,bus=xhci.0
    -device usb-tablet,id=tablet,bus=xhci.0

    -vga none -device vmware-svga
    -nic user,model=virtio-net-pci
)
exec "${QEMU:-qemu-system-x86_64}" "${args[@]}" "$@"
