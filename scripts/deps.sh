#!/usr/bin/env bash
# Installs the Debian packages that the tests use, if they are missing and this
# user may. Where it may not, it says so and the tests that need them are skipped
# aloud; with PELTON_TEST_REQUIRE=1, as in CI, that is a failure.
set -euo pipefail

declare -A packages=([curl]=curl [jq]=jq [python3]=python3 [gcc]=gcc [redis-server]=redis-server [umount]=mount [nginx]=nginx [openssl]=openssl [tmux]=tmux [prometheus]=prometheus [ip]=iproute2 [nft]=nftables)
missing=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null 2>&1 || missing+=("${packages[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ]; then
  if [ ! -e /usr/sbin/policy-rc.d ]; then # packages do not start the services that they bring
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  echo "deps: installing ${missing[*]}" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  exit 0
fi
echo "deps: ${missing[*]} missing and not installable here; tests that need them are skipped" >&2
[ "${PELTON_TEST_REQUIRE:-}" != 1 ]
