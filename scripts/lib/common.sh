# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the scripts share: messages, paths, clean-up, progress, the bases.

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

# --- long commands ---------------------------------------------------------

CHILD=
at_exit 'stop_child'
stop_child() {
    [[ -n $CHILD ]] || return 0
    kill -TERM -- "-$CHILD" 2>/dev/null || true
    wait "$CHILD" 2>/dev/null || true
}

# run_logged LABEL LOG COMMAND...: output goes to LOG, progress to stderr.
# The command gets a process group of its own, so that Ctrl-C reaches only
# this script, which can then stop all of it.
run_logged() {
    local label=$1 log=$2 start=$SECONDS next=15 status=0
    shift 2
    mkdir -p "${log%/*}"
    : >"$log" || die "cannot write $log"
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    CHILD=$!
    set +m
    while kill -0 "$CHILD" 2>/dev/null; do
        if [[ -t 2 ]]; then
            printf '\r\033[K  %s: %d s  %s' "$label" $((SECONDS - start)) \
                "$(last_words "$log" 50)" >&2
        elif ((SECONDS - start >= next)); then
            say "  $label: $((SECONDS - start)) s  $(last_words "$log" 50)"
            next=$((SECONDS - start + 15))
        fi
        sleep 0.5
    done
    wait "$CHILD" || status=$?
    CHILD=
    [[ ! -t 2 ]] || printf '\r\033[K' >&2
    return "$status"
}

in_dir() { cd "$1" && "${@:2}"; }

last_words() {
    local line
    line=$(tail -c 400 "$1" | tr '\r' '\n' | tr -cd '[:print:]\n' | sed '/^ *$/d' | tail -n 1)
    printf '%s' "${line:0:$2}"
}

# logged LABEL LOG COMMAND...: the same, but a failure ends the script.
logged() {
    say "$1 (log: $2)"
    run_logged "$@" || fail_with_log "$1 failed" "$2"
}

fail_with_log() {
    if grep -qi 'no space left on device' "$2"; then
        die "$1: the disk that holds $WORK is full (log: $2)"
    fi
    local why
    why=$(grep -m 1 -aiE '(^|[^a-z])(error|fatal|failed)[: ]|^E: ' "$2" || tail -n 1 "$2")
    die "$1: ${why:0:200} (log: $2)"
}

need_space() {
    local dir=$WORK free
    mkdir -p "$dir" 2>/dev/null || die "cannot create $dir (set XHCI_WORK to choose another place)"
    free=$(df -Pk "$dir" | awk 'NR == 2 { print int($4 / 1024) }')
    ((free >= $1)) ||
        die "$dir has $free MB free and $1 MB are needed: free some, or set XHCI_WORK to a folder on another disk"
}

# One script at a time works on a tree; the lock goes when the script ends.
lock_base() {
    mkdir -p "$WORK"
    exec 9>"$WORK/.lock-$1"
    flock -n 9 || { say "waiting for another script to finish with $1"; flock 9; }
}

# The distribution's own program, even when another one is first in PATH:
# QEMU's build uses modules that the distribution installs for it.
system_tool() {
    if [[ -x /usr/bin/$1 ]]; then echo "/usr/bin/$1"; else command -v "$1"; fi ||
        die "$1 is not installed: run scripts/setup"
}

# version_ge A B
version_ge() { [[ $(printf '%s\n' "$1" "$2" | sort -V | sed -n 1p) == "$2" ]]; }

# --- the bases -------------------------------------------------------------

# The rows of patches/bases, with the line that names the columns first.
base_table() { awk '!/^#/ && NF' "$TOP/patches/bases"; }

bases() { base_table | awk 'NR > 1 { print $1 }'; }

# base_field BASE COLUMN, by the column's name
base_field() {
    base_table | awk -v b="$1" -v name="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
        $column["base"] == b { print $column[name] }'
}

# The release line of a base: 10.0 for v10.0
base_line() { base_field "$1" made | cut -d. -f1,2; }

# A tarball of the release that the base is made on, or of another of its line,
# in the folder that XHCI_SOURCES names.
local_source() {
    local made file
    [[ -n ${XHCI_SOURCES-} ]] || return 0
    made=$(base_field "$1" made)
    for file in "$XHCI_SOURCES/qemu-$made".tar.{xz,bz2,gz}; do
        [[ ! -f $file ]] || { echo "$file"; return; }
    done
    find "$XHCI_SOURCES/" -maxdepth 1 -name "qemu-${made%.*}.*.tar.[xbg]z*" | sort -V | tail -n 1
}

# The bases that any machine can get: those that a Debian suite has, or that
# XHCI_SOURCES holds.
default_bases() {
    local base
    for base in $(bases); do
        if [[ $(base_field "$base" suite) != - || -n $(local_source "$base") ]]; then
            echo "$base"
        fi
    done
}

