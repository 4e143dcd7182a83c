# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# For the tests of the scripts: a copy of the repository with a series of its
# own, and trees that look like QEMU to the scripts but build at once.

set -uo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd "$HERE/../.." && pwd -P)
T=$(mktemp -d /tmp/scripts-test.XXXXXX)
chmod 755 "$T"
trap 'rm -rf "$T"' EXIT
trap 'exit 130' INT TERM HUP

# Nothing of whoever runs the tests.
export XHCI_WORK=$T/work LC_ALL=C.UTF-8 GIT_CONFIG_NOSYSTEM=1
export HOME=$T/home
unset "${!GIT_AUTHOR_@}" "${!GIT_COMMITTER_@}" GIT_DIR GIT_INDEX_FILE
mkdir -p "$HOME"
git config --global user.name 'A Tester'
git config --global user.email tester@example.org
git config --global init.defaultBranch main

# --- TAP ---------------------------------------------------------------------

COUNT=0 BAD=0
pass() { COUNT=$((COUNT + 1)); echo "ok $COUNT - $1"; }
skip() { COUNT=$((COUNT + 1)); echo "ok $COUNT - $1 # SKIP $2"; }
fail() {
    COUNT=$((COUNT + 1)) BAD=$((BAD + 1))
    echo "not ok $COUNT - $1"
    printf '%s\n' "${2-}" | sed 's/^/# /'
}
finish() { echo "1..$COUNT"; exit $((BAD > 0)); }

# is NAME GOT WANTED
is() { if [[ $2 == "$3" ]]; then pass "$1"; else fail "$1" "got: $2"$'\n'"not: $3"; fi; }

# run COMMAND...: sets OUT, ERR and STATUS.
run() {
    STATUS=0
    "$@" >"$T/out" 2>"$T/err" </dev/null || STATUS=$?
    OUT=$(cat "$T/out") ERR=$(cat "$T/err")
}

# works NAME COMMAND...
works() {
    local name=$1
    run "${@:2}"
    if ((STATUS == 0)); then pass "$name"; else fail "$name" "status $STATUS: $ERR"; fi
}

# refuses NAME REGEX COMMAND...: fails, prints nothing on stdout, and one line
# that says error and matches.
refuses() {
    local name=$1 lines
    run "${@:3}"
    lines=$(grep -cE '(error|fatal|E): ' <<<"$ERR")
    if ((STATUS != 0 && lines == 1)) && [[ -z $OUT ]] &&
        grep 'error: ' <<<"$ERR" | grep -qE "$2"; then
        pass "$name"
    else
        fail "$name" "status $STATUS, wanted one error line like: $2"$'\n'"$ERR"$'\n'"$OUT"
    fi
}

# Every file below a folder with its content.
snapshot() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0r sha1sum; find . ! -type f | sort); }

# unchanged NAME DIR FUNCTION ARG...: a test after which DIR is what it was.
unchanged() {
    local before
    before=$(snapshot "$2")
    "${@:3}"
    is "$1" "$(snapshot "$2")" "$before"
}

# --- fixtures -----------------------------------------------------------------

# lines A B: numbered lines, so that a hunk fits in one place only.
lines() { seq -f "/* line %g */" "$1" "$2"; }

# fake_qemu DIR VERSION: a git tree with what the scripts look at. It builds a
# "QEMU" that is the text of hcd-xhci.c, unless that has the word BROKEN. The
# command in SLOW is run before.
fake_qemu() {
    mkdir -p "$1"/{hw/usb,tests/qtest,scripts}
    echo "$2" >"$1/VERSION"
    lines 1 60 >"$1/hw/usb/hcd-xhci.c"
    lines 1 20 >"$1/hw/usb/hcd-xhci-pci.c"
    printf 'USB\nM: Nobody\nF: hw/usb/*\n\nZZZ\nF: zzz\n' >"$1/MAINTAINERS"
    echo "option('pixman')" >"$1/meson_options.txt"
    echo "project('qemu', ['c'], meson_version: '>=0.50')" >"$1/meson.build"
    cat >"$1/configure" <<'EOF'
#!/bin/sh
src=$(dirname "$0")
mkdir -p tests/qtest
cat >build.ninja <<EON
rule build
  command = \$\$SLOW; ! grep -q BROKEN \$in || { echo error: BROKEN; false; } && cp \$in \$out && chmod +x \$out
rule configure
  command = touch \$out
build build.ninja: configure
build qemu-system-x86_64: build $src/hw/usb/hcd-xhci.c
build tests/qtest/qos-test: build $src/hw/usb/hcd-xhci.c
EON
EOF
    chmod +x "$1/configure"
    git -C "$1" init -q -b series
    git -C "$1" add -A
    git -C "$1" commit -qm base
}

commit() { git -C "$1" add -A; git -C "$1" commit -qsm "$2"; }

# marker TREE RANGE: as in the trees of scripts/apply, such as `01xx: core`
marker() { git -C "$1" commit -q --allow-empty -m "range $2"; }

DATE='Tue, 24 Nov 2026 00:00:00 +0000'

# patches_of TREE FROM TO NUMBER DIR: commits as patches, from a number on.
patches_of() {
    GIT_CONFIG_GLOBAL=/dev/null git -C "$1" format-patch -q -N --zero-commit --no-signature --full-index --stat=72 \
        --start-number "$4" -o "$5" "$2..$3"
    sed -i "s/^Date: .*/Date: $DATE/" "$5"/*.patch
}

# fake_repo: $REPO, with the scripts of this one, and a series of three patches
# for v10.0, the first two of which are the core, that fits fake_qemu. That of
# v7.2 is the same.
fake_repo() {
    local tree=$T/series file
    REPO=$T/repo
    mkdir -p "$REPO"/{patches/v10.0,patches/v7.2}
    cp -r "$ROOT/scripts" "$ROOT/.gitignore" "$REPO/"
    rm -rf "$REPO/scripts/xhciseries/__pycache__"
    cat >"$REPO/patches/bases" <<'EOF'
# for the tests
base   releases suite    made   commit near    since
v7.2   7.2      bookworm 7.2.5  -      8.0,8.1 03:8.0.2
v10.0  10.0     trixie   10.0.5 -      10.1    -
EOF
    printf '%s\n' 'version: 1.0' "date: $DATE" >"$REPO/patches/VERSION"
    fake_qemu "$tree" 10.0.5
    git -C "$tree" tag base
    sed -i 's|.* line 20 .*|/* line 20, patched */|' "$tree/hw/usb/hcd-xhci.c"
    commit "$tree" 'hw/usb/hcd-xhci: One'
    lines 1 3 >"$tree/tests/qtest/new-test.c"
    commit "$tree" 'tests/qtest: Two'
    sed -i 's|.* line 40 .*|/* line 40, patched */|' "$tree/hw/usb/hcd-xhci.c"
    commit "$tree" 'hw/usb/hcd-xhci: Three'
    patches_of "$tree" base series~1 101 "$REPO/patches/v10.0"
    patches_of "$tree" series~1 series 201 "$REPO/patches/v10.0"
    for file in "$REPO"/patches/v10.0/*; do
        ln -s "../v10.0/${file##*/}" "$REPO/patches/v7.2/"
    done
    git -C "$REPO" init -q
    commit "$REPO" all
}
