# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# For the checks of migration: a state that one QEMU saves is loaded by another.

# migrate_pair FROM TO TESTS
migrate_pair() {
    local pair=$WORK/tmp/pair-$BASE
    mkdir -p "$pair"
    ln -sf "$TOP/scripts/lib/qemu-pair" "$pair/qemu-system-x86_64"
    PAIR_FROM=$1 PAIR_TO=$2 PAIR_PLAIN=$(without_property "$1" "$2") \
        new_qtests "$pair/qemu-system-x86_64" \
        --match "pc/.*/nec-usb-xhci/.*/migrate/$3\$" --log "$WORK/log/migrate-$BASE.log"
}

# Those of the QEMUs that do not know conditional-intr-mapping.
without_property() {
    local qemu
    for qemu; do
        "$qemu" -device nec-usb-xhci,help | grep conditional-intr-mapping >/dev/null || echo "$qemu"
    done | paste -sd ' '
}
