#!/usr/bin/env bash
# Look at a build folder before a step begins, and print in one line what must not lie there; nothing where all is well.
# Use: make/check_build.sh BUILD PRUNED SEAL_KEY
set -u
export LC_ALL=C # elsewhere some bytes are in no class of characters
build=$1 pruned=$2 key=$3

complain() {
  printf 'expected %s, found %.1000s; %s\n' "$1" "$2" "$3" && exit
}

# Python looks for modules in the project's folder, and loaders for libraries in folders there that have certain names.
real=$(realpath -m -- "$build") here=$(pwd -P)
for place in "$real" "$(realpath -ms -- "$build")"; do # as it is, and as it is written
  case $place in
    "$here"/build*) ;;
    "$here" | "$here"/*) complain 'another folder, or one here whose name begins with build' "$place" 'name it' ;;
  esac
done
if [ ! -d "$build" ]; then
  [ ! -e "$build" ] || complain 'a folder' 'a file' 'name another one'
  [ ! -L "$build" ] || complain 'a folder, or a link to one' 'a link to nothing' 'make that folder'
  exit 0
fi

# A loop after a pipe runs in this shell: <(...) would need /dev/fd, and so /proc.
shopt -s lastpipe
# What find's tests match, each ended by a NUL; the build folder itself where not all of it could be looked through.
# Other runs may remove files and folders meanwhile. Passed by are root's own folder in the topmost one of a disk, and
# what the Hub's client keeps of a download of another user's: nothing looks for files there.
look() {
  local said
  { said=$(find "$build/" -ignore_readdir_race -type d ! -readable \( -path "$build/lost+found" -uid 0 \
    -o -path '*/full/checkpoint/.cache' -o -path '*/full/assistants/*/.cache' \) -prune -o \( "$@" \) \
    -print0 2>&1 >&3); } 3>&1
  [ -z "$said" ] || ! grep -qv ': No such file or directory$' <<<"$said" || printf '%s\0' "$build"
}
half_seen() {
  [ "$1" != "$build" ] || complain 'a folder that find can look through' "$build" 'see what keeps it from that'
}

# The first of them is refused, written as the shell would read it: a line end in a name is one no more.
none_of() {
  local expected=$1 advice=$2 found
  look "${@:3}" | while IFS= read -rd '' found; do
    half_seen "$found"
    # find cannot tell what has gone meanwhile from what it may not read
    [ ! -e "$found" ] && [ ! -L "$found" ] || complain "$expected" "$(printf %q "$found")" "$advice"
  done
}

# What lies in one would not be seen below.
none_of 'folders that can be listed' 'give yourself the right to' -type d ! \( -readable -executable \)

name=${pruned#"$build"}
name=${name#/}
name=${name%%/*}
# Names become words of make and of the shell, one by one or as what a pattern finds. What the Hub's client keeps of a
# download has equals signs; nothing looks for files there.
full=$build/$name/full
none_of 'names without blanks and signs that make or the shell act on' 'give it another name' \
  ! -path "$full/checkpoint/.cache/huggingface/*" ! -path "$full/assistants/*/.cache/huggingface/*" \
  ! \( ! -path "$build/$name/*" -path '*/.cache/huggingface/*' \) \
  -name '*[][[:space:][:cntrl:];:=%#&|<>(){}*?`"\\$'\'']*'

# Without its marker nothing below would have a seal, and with another one below some of it would have others. Other
# models' folders may be builds of their own.
marker=.built-by-this-project
[ ! -d "$full" ] || [ -f "$build/$marker" ] ||
  complain "its marker $marker" none "if all that lies there is yours, touch $(printf %q "$build/$marker")"
none_of 'no marker of another build' 'remove it' -path "$build/$name/*" -name "$marker"

# What make reads itself, before any step, and would wait for.
none_of 'files and folders' 'remove it' -type p
none_of 'a file of settings' 'remove that folder' -type d \
  \( -name '*settings.txt' -o -name source.txt -o -name made-from.txt -o -name samples.txt \)

# A step writes, moves, removes and copies through a link, and where one leads can change as others are made anew. One
# to a full model's checkpoint is made by a step, and no step writes there, unless the pruned model's folder is there.
# Below this model's folder there is one.
look -type l | while IFS= read -rd '' link; do
  half_seen "$link"
  place=${link#"$build"}
  place=${place#/}
  case $place in
    "$name/full/checkpoint") case $pruned/ in "$link"/*) ;; *) continue ;; esac ;;
    "$name"/*) ;;
    */full/checkpoint) continue ;;
  esac
  complain 'no link' "$(printf %q "$link")" 'remove it, or set BUILD to a folder on the other disk'
done

# Other names of the key, or of the one at its usual place: who wrote one would know the key. Its place is `key_path` of
# scripts/files/seals.py.
home=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
state=${XDG_STATE_HOME-}
case $state in (/*) ;; (*) state=$home/.local/state ;; esac
for one in "${key/#\~\//$home/}" "$state/moe-tools/seal.key"; do
  [ ! -e "$one" ] || none_of 'no link to the key of the seals' 'remove it' -type f -links +1 -samefile "$one"
done

# A file with another name elsewhere would be written there, too. Weights are only replaced, and a lock has a second
# name for a moment alone.
outside() {
  find "$build/" -ignore_readdir_race -type f -links +1 ! -name '*.gguf' ! -name '*.safetensors' ! -path '*/.locks/*' \
    -printf '%D:%i %n %p\n' 2>/dev/null | awk '{seen[$1]++; names[$1] = $2; path[$1] = $3}
      END {for (file in seen) if (seen[file] < names[file]) print path[file]}' | sort | head -n 1
}
found=$(outside)
[ -z "$found" ] || [ "$found" != "$(outside)" ] || # looked at twice: another run may be at it
  complain 'no file with another name outside of the build' "$found" 'copy it to a new file'
exit 0
