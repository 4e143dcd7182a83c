# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The qtests: QEMU's own, and those that the series add.

# QEMU's qtests that need nothing but the binary, and are worth running when
# the USB controllers, PCI or migration change.
# shellcheck disable=SC2034
QEMU_TESTS='device-introspect-test device-plug-test drive_del-test
    machine-none-test migration-test qom-test qos-test usb-hcd-ehci-test
    usb-hcd-ohci-test usb-hcd-uhci-test usb-hcd-xhci-test'

# new_qtests QEMU ARG...: run the tests that the series adds to qos-test, as
# they are in $BUILD, on a binary.
new_qtests() {
    "$TOP/scripts/lib/qtest" --qemu "$1" --cwd "$BUILD" --timeout 120 \
        --match xhci --exclude pci-device-tests "${@:2}" "$BUILD/tests/qtest/qos-test"
}
