#!/bin/sh
# Makes SERVERS a cluster, unless they are one already: three masters, each with a replica.
set -eu
. /etc/redis/cli.sh

info() {
    cli -h "${1%:*}" -p "${1##*:}" cluster info
}

for server in $SERVERS; do
    until info "$server" > /dev/null; do sleep 1; done
done
# A server that does not belong to a cluster knows only itself. If another one does belong to one,
# redis-cli refuses.
case $(info "${SERVERS%% *}") in
    *cluster_known_nodes:1[!0-9]*) cli --cluster create $SERVERS --cluster-replicas 1 --cluster-yes ;;
esac
