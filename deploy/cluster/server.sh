#!/bin/sh
# Starts the server NAME, one of those in SERVERS.
set -eu
umask 077
. /etc/redis/cli.sh

# Servers find each other by IP addresses, which they remember. One that starts with another address
# tells the others. But if all have other addresses at once, nobody finds anybody: names help.
introduce() {
    # Twice `cluster-node-timeout`, after which all that were not found are known.
    while sleep 10 && kill -0 $$; do
        case $(cli cluster nodes || echo fail) in
            *fail* | *disconnected*) ;;
            *) return ;;
        esac
        for server in $SERVERS; do
            address=$(getent hosts "${server%:*}") || continue
            cli cluster meet "${address%% *}" "${server##*:}" > /dev/null || true
        done
    done
}

# Until the cluster is created, the server knows only itself.
if grep -Eqsv 'myself|^vars' /data/nodes.conf; then
    introduce &
fi
exec redis-server /etc/redis/server.conf --cluster-announce-hostname "$NAME"
