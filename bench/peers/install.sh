#!/usr/bin/env bash
# Installs peers into environments of their own: install.sh PYTHON FOLDER [triton|mlserver|kserve ...]
# What cannot be installed leaves its reason in FOLDER/<peer>/failed.txt, and everything that wants it skips with that.
set -u
python=$1 folder=$2
shift 2
declare -A packages=(
    [triton]="nvidia-pytriton==0.7.0"
    [mlserver]="mlserver==1.7.1 uvloop==0.21.0"
    [kserve]="kserve==0.21.0"
)
for peer in "$@"; do
    home=$folder/$peer
    [ -e "$home/installed" ] && continue
    rm -rf "$home"
    mkdir -p "$home"
    # shellcheck disable=SC2086  (several requirements)
    if "$python" -m venv "$home" &&
        "$home/bin/pip" install --quiet --disable-pip-version-check ${packages[$peer]} 2>"$home/log.txt"; then
        touch "$home/installed"
        echo "$peer is installed"
    else
        tail -n 3 "$home/log.txt" >"$home/failed.txt"
        echo "$peer could not be installed: $(tail -n 1 "$home/failed.txt")"
    fi
done
