#!/usr/bin/env bash
# Look at a build folder before a step begins, and print in one line what must not lie there; nothing where all is well.
# Use: make/check_build.sh BUILD PRUNED SEAL_KEY
set -u
export LC_ALL=C # elsewhere some bytes are in no class of characters
build=$1 pruned=$2 key=$3
[ -d "$build" ] || exit 0

# The first that find's tests match, written as the shell would read it: a line end in a name is one no more.
first() {
  find "$build/" "$@" -exec bash -c 'printf %q "$1"' - {} \; -quit 2>/dev/null
}

complain() {
  [ -z "$2" ] || { printf 'expected %s, found %s; %s\n' "$1" "$2" "$3" && exit; }
}

# What lies in one would not be seen below.
complain 'folders that can be listed' "$(first -type d ! \( -readable -executable \))" 'give yourself the right to'

# Names become words of make and of the shell, one by one or as what a pattern finds. What the Hub's client keeps of a
# download has equals signs; nothing looks for files there.
complain 'names without blanks and signs that make or the shell act on' \
  "$(first ! -path '*/.cache/huggingface/*' -name '*[][[:space:][:cntrl:];:=%#&|<>(){}*?`"\\$'\'']*')" \
  'give it another name'

# A step writes, moves and removes through a link to a folder. One to a full model's checkpoint is made by a step, and
# no step writes there, unless the pruned model's folder has that very name.
outside=$(find "$build/" -type l -exec bash -c '
  for link in "${@:3}"; do
    case $2/ in ("$link"/*) printf %q "$link" && exit ;; esac
    case $link in (*/full/checkpoint) continue ;; esac
    case $(realpath -m -- "$link") in ("$1"/*) ;; (*) printf %q "$link" && exit ;; esac
  done' - "$(realpath -- "$build")" "$pruned" {} + 2>/dev/null)
complain 'no link that leads out of it' "$outside" "remove it, or set BUILD to a folder on the other disk"

# The key's other names: who wrote one would know the key. Its place is `key_path` of scripts/files/seals.py.
state=${XDG_STATE_HOME-}
case $state in (/*) ;; (*) state=${HOME-}/.local/state ;; esac
key=${key/#\~\//${HOME-}/}
complain 'no link to the key of the seals' \
  "$(first -type f -links +1 -samefile "${key:-$state/moe-tools/seal.key}")" 'remove it'
exit 0
