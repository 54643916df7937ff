#!/usr/bin/env bash
# Build the llama.cpp tools once, from a pinned source archive, into a cache outside the checkout.
#
# usage: scripts/build_llama_cpp.sh             build if needed, print the directory
#        scripts/build_llama_cpp.sh --where     print the directory, build nothing
#        scripts/build_llama_cpp.sh --help | --version
#
# from the environment:
#   CMAKE_ARGS       further flags, such as -DGGML_CUDA=ON (default: none)
#   CXX              C++ compiler (default c++)
#   MOE_TOOLS_CACHE  where builds are kept (default $XDG_CACHE_HOME/moe-tools, or ~/.cache/moe-tools)
#   PYTHON           interpreter whose pip fetches the archive (default .venv/bin/python beside scripts/)
#
# Inputs:  the source archive of llama-cpp-python on PyPI (it carries the whole llama.cpp tree), checked by sha256.
# Output:  CACHE/llama.cpp-VERSION-KEY/ with bin/ (llama-quantize, llama-imatrix, llama-perplexity, llama-server,
#          llama-gguf-split, llama-mtmd-cli and their libraries), convert_hf_to_gguf.py with its modules,
#          models/templates/ and, written last, llama_cpp.json (source, commit, compiler, flags).
#          KEY is made from version, archive digest, flags (CMAKE_ARGS included), compiler and processor.
# Example: scripts/build_llama_cpp.sh --where
#
# A killed build goes on where it stopped; two builds at once wait for each other. An entry without
# llama_cpp.json is never used. Upstream: https://github.com/ggml-org/llama.cpp (docs/build.md)
set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case ${1:-} in # before anything else, so that it needs no environment
  -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
  --version) cat "$REPO/VERSION"; exit ;;
esac

VERSION=0.3.36
ARCHIVE_SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
TOOLS="llama-quantize llama-imatrix llama-perplexity llama-server llama-gguf-split llama-mtmd-cli"
FLAGS="-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON -DLLAMA_CURL=OFF
  -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF
  -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON"
PYTHON=${PYTHON:-$REPO/.venv/bin/python}

die() { local said=$*; printf 'error: %s\n' "${said//[[:cntrl:]]/?}" >&2; exit 1; }

