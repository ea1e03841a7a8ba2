#!/bin/sh
# Prints the instructions of one request, for each application, by callgrind. It runs each twice,
# with different numbers of requests, so that what the start takes cancels out.
#
#     benches/compare/instructions.sh [SCENARIO ...]
#
# With PROFILE=lines, also prints that many functions that take the most, each with what it takes
# itself, and its share. What is inlined counts for the function that it is inlined into.
#
# Callgrind has no SHA instructions, so hashing takes a larger share here than on hardware.
set -eu
cd "$(dirname "$0")"
few=1000
many=5000

cargo build --release --quiet
program="${CARGO_TARGET_DIR:-target}/release/clustered-sessions-bench"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Prints the instructions of a run.
count() {
    valgrind --tool=callgrind --fair-sched=yes --callgrind-out-file="$folder/$1.$2" \
        "$program" instructions "$1" "$2" 2>"$folder/log" || { cat "$folder/log" >&2; exit 1; }
    sed -n 's/^==.*Collected : //p' "$folder/log"
}

# Prints the functions of a run, a line for each: instructions, then the name.
functions() {
    callgrind_annotate --threshold=100 "$folder/$1.$2" 2>/dev/null |
        sed -nE 's/^ *([0-9,]+) +\( *[0-9.]+%\) +[^ :]+:(.*)$/\1 \2/p' |
        sed -E 's/ \[[^]]*\]$//; s/^([0-9]*),([0-9,]*)/\1\2/; :a; s/^([0-9]+),/\1/; ta'
}

[ $# -gt 0 ] || set -- bare noop floor ours ours-nothing-extracted tower-sessions
echo '| scenario | instructions per request |'
echo '|---|---|'
for scenario; do
    a=$(count "$scenario" $few)
    b=$(count "$scenario" $many)
    each=$(((b - a) / (many - few)))
    echo "| $scenario | $each |"
    [ -z "${PROFILE:-}" ] && continue
    functions "$scenario" $few >"$folder/few"
    functions "$scenario" $many >"$folder/many"
    awk -v requests=$((many - few)) -v each=$each '
        { count = $1; sub(/^[0-9]+ /, ""); total[$0] += (FILENAME ~ /many$/) ? count : -count }
        END { for (name in total) {
            own = total[name] / requests
            printf "%d %.1f%% %s\n", own, 100 * own / each, name
        } }' "$folder/few" "$folder/many" | sort -rn | head -n "$PROFILE"
done
