#!/bin/sh
# Makes a certificate for hosts, and an authority to sign it unless the directory has one:
#
#   sh certificates.sh DIRECTORY NAME HOST...
#
# Writes NAME.pem and NAME-key.pem. Clients and servers need ca.pem. Only this script needs
# ca-key.pem: keep it elsewhere, with ca.pem. To renew a certificate, put both into the directory
# again.
set -eu

directory=$1 name=$2
shift 2
mkdir -p "$directory"
# Any user can read the files, so that a container that mounts one can, whoever it runs as. Other
# users of this machine cannot enter the directory.
chmod 700 "$directory"
cd "$directory"

request="openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
if [ ! -e ca.pem ]; then
    $request -x509 -days 3650 -subj /CN=sessions -keyout ca-key.pem -out ca.pem
fi

# Nodes verify that a certificate is for the host to which they connect.
names=$(printf ',DNS:%s' "$@")
printf 'subjectAltName=%s\n' "${names#,}" > "$name.ext"
$request -subj "/CN=$name" -keyout "$name-key.pem" -out "$name.csr"
openssl x509 -req -days 365 -in "$name.csr" -extfile "$name.ext" \
    -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out "$name.pem"
rm "$name.csr" "$name.ext"
chmod 644 ca.pem "$name.pem" "$name-key.pem"