if [ -z "${MOE_TOOLS_CACHE:-}${XDG_CACHE_HOME:-}" ]; then # as home_folder of scripts/files/seals.py
  if [ -z "${HOME:-}" ]; then
    unset HOME
    HOME=~                           # that of the account
    [ "$HOME" != / ] || HOME="none" # what bash says of a user without an account
  fi
  case $HOME in
    /*) ;;
    *) die "HOME: expected the absolute path of a home folder, found $HOME; set MOE_TOOLS_CACHE" ;;
  esac
fi
CACHE=${MOE_TOOLS_CACHE:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/moe-tools}

compiler_version() { "${CXX:-c++}" --version 2>/dev/null | head -n 1 || printf 'none'; }

entry_name() {
  local cpu
  # The compiler uses what this processor has, so an entry in a shared cache must not be taken on another one. Without
  # /proc it would have another name, and all would be built anew.
  [ "$(uname)" != Linux ] || [ -r /proc/cpuinfo ] ||
    die "/proc/cpuinfo: expected what the processor can do, found no such file; mount /proc, or set LLAMA_CPP"
  cpu=$(grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null ||
        sysctl -n machdep.cpu.features 2>/dev/null || uname -m)
  printf 'llama.cpp-%s-%s\n' "$VERSION" \
    "$(printf '%s\n' "$ARCHIVE_SHA256" "$FLAGS" "${CMAKE_ARGS:-}" "$TOOLS" "$(compiler_version)" "$cpu" |
       { sha256sum 2>/dev/null || shasum -a 256; } | cut -c 1-12)"
}

# Source tree in $1/src: downloaded, checked, unpacked. By pip, whose mirrors and proxies a user has set up already.
fetch_source() {
  local work=$1
  [ -d "$work/src" ] && return
  rm -rf "$work/download" "$work/unpack"
  mkdir -p "$work/download" "$work/unpack"
  printf 'llama-cpp-python==%s --hash=sha256:%s\n' "$VERSION" "$ARCHIVE_SHA256" >"$work/download/requirements.txt"
  printf 'Fetching the llama.cpp source (llama-cpp-python %s, 77 MB) ...\n' "$VERSION" >&2
  "$PYTHON" -m pip download --quiet --no-deps --no-binary :all: --require-hashes \
    -r "$work/download/requirements.txt" -d "$work/download" >&2 ||
    die "llama-cpp-python==$VERSION: expected the archive with sha256 $ARCHIVE_SHA256 from PyPI, pip could not get it"
  tar -xz --no-same-owner -f "$work/download/llama_cpp_python-$VERSION.tar.gz" -C "$work/unpack"
  mv "$work/unpack/llama_cpp_python-$VERSION/vendor/llama.cpp" "$work/src"
  rm -rf "$work/download" "$work/unpack"
}

find_cmake() {
  if command -v cmake >/dev/null; then command -v cmake; return; fi
  "$PYTHON" -m pip install --quiet cmake==4.4.4 >&2 || die "cmake: expected on PATH or from PyPI, found neither"
  printf '%s\n' "$(dirname "$PYTHON")/cmake"
}

# Fill $1 (a staging directory) from the finished build in $2.
stage() {
  local stage=$1 work=$2
  rm -rf "$stage"
  mkdir -p "$stage/bin"
  local tool
  for tool in $TOOLS; do cp "$work/build/bin/$tool" "$stage/bin/"; done
  find "$work/build/bin" \( -name '*.so*' -o -name '*.dylib' \) -exec cp -P {} "$stage/bin/" \;
  cp -r "$work/src/convert_hf_to_gguf.py" "$work/src/conversion" "$work/src/gguf-py" "$work/src/LICENSE" "$stage/"
  mkdir -p "$stage/models"
  cp -r "$work/src/models/templates" "$stage/models/"
  "$PYTHON" - "$stage" "$VERSION" "$ARCHIVE_SHA256" "${CMAKE_ARGS:-}" "$(compiler_version)" <<'PY'
import json, subprocess, sys
stage, version, sha256, cmake_args, compiler = sys.argv[1:]
shown = subprocess.run([f"{stage}/bin/llama-server", "--version"], check=True, capture_output=True, text=True)
record = {"source": f"llama-cpp-python=={version}", "sha256": sha256, "cmake_args": cmake_args, "compiler": compiler,
          "version": (shown.stdout + shown.stderr).strip().splitlines()[0]}
with open(f"{stage}/llama_cpp.json", "w") as file:
    json.dump(record, file, indent=2)
    file.write("\n")
PY
}

build() {
  local entry=$1 work=$1.build cmake jobs
  command -v "${CXX:-c++}" >/dev/null ||
    die "${CXX:-c++}: expected a C++ compiler on PATH (Debian: apt-get install g++)"
  mkdir -p "$work"
  fetch_source "$work"
  cmake=$(find_cmake)
  jobs=$(getconf _NPROCESSORS_ONLN)
  printf 'Building the llama.cpp tools with %s jobs (about 10 minutes on 2 cores) ...\n' "$jobs" >&2
  printf '  log: %s\n' "$work/log" >&2
  # shellcheck disable=SC2086  # both are lists of flags
  "$cmake" -S "$work/src" -B "$work/build" $FLAGS ${CMAKE_ARGS:-} >"$work/log" 2>&1 ||
    die "cmake: configuration failed, see $work/log: $(tail -n 1 "$work/log")"
  # shellcheck disable=SC2086
  "$cmake" --build "$work/build" --parallel "$jobs" --target $TOOLS 2>&1 | tee -a "$work/log" |
    awk '/^\[ *[0-9]+/ {line = $0; if (++n % 20 == 0) print "  " line > "/dev/stderr"}' ||
    die "build failed, see $work/log: $(grep -m1 -E 'error|Error' "$work/log")"
  stage "$entry.stage" "$work"
  rm -rf "$entry"
  mv "$entry.stage" "$entry"
  rm -rf "$work"
}

entry=$CACHE/$(entry_name)
case ${1:-} in
  --where) ;;
  '')
    if [ ! -f "$entry/llama_cpp.json" ]; then
      mkdir -p "$CACHE"
      (umask 077; : >>"$entry.lock"; chmod 600 "$entry.lock") # whoever can open it could hold it for ever
      exec 9>>"$entry.lock"
      flock 9
      if [ ! -f "$entry/llama_cpp.json" ]; then build "$entry"; fi
    fi ;;
  *) die "${1}: expected --where, --help, --version or nothing" ;;
esac
printf '%s\n' "$entry"
