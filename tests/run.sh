#!/bin/sh
# Installs redis-server and openssl as root if they are missing; to avoid that, install them first
# or set NO_INSTALL=1.
#
# Runs all tests, the model of the protocol and the models of interleavings, on Debian or Ubuntu.
# Arguments go to `cargo test`: `tests/run.sh redis_roles` runs the tests that match.
#
# REDIS_SERVER=/path/to/valkey-server names another program for the servers and sentinels of the tests.
set -eu
cd "$(dirname "$0")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "tests/run.sh: cannot run '$*' without root or sudo" >&2
        exit 1
    fi
}

# install PACKAGE...
install() {
    if [ "${NO_INSTALL:-}" = 1 ]; then
        echo "tests/run.sh: missing: $* (redis-server 7.0 or later), and NO_INSTALL=1 forbids installing" >&2
        exit 1
    fi
    if ! command -v apt-get >/dev/null; then
        echo "tests/run.sh: missing: $* (redis-server 7.0 or later), and apt-get: please install them" >&2
        exit 1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
    # The package may have started a service. The tests start servers of their own.
    if command -v service >/dev/null; then
        as_root service redis-server stop >/dev/null 2>&1 || true
    fi
}

command -v cargo >/dev/null || {
    echo "tests/run.sh: cargo is missing: see https://rustup.rs" >&2
    exit 1
}
command -v cc >/dev/null || {
    echo "tests/run.sh: a C compiler is missing, which Rust links with: apt-get install gcc libc6-dev" >&2
    exit 1
}
missing=
if [ -n "${REDIS_SERVER:-}" ]; then
    "$REDIS_SERVER" --version
else
    command -v redis-server >/dev/null || missing="$missing redis-server"
fi
# Makes the certificates of a deployment: see deploy/sentinel/certificates.sh.
command -v openssl >/dev/null || missing="$missing openssl"
# shellcheck disable=SC2086 # a list of packages
[ -z "$missing" ] || install $missing

# Most tests wait for servers and not for the processor.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-6}"
cargo test --all-features "$@"

# Arguments select tests, so the models run only without any.
if [ $# -eq 0 ]; then
    # All states of the protocol between nodes and servers. See tests/model/src/lib.rs.
    cargo test -p clustered-sessions-model
    # Other flags mean other builds, so they get their own directory. See src/cluster/model.rs.
    RUSTFLAGS="--cfg shuttle" cargo test --lib --no-default-features --target-dir target/shuttle interleavings
fi
