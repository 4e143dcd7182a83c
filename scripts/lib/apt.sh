# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# apt for suites that the user does not have: the user's mirror, proxies and
# keys, but sources, lists and cache of our own under $WORK/apt.

# private_apt SUITE[-src] COMMAND...: apt-get with the packages (or, with -src,
# the sources) of a Debian suite and its security updates, and of nothing else.
#     private_apt bookworm download linux-image-amd64
private_apt() {
    private_apt_ready "$1"
    apt-get -q -c "$WORK/apt/$1/apt.conf" "${@:2}"
}

private_apt_cache() {
    private_apt_ready "$1"
    apt-cache -q -c "$WORK/apt/$1/apt.conf" "${@:2}"
}

# Lists that are older than the newest package name files that are gone: call
# private_apt_expire SUITE and try again.
private_apt_expire() { rm -f "$WORK/apt/$1/ready"; }

# unpack_debian SUITE DOWNLOADS DIR: unpack the suite's newest source package of
# QEMU into DIR. Stable updates of QEMU are patches in the package, so
# dpkg-source has to do it.
unpack_debian() {
    local dsc name=${2##*/} log=$WORK/log/source-${2##*/}.log
    command -v dpkg-source >/dev/null || die "dpkg-source is not installed: run scripts/setup"
    mkdir -p "$2"
    download_source "$1" "$2" "$log" || {
        private_apt_expire "$1-src"
        download_source "$1" "$2" "$log" || fail_with_log "cannot download QEMU's source" "$log"
    }
    dsc=$(printf '%s\n' "$2"/*.dsc | sort -V | tail -n 1)
    logged "unpacking ${dsc##*/}" "$WORK/log/unpack-$name.log" \
        dpkg-source --no-check -x "$dsc" "$3"
    rm -rf "$3/.pc"
}

download_source() {
    private_apt_ready "$1-src"
    say "downloading QEMU's source from Debian $1 (log: $3)"
    run_logged 'downloading' "$3" \
        in_dir "$2" private_apt "$1-src" source --download-only qemu
}

# debian_version SUITE: of the suite's newest source package of QEMU
debian_version() {
    private_apt_cache "$1-src" showsrc --only-source qemu |
        sed -n 's/^Version: \([0-9]*:\)\{0,1\}//p' | sort -V | tail -n 1
}

private_apt_ready() {
    [[ -e $WORK/apt/$1/ready ]] || {
        lock apt
        [[ -e $WORK/apt/$1/ready ]] || update_private_apt "$1"
        unlock apt
    }
}

update_private_apt() {
    local dir=$WORK/apt/$1 suite=${1%-src} type=deb mirror security opts=
    [[ $1 != *-src ]] || type=deb-src
    find_mirrors
    write_apt_conf "$dir"
    if [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]]; then
        opts='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] '
    fi
    mirror=$(sed -n 1p "$WORK/apt/mirrors")
    security=$(sed -n 2p "$WORK/apt/mirrors")
    {
        echo "$type $opts$mirror $suite main"
        if [[ $suite != *-* && $suite != sid ]]; then
            echo "$type $opts$mirror $suite-updates main"
            [[ -z $security ]] || echo "$type $opts$security $suite-security main"
        fi
    } >"$dir/sources.list"
    logged "asking the Debian mirror about $suite" "$WORK/log/apt-$1.log" \
        apt-get -q -c "$dir/apt.conf" --error-on=any update
    : >"$dir/ready"
}

# Everything is read from, and written to, DIR. The hooks of the user's apt
# are for the system's own lists.
write_apt_conf() {
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    : >"$1/status"
    cat >"$1/apt.conf" <<EOF
Dir::Etc::sourcelist "$1/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$1/lists";
Dir::State::status "$1/status";
Dir::Cache "$1/cache";
APT::Sandbox::User "$(id -un)";
APT::Default-Release "";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
EOF
}

# The user's Debian mirror, and where the security updates are, as two lines
# of $WORK/apt/mirrors. On a machine whose lists were never fetched, apt knows
# them only after an update, done here into lists of our own.
find_mirrors() {
    [[ ! -s $WORK/apt/mirrors ]] || return 0
    command -v apt-get >/dev/null ||
        die "this needs apt, to get QEMU's source: give it with --source instead"
    mkdir -p "$WORK/apt"
    local targets dir=$WORK/apt/user
    targets=$(list_mirrors)
    if [[ -z $targets ]]; then
        write_apt_conf "$dir"
        sed -i '/^Dir::Etc/d' "$dir/apt.conf"
        run_logged 'asking apt for the Debian mirror' "$WORK/log/apt-mirrors.log" \
            apt-get -q -c "$dir/apt.conf" update || true
        targets=$(list_mirrors -c "$dir/apt.conf")
    fi
    [[ -n $targets ]] || die "apt names no Debian mirror that answers: check the network and apt's sources, or give the source with scripts/tree BASE --source (log: $WORK/log/apt-mirrors.log)"
    printf '%s\n' "$targets" >"$WORK/apt/mirrors"
}

list_mirrors() {
    # shellcheck disable=SC2016 # $(...) is apt's, not the shell's
    apt-get "$@" indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' '$1 == "Debian" && $2 == "Debian" && !m { m = $3 }
            $1 == "Debian" && $2 == "Debian-Security" && !s { s = $3 }
            END { if (m) { print m; print s } }'
}
