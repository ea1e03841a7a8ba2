#!/bin/sh
# Starts the sentinel NAME. At the very first start, MASTER is the master.
#
# Later, state.conf has what the sentinel has learnt: it writes it at each change. It must survive a
# restart, or the sentinel would vote twice in a failover, and name an old master.
set -eu
umask 077
if [ ! -e /data/state.conf ]; then
    cat > /data/state.conf <<STATE
sentinel monitor sessions $MASTER 6379 2
sentinel announce-ip $NAME
STATE
fi
exec redis-server /data/state.conf --sentinel --include /etc/redis/sentinel.conf
