#!/bin/sh
# Starts the server NAME. At the very first start, all others are replicas of MASTER.
#
# Later, role.conf has the role that the sentinels have given the server: Redis writes it at each
# failover. It must survive a restart with the data, or a server that was a replica would take
# itself for the master.
set -eu
umask 077
cat /etc/redis/users.acl /etc/redis/servers.acl > /data/users.acl
if [ ! -e /data/role.conf ]; then
    if [ "$NAME" != "$MASTER" ]; then
        echo "replicaof $MASTER 6379" > /data/role.conf
    else
        : > /data/role.conf
    fi
fi
# Sentinels and replicas know the server by its name, which is that in its certificate.
exec redis-server /data/role.conf --include /etc/redis/server.conf --replica-announce-ip "$NAME"
