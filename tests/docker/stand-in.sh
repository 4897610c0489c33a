#!/usr/bin/env bash
# Makes the image TAG from Debian's packages: what the official slim Python image is to the Dockerfile, where no
# registry of images can be reached. Usage: stand-in.sh TAG (as root).
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
command -v debootstrap > /dev/null || { apt-get update -qq && apt-get install -y -qq debootstrap; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root"
# Slim images have none of these either.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale,info}/*
tar -C "$root" -c . | docker import --change 'CMD ["python3"]' - "$1"
