#!/usr/bin/env bash
# Installs a Vulkan driver that computes on the CPU (Mesa's lavapipe, 25 or newer), so that tests have a WebGPU adapter.
# Does nothing where there is one already. Debian's stable Mesa may be too old for Dawn: then the suite for backports of
# the same archive is used, whose address comes from the machine's own source list. Exits with 1, after saying why, when
# it cannot be installed.
set -euo pipefail

needed=25

installed() {
  dpkg-query -W -f='${Status} ${Version}' mesa-vulkan-drivers 2>/dev/null | sed -n 's/^install ok installed \(.*:\)\?\([0-9]*\).*/\2/p'
}

# The version that apt would install, from the release $1 where one is named.
candidate() {
  apt-cache policy ${1:+-t "$1"} mesa-vulkan-drivers 2>/dev/null | sed -n 's/^ *Candidate: \(.*:\)\?\([0-9]*\).*/\2/p'
}

fail() {
  echo "no software Vulkan: $1" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" mesa-vulkan-drivers libvulkan1 >"$log" 2>&1
}

# URIs and Signed-By of the entry of the source lists that has the suite $1, as lines of a deb822 file.
archive_of() {
  awk -v suite="$1" '
    function entry() { if (types ~ /(^| )deb( |$)/ && uris != "" && (" " suites " ") ~ (" " suite " ") && !told) {
      print "URIs: " uris; if (key != "") print "Signed-By: " key; told = 1 } types = uris = suites = key = "" }
    FNR == 1 { entry() }
    /^[[:space:]]*$/ { entry(); next }
    /^Types:/ { sub(/^[^:]*:[[:space:]]*/, ""); types = $0; next }
    /^URIs:/ { sub(/^[^:]*:[[:space:]]*/, ""); uris = $0; next }
    /^Suites:/ { sub(/^[^:]*:[[:space:]]*/, ""); suites = $0; next }
    /^Signed-By:/ { sub(/^[^:]*:[[:space:]]*/, ""); key = $0; next }
    /^deb[[:space:]]/ {
      line = $0; options = ""
      if (match(line, /\[[^]]*\]/)) { options = substr(line, RSTART + 1, RLENGTH - 2); line = substr(line, 1, RSTART - 1) substr(line, RSTART + RLENGTH) }
      split(line, part, /[[:space:]]+/)
      if (part[3] == suite && !told) {
        print "URIs: " part[2]
        if (match(options, /signed-by=[^ ]*/)) print "Signed-By: " substr(options, RSTART + 10, RLENGTH - 10)
        told = 1
      }
    }
    END { entry() }' "${lists[@]}"
}

if [ "${1:-}" = --archive ]; then
  # For the test: only says what it would use for the suite $2, from the lists that follow.
  suite="$2"
  lists=("${@:3}")
  archive_of "$suite"
  exit 0
fi

if [ "$(installed || true)" != "" ] && [ "$(installed)" -ge "$needed" ] && ldconfig -p 2>/dev/null | grep -q libvulkan.so.1; then exit 0; fi
command -v apt-get >/dev/null || fail "this system has no apt; install Mesa $needed or newer with its Vulkan drivers"
if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then fail "installing it takes root"; fi

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
as_root apt-get update -q >"$log" 2>&1 || echo "apt-get update: $(tail -n 1 "$log")" >&2

if [ "$(candidate)" != "" ] && [ "$(candidate)" -ge "$needed" ]; then
  install || fail "$(tail -n 1 "$log")"
  exit 0
fi

codename="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"
backports="$codename-backports"
if [ "$(candidate "$backports")" = "" ] || [ "$(candidate "$backports")" -lt "$needed" ]; then
  shopt -s nullglob
  lists=(/etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list)
  [ -f /etc/apt/sources.list ] && lists+=(/etc/apt/sources.list)
  [ ${#lists[@]} -gt 0 ] || fail "apt has no source lists"
  archive="$(archive_of "$codename")"
  [ -n "$archive" ] || fail "no source list has the suite $codename"
  printf 'Types: deb\n%s\nSuites: %s\nComponents: main\n' "$archive" "$backports" | as_root tee /etc/apt/sources.list.d/backports-for-vulkan.sources >/dev/null
  as_root apt-get update -q >"$log" 2>&1 || fail "$(tail -n 1 "$log")"
fi
install -t "$backports" || fail "$(tail -n 1 "$log")"
[ "$(installed)" -ge "$needed" ] || fail "version $(installed) was installed, and Dawn takes $needed or newer"
