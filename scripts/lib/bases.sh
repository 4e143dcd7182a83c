# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The QEMU versions that have a series. patches/bases is read by Python alone,
# in scripts/xhciseries/bases.py.

# bases [list|default|obtainable|for VERSION|field BASE COLUMN|source BASE]
bases() { python xhciseries.bases "$@"; }

# base_field BASE COLUMN, by the column's name
base_field() { bases field "$@"; }

# The release line of a base: 10.0 for v10.0
base_line() { base_field "$1" made | cut -d. -f1,2; }

# A tarball in XHCI_SOURCES that a base can be made of, if there is one
local_source() { bases source "$1"; }

need_base() {
    bases | grep -xF -- "$1" >/dev/null || die "unknown base '$1' (there are: $(bases | paste -sd ' '))"
    # shellcheck disable=SC2034 # they are for the scripts
    BASE=$1 TREE=$WORK/trees/$1 BUILD=$WORK/build/$1 STOCK=$WORK/stock/$1 \
        PATCHES=$TOP/patches/$1
}