need_base() {
    [[ -n $(base_field "$1" 1) ]] || die "unknown base '$1' (there are: $(bases | paste -sd ' '))"
    # shellcheck disable=SC2034 # they are for the scripts
    BASE=$1 TREE=$WORK/trees/$1 BUILD=$WORK/build/$1 STOCK=$WORK/stock/$1 \
        PATCHES=$TOP/patches/$1
}

need_tree() {
    [[ -e $TREE/.git ]] || die "there is no tree of $BASE yet: run scripts/tree $BASE"
    settle_tree
}

is_qemu() { [[ -f $1/VERSION && -f $1/hw/usb/hcd-xhci-pci.c ]]; }

# The release that a VERSION belongs to: 10.0.3 is 10.0, and 10.0.50 and
# later are the development of 10.1.
release_of() {
    local major minor micro
    IFS=. read -r major minor micro _ <<<"$1"
    if [[ ! $major.$minor =~ ^[0-9]+\.[0-9]+$ ]]; then
        return 1
    elif [[ $micro =~ ^[0-9]+ ]] && ((BASH_REMATCH[0] >= 50)); then
        ((minor == 2)) && echo "$((major + 1)).0" || echo "$major.$((minor + 1))"
    else
        echo "$major.$minor"
    fi
}

# base_for RELEASE: prints "BASE exact" or "BASE near", or nothing.
base_for() {
    base_table | awk -v r="$1" '
        NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
        index("," $column["releases"] ",", "," r ",") { exact = $1 }
        index("," $column["near"] ",", "," r ",") { near = $1 }
        END { if (exact) print exact, "exact"; else if (near) print near, "near" }'
}

# The patches of a series in order, with those that all bases have. The tree of
# a base may have those of upstream's (00xx) already.
series_files() {
    local f
    for f in "$TOP/patches/$1"/[0-9]*.patch "$TOP/patches/common"/[0-9]*.patch; do
        [[ ! -e $f ]] || printf '%s\n' "$f"
    done
}

# The commits of the series in the tree, each with the number of its range, such
# as 01; without the empty commits that mark where a range begins.
series_commits() {
    tree_git log --reverse --format='%H %s' base..series |
        awk '$2 == "range" && $3 ~ /^[0-9][0-9]xx:$/ { range = substr($3, 1, 2); next }
            { print $1, range }'
}

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

# --- git in the trees that the scripts made --------------------------------

# Without the user's configuration, so that the result is the same everywhere.
tree_git() {
    GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 \
        git -C "$TREE" -c core.hooksPath=/dev/null -c gc.auto=0 "$@"
}

# new_tree DIR: make a git tree of the QEMU sources that are in DIR.
new_tree() {
    local TREE=$1 version
    version=$(cat "$1/VERSION")
    say "making the git tree of QEMU $version"
    find "$1" -name .git -prune -exec rm -rf {} +
    tree_git init -q -b series
    tree_git config user.useConfigOnly false
    tree_git add -f -A .
    # A fixed author and date: the same sources are the same commit everywhere.
    GIT_AUTHOR_DATE='@0 +0000' GIT_COMMITTER_DATE='@0 +0000' \
        tree_git -c user.name=scripts/tree -c user.email=tree@localhost \
        commit -q -m "QEMU $version"
    tree_git tag base
}

tree_is_clean() { [[ -z $(tree_git status --porcelain) ]]; }

# check_out COMMIT: in a tree without changes. It is put back on its branch,
# whatever happens.
check_out() {
    if [[ ! -e $TREE/.git/scripts-detached ]]; then
        tree_is_clean || die "$TREE has uncommitted changes: commit or remove them first"
        tree_git symbolic-ref -q --short HEAD >"$TREE/.git/scripts-detached" ||
            tree_git rev-parse HEAD >"$TREE/.git/scripts-detached"
        at_exit settle_tree
    fi
    tree_git checkout -q --detach "$1"
}

# check_out notes what it does, so that an interrupted run can be put right here.
settle_tree() {
    local mark=$TREE/.git/scripts-detached
    [[ -e $mark ]] || return 0
    if tree_is_clean; then
        say "putting $TREE back on its branch"
        tree_git checkout -q "$(cat "$mark")"
    fi
    rm -f "$mark"
}

# git am wants a committer even where none is set up.
committer_fallback() {
    git "$@" var GIT_COMMITTER_IDENT >/dev/null 2>&1 && return
    export GIT_COMMITTER_NAME=scripts/apply GIT_COMMITTER_EMAIL=apply@localhost
}

# shellcheck source=apt.sh
. "$TOP/scripts/lib/apt.sh"
