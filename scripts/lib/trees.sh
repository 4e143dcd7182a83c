# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The git trees of QEMU that the scripts made: the tag `base` is the pristine
# source, and the branch `series` has the patches.

# One script at a time works on a tree; the lock goes when the script ends.
lock_base() {
    mkdir -p "$WORK"
    exec 9>"$WORK/.lock-$1"
    wait_for_lock 9 "$1"
}

# lock NAME ... unlock NAME: one script at a time, for what all bases share
declare -A LOCKS
lock() {
    local fd
    mkdir -p "$WORK"
    exec {fd}>"$WORK/.lock-$1"
    wait_for_lock "$fd" "$1"
    LOCKS[$1]=$fd
}
unlock() {
    local fd=${LOCKS[$1]}
    exec {fd}>&-
}

wait_for_lock() {
    flock -n "$1" || { say "waiting for another script to finish with $2"; flock "$1"; }
}

need_tree() {
    [[ -e $TREE/.git ]] || die "there is no tree of $BASE yet: run scripts/tree $BASE"
    settle_tree
}

is_qemu() { [[ -f $1/VERSION && -f $1/hw/usb/hcd-xhci-pci.c ]]; }

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
