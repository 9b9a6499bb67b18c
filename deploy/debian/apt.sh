# shellcheck shell=bash
# What the scripts of this folder share: packages of Debian, fetched by the machine's own apt with lists, state
# and cache in a folder of the script's, so that no root is needed and nothing of the machine's is touched.
# Sourced, never run.
#
# Every byte is held against Debian's signature by apt. Nothing here turns that off, and of the machine's own
# configuration of apt only how it reaches a mirror is taken over: lists that are too old are refused, as are those
# of a time to come.
#
# DEBIAN_MIRROR names the mirror to use: by default the one that the machine uses, else deb.debian.org; and
# DEBIAN_SECURITY_MIRROR the one of security updates.
# DEBIAN_PACKAGES names a list that an earlier run made: those very packages are taken, or none. A list holds the hash of
# each, so that the age of a mirror's lists means nothing then, and https://snapshot.debian.org will do.

suite=trixie
mirror_of_last_resort=http://deb.debian.org/debian
security_mirror=${DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
pinned=${DEBIAN_PACKAGES:-}

me=$(basename "$0")
say() { printf '%s: %s\n' "$me" "$*" >&2; }
# fail WHAT [CURE [STATUS]]: 1 by default; 3 where Debian cannot be reached.
fail() {
  say "error: $1"
  [[ -z ${2:-} ]] || say "hint: $2"
  exit "${3:-1}"
}
usage() {
  sed -nE '2,/^[^#]/s/^# ?//p' "$0" >&2
  exit 2
}
trap 'fail "line $LINENO: this was not to fail: $BASH_COMMAND"' ERR

# debian_name ARCHITECTURE: what Debian calls it.
debian_name() {
  case $1 in
    x86_64 | amd64) echo amd64 ;;
    arm64 | aarch64) echo arm64 ;;
    *) return 1 ;;
  esac
}
# triplet ARCHITECTURE, loader ARCHITECTURE: where Debian keeps its libraries, and the path of its ld.so.
triplet() { if [[ $1 == amd64 ]]; then echo x86_64-linux-gnu; else echo aarch64-linux-gnu; fi; }
loader() { if [[ $1 == amd64 ]]; then echo usr/lib64/ld-linux-x86-64.so.2; else echo usr/lib/ld-linux-aarch64.so.1; fi; }

# --- what a script makes: made beside its place and renamed, so that what is there is whole ---

