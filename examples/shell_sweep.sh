#!/bin/sh
# A sweep from the shell: how small does gzip make a text at each level? One job per level, each of them a command.
#
# Needs `cluster` on the PATH. The cluster lives in a temporary folder and is gone at the end, whatever happens.
set -eu

folder=$(mktemp -d)
export CLUSTER_FILE="$folder/sweep.yaml"
trap 'cluster down; rm -rf "$folder"' EXIT
cat >"$CLUSTER_FILE" <<'YAML'
name: sweep
master: {bind: "tcp://127.0.0.1:0"}
workers: [{slots: 2}]
YAML
cat "$(dirname "$0")"/*.py >"$folder/text"
cluster up

# `submit` prints the job's id. A job starts in an empty folder, so paths are absolute; "$1" is the level.
jobs=
for level in 1 6 9; do
    id=$(cluster submit --name "level $level" --tag gzip -- sh -c 'gzip -c "-$1" "$2" | wc -c' sh "$level" "$folder/text")
    jobs="$jobs $id"
done

cluster job wait $jobs

last=$(wc -c <"$folder/text")
echo "$last bytes"
for id in $jobs; do
    size=$(cluster job logs "$id")
    echo "$size bytes"
    # A higher level makes this text no larger; if it did, the script would end here with status 1.
    test "$size" -le "$last"
    last=$size
done
