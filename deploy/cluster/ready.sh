#!/bin/sh
# Succeeds if the server belongs to a cluster that works, and has all data if it is a replica.
set -eu
. /etc/redis/cli.sh

case $(cli cluster info) in
    *cluster_state:ok*) ;;
    *) exit 1 ;;
esac
case $(cli info replication) in
    *role:master* | *master_link_status:up*) ;;
    *) exit 1 ;;
esac
