# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the shell scripts share: here messages, paths and clean-up, and by subject
# run.sh (long commands), bases.sh (which QEMUs), trees.sh (git trees of QEMU),
# qtests.sh and apt.sh.

set -euo pipefail

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
WORK=${XHCI_WORK:-$TOP/work}
[[ $WORK == /* ]] || WORK=$PWD/$WORK
PROG=${0##*/}
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*" >&2; }
die() { say "$PROG: error: $*"; exit 1; }

# The help of a script is the comment at its top, from "Usage:" on.
usage() { sed -n '/^# Usage:/,/^[^#]*$/s/^# \{0,1\}//p' "$0"; }
bad_usage() { die "$* (see scripts/$PROG --help)"; }

# --- clean-up: whatever ends the script, undo in reverse order -------------

AT_EXIT=()
at_exit() { AT_EXIT+=("$1"); }
cleanup() {
    local status=$? i
    trap '' INT TERM HUP
    trap - EXIT
    for ((i = ${#AT_EXIT[@]} - 1; i >= 0; i--)); do
        eval "${AT_EXIT[i]}" || true
    done
    exit "$status"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# A fresh directory inside the work folder, removed at the end.
temp_dir() {
    mkdir -p "$WORK/tmp" || die "cannot create $WORK (set XHCI_WORK to choose another place)"
    TEMP=$(mktemp -d "$WORK/tmp/$PROG.XXXXXX") || die "cannot write to $WORK"
    at_exit "rm -rf '$TEMP'"
}

# The distribution's own program, even when another one is first in PATH:
# QEMU's build uses modules that the distribution installs for it.
system_tool() {
    if [[ -x /usr/bin/$1 ]]; then echo "/usr/bin/$1"; else command -v "$1"; fi ||
        die "$1 is not installed: run scripts/setup"
}

# python MODULE ARG...: one of the Python modules below scripts/
python() { "$(system_tool python3)" -B "$TOP/scripts" "$@"; }

# A filter for TAP: tap label TEXT, or tap join
tap() { python xhcitest.tap "$@"; }

# version_ge A B
version_ge() { [[ $(printf '%s\n' "$1" "$2" | sort -V | sed -n 1p) == "$2" ]]; }

# shellcheck source=run.sh
. "$TOP/scripts/lib/run.sh"
# shellcheck source=bases.sh
. "$TOP/scripts/lib/bases.sh"
# shellcheck source=trees.sh
. "$TOP/scripts/lib/trees.sh"
# shellcheck source=qtests.sh
. "$TOP/scripts/lib/qtests.sh"
# shellcheck source=apt.sh
. "$TOP/scripts/lib/apt.sh"
