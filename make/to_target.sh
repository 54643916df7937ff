#!/usr/bin/env bash
# Write standard input into a target of make: whole or not at all, also after a power cut, and never through a link,
# which would write over what it leads to. Two runs at once write the same, each under a name of its own.
# Use: make/to_target.sh TARGET
set -eu
folder=$(dirname -- "$1") name=$(basename -- "$1")
# A container can have the host's name and processes of its own.
own=.$name.$({ uname -n; readlink /proc/self/ns/pid || :; } | sha256sum | cut -c 1-8)
# What killed runs of this user have left on this host: those of others cannot be asked whether they live.
for left in "$folder/$own"-*.new; do
  pid=${left##*-}
  [ ! -O "$left" ] || kill -0 "${pid%.new}" 2>/dev/null || rm -f -- "$left"
done
new=$folder/$own-$$.new
rm -f -- "$new"
set -C # through no link: only into a file that is not there
cat >"$new"
sync -- "$new"
mv -f -- "$new" "$1"
sync -- "$folder"
