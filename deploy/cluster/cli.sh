# For the other scripts: runs redis-cli, on this server unless arguments name another one.
cli() {
    REDISCLI_AUTH=$(sed -n 's/^masterauth //p' /etc/redis/server.conf) redis-cli \
        -e --tls --cacert /etc/redis/ca.pem --user server --no-auth-warning -p 6379 "$@"
}
