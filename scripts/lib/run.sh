# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Long commands, with a log and progress, and what they need of the machine.

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