# begin PLACE MIB LIST REQUEST: ends the script if PLACE is there and LIST, the packages that it was made from, is for
# that request and is the one that was asked for. Otherwise sets final and part, an empty folder, having looked
# whether there is that much room. Of two
# scripts that make the same, one waits for the other.
begin() {
  local folder free
  if [[ -n $pinned ]]; then
    [[ -r $pinned ]] || fail "DEBIAN_PACKAGES: $pinned cannot be read" "name a list of packages that an earlier run made"
    [[ $(head -n 1 "$pinned") == "# $4" ]] ||
      fail "DEBIAN_PACKAGES: $pinned is for \"$(head -n 1 "$pinned" | cut -c3-)\", and this is \"$4\"" "name a list for that"
  fi
  folder=$(dirname "$1") list=$3 request=$4
  mkdir -p "$folder" || fail "$folder cannot be made" "name a folder that you may write to"
  final=$(cd "$folder" && pwd)/$(basename "$1")
  [[ $final != *[\":\;\\]* ]] || fail "$final has a character that apt or ld.so cannot take" "name another folder"
  part=${final%/*}/.${final##*/}.part
  exec {lock}>"${final%/*}/.${final##*/}.lock" || fail "$folder cannot be written to" "name a folder that you may write to"
  flock "$lock"
  if [[ -e $final && -e $list && $(head -n 1 "$list") == "# $request" ]] &&
    { [[ -z $pinned ]] || cmp -s "$pinned" "$list"; }; then
    say "$final is there already; remove it to fetch it again"
    exit 0
  fi
  rm -rf "$part"
  mkdir "$part"
  trap 'rm -rf "$part"' EXIT
  free=$(($(df --output=avail -k "$part" | tail -n 1) / 1024))
  ((free >= $2)) || fail "$folder has $free MiB of room, and this takes $2" "make room, or name another folder"
}
# finish FILE: what is in part becomes final.
finish() {
  rm -rf "$apt" "$final"
  mv -T "$1" "$final"
  say "$final is ready"
}

# --- apt, with everything of its own ---

# keyring: the file with the keys of Debian's archive. A machine that is not Debian has it in a package, which apt
# takes from the machine's own archive under the machine's own keys.
keyring() {
  local folder found=
  for folder in "" "$apt/keyring"; do
    for found in "$folder"/usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
      if [[ -r $found ]]; then echo "$found"; return; fi
    done
    [[ -z $folder ]] || return 1
    mkdir -p "$apt/keyring"
    (cd "$apt/keyring" && apt-get download debian-archive-keyring && dpkg-deb -x debian-archive-keyring_*.deb .) >>"$log" 2>&1 || true
  done
}

# open_apt ARCHITECTURE…: from here on apt-get and apt-cache work for these, on lists that are fresh. A package without
# ":ARCHITECTURE" is of the first.
open_apt() {
  local tool keys mirrors
  apt=$part/.apt log=$part/.apt/log
  for tool in apt-get apt-cache dpkg-deb; do
    [[ -n $(type -P "$tool") ]] || fail "this machine has no $tool: it is neither Debian nor Ubuntu" \
      "run this on one of them, or in a container of theirs, and take the folder from there"
  done
  mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,sources}
  : >"$log"
  : >"$apt/status"
  # What is to be taken, before anything newer or older.
  if [[ -n $pinned ]]; then
    awk '!/^#/ { printf "Package: %s%s\nPin: version %s\nPin-Priority: 1001\n\n", $1, ($3 == "all" ? "" : ":" $3), $2 }' "$pinned"
  fi >"$apt/preferences"
  keys=$(keyring) || fail "the keys of Debian's archive are not on this machine" "apt-get install debian-archive-keyring"
  mirrors=$(own_mirrors)
  # The machine's own configuration is read for the last time. Whether it takes lists that are too old is left out.
  apt-config dump | grep -E '^Acquire::(http|https|ForceIPv[46])\b' >"$apt/apt.conf" || true
  cat >>"$apt/apt.conf" <<END
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Log "$apt";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
Dir::Etc::preferences "$apt/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
APT::Architecture "$1";
APT::Architectures { $(printf '"%s"; ' "$@")};
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::Check-Valid-Until "$([[ -n $pinned ]] && echo false || echo true)";
Acquire::Check-Date "true";
Acquire::Languages "none";
Acquire::Retries "2";
END
  export APT_CONFIG=$apt/apt.conf LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
  refresh "$keys" "$mirrors"
}

# own_mirrors: where to try to get Debian from, one mirror a line.
own_mirrors() {
  if [[ -n ${DEBIAN_MIRROR:-} ]]; then
    echo "$DEBIAN_MIRROR"
  else
    # shellcheck disable=SC2016 # apt replaces it
    { apt-get indextargets --format '$(REPO_URI)' 2>/dev/null || true; echo "$mirror_of_last_resort"; } |
      sed 's,/*$,,' | grep -E '/debian$' | awk '!seen[$0]++'
  fi
}

# refresh KEYS MIRRORS: reads the lists of the first mirror that has them, and of the security updates if these can be had.
refresh() {
  local mirror found=
  for mirror in $2; do
    source_of "$mirror" "$suite $suite-updates $suite-backports" "$1" >"$apt/sources/debian.sources"
    if apt-get update -q >>"$log" 2>&1; then found=$mirror; break; fi
  done
  [[ -n $found ]] || because "Debian's lists of packages cannot be had from ${2//$'\n'/ or }" 3
  source_of "$security_mirror" "$suite-security" "$1" >"$apt/sources/security.sources"
  if ! apt-get update -q >>"$log" 2>&1; then
    rm "$apt/sources/security.sources"
    say "warning: $security_mirror cannot be reached: security updates since the last point release are not among the packages"
  fi
  say "packages of $suite from $found"
}
source_of() { printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$@"; }

# because WHAT [STATUS]: fails, with what apt said and what cures it.
because() {
  local cure="look at what apt says, above" said
  said=$(grep -E '^(E|W|Err|Ign)|^ .*Depends:|^(tar|dpkg-deb):' "$log" | tail -n 6 || true)
  [[ -z $said ]] || printf '%s\n' "$said" >&2
  if grep -q 'No space left\|enough free space' <<<"$said"; then
    cure="make room on the disk of $apt"
  elif grep -q 'NO_PUBKEY\|not signed\|Missing key\|EXPKEYSIG' <<<"$said"; then
    cure="the keys of Debian's archive on this machine are too old for $suite: apt-get install debian-archive-keyring"
  elif grep -q 'is expired\|not valid yet' <<<"$said"; then
    cure="that mirror's lists, or this machine's clock, are old: name another mirror in DEBIAN_MIRROR, or set the clock"
  elif grep -qi 'resolv\|connect\|timed out\|unreachable' <<<"$said"; then
    cure="the network does not let this machine through: name a mirror that it reaches in DEBIAN_MIRROR"
  elif grep -q '404\|Depends:\|Unable to locate\|not found' <<<"$said"; then
    cure="that mirror does not hold $suite whole: name another in DEBIAN_MIRROR"
  fi
  fail "$1" "$cure" "${2:-1}"
}

# pretend PACKAGE…: these count as installed. Maintainer scripts need them, and nothing runs these.
pretend() {
  printf 'Package: %s\nStatus: install ok installed\nArchitecture: all\nMulti-Arch: foreign\nVersion: 99:0\n\n' "$@" >>"$apt/status"
}
# fetch [-t SUITE] PACKAGE…: with all that they depend on, from that suite where it has them.
fetch() {
  apt-get install -q -y --download-only "$@" >>"$log" 2>&1 || because "$* cannot be had"
}
# fetch_alone PACKAGE…: and nothing that they depend on.
fetch_alone() {
  (cd "$apt/cache/archives" && apt-get download -q "$@") >>"$log" 2>&1 || because "$* cannot be had"
}
# needs PACKAGE: what a package that holds nothing itself stands for.
needs() { apt-cache depends --important "$1" | sed -nE 's/^ *Depends: //p'; }
# fetched: the packages that were fetched so far, one file a line.
fetched() { find "$apt/cache/archives" -maxdepth 1 -name '*.deb' | LC_ALL=C sort; }
# packages LIST: writes the same as text: name, version, architecture and SHA-256 of each, below the request. Where a list
# was asked for, they are those of it, or nothing of them is used.
packages() {
  local file other
  {
    printf '# %s\n' "$request"
    while IFS= read -r file; do
      # shellcheck disable=SC2016 # dpkg-deb replaces it
      dpkg-deb --show --showformat '${Package} ${Version} ${Architecture} ' "$file"
      sha256sum <"$file" | cut -d' ' -f1
    done < <(fetched)
  } >"$1"
  [[ -n $pinned ]] && ! cmp -s "$pinned" "$1" || return 0
  other=$(diff "$pinned" "$1" | grep '^[<>]' | head -n 6 | sed 's/^</asked for:/; s/^>/there is: /' | cut -c1-100 || true)
  printf '%s\n' "$other" >&2
  other=https://snapshot.debian.org/archive
  fail "the mirror does not have the packages of $pinned" \
    "name one of the day of that list: DEBIAN_MIRROR=$other/debian/DATE DEBIAN_SECURITY_MIRROR=$other/debian-security/DATE"
}
# unpack FOLDER FILE…: a package's files without running anything of it. Links of FOLDER to folders stay what they are.
unpack() {
  local file
  mkdir -p "$1"
  for file in "${@:2}"; do
    dpkg-deb --fsys-tarfile "$file" | tar -x -p -f - -C "$1" --keep-directory-symlink --no-same-owner 2>>"$log" ||
      because "unpacking ${file##*/} does not work"
  done
}
