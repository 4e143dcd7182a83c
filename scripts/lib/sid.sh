# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Debian sid's QEMU, which is the newest release or the one before.

# apply_to_sid ITEM: $tree is sid's QEMU with the series then, $try says what
# that shows, and $said what was said. Ends the check if it cannot be.
apply_to_sid() {
    local version deb base fit why new=$WORK/src/sid/unpacked
    tree=$WORK/sid/tree
    lock_base sid
    # What sid has changes.
    find "$WORK/apt/sid-src/ready" -mtime +0 -delete 2>/dev/null || true
    if ! deb=$(debian_version sid) || [[ -z $deb ]]; then
        skip_item "sid/$1" "the mirror does not say which QEMU Debian sid has"
        exit
    fi
    version=${deb%%[+~-]*}
    if ! read -r base fit < <(bases for "$version"); then
        skip_item "sid/$1" "no series for QEMU $version"
        exit
    fi
    if [[ $(cat "$WORK/sid/version" 2>/dev/null) != "$deb" ]]; then
        need_space 1500
        rm -rf "$new" "$WORK/sid"
        if ! (unpack_debian sid "$WORK/src/sid" "$new"); then
            skip_item "sid/$1" "the source of QEMU $version cannot be had from Debian sid"
            exit
        fi
        new_tree "$new"
        mkdir -p "$WORK/sid"
        mv "$new" "$tree"
        echo "$deb" >"$WORK/sid/version"
    fi
    TREE=$tree tree_git checkout -q -f -B series base
    try="QEMU $version of Debian sid takes the series $base"
    if said=$("$TOP/scripts/apply" --to "$tree" 2>&1 >/dev/null); then return; fi
    say "$said"
    why=$(sed -n 's/.*error: //p' <<<"$said" | head -n 1)
    if [[ $fit == near ]]; then
        skip_item "$try" "there is none of its own, and $why"
    else
        printf '%s\n' "not ok 1 - $try" "# $why" 1..1
    fi
    exit
}
