# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the files of scripts/checks share. They print TAP, or just fail. Before
# one begins, what its "Needs:" names is there.

# shellcheck source=common.sh
. "${BASH_SOURCE[0]%/*}/common.sh"

# The number of the last point()
number=0
# point ok|'not ok' TITLE
point() {
    number=$((number + 1))
    echo "$1 $number - $2"
}

skip_item() { printf '%s\n' "ok 1 - $1 # SKIP $2" 1..1; }

# provide NEED...: of BASE, as declared; see scripts/xhcitest/checks.py. Stock
# QEMU comes first: it is built in the folder in which the patched one stays.
provide() {
    local need
    if [[ " $* " == *' stock '* ]]; then
        "$TOP/scripts/tree" "$BASE"
        "$TOP/scripts/build" "$BASE" --stock
    fi >&2
    for need; do
        case $need in
        stock | others | clang) ;;
        tree) prepare_tree ;;
        build) prepare_tree && "$TOP/scripts/build" "$BASE" ;;
        *) die "$0 needs '$need', which is not known" ;;
        esac >&2
    done
}

# The series of patches/BASE, and nothing else
prepare_tree() { "$TOP/scripts/tree" "$BASE" && "$TOP/scripts/apply" "$BASE"; }

# The patches that plain git am takes: those of upstream's (00xx) only where
# the tree is of a release without them
applied_files() {
    if [[ $(series_commits) == *' 00'* ]]; then series_files "$BASE"; else
        series_files "$BASE" | grep -v '/00[^/]*$'
    fi
}

# list_files all|shell|python: what is in the repository, or may soon be
list_files() { python xhcitest.files "$@"; }

case ${1-} in
-h | --help) sed -n '/^# Passes if:/,/^[^#]*$/s/^# \{0,1\}//p' "$0"; exit ;;
esac
cd "$TOP"
if [[ $0 == */base/* ]]; then
    (($#)) || die "which base? (such as $0 v10.0)"
    need_base "$1"
    shift
    # shellcheck disable=SC2046 # words
    provide $(sed -n 's/^# Needs: *//p' "$0")
fi
# shellcheck disable=SC2034 # for the checks
ARGS=("$@")
