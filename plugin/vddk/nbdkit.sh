#!/bin/bash
# Calls the real nbdkit with vmferry's VDDK plugin in the place of the word "vddk", for programs that name plugins by
# word and cannot be told a path (virt-v2v -it vddk): put this folder first in PATH. Where nbdkit has a vddk plugin of
# its own, that one is used.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)

# The next nbdkit in PATH that is not this one.
real=
while IFS= read -r candidate; do
    if [ "$(readlink -f "$candidate")" != "$here/nbdkit" ]; then
        real=$candidate
        break
    fi
done < <(type -aP nbdkit)
[ -n "$real" ] || { echo "nbdkit: $here/nbdkit found no other nbdkit in PATH; install the package nbdkit" >&2; exit 127; }

# Options of nbdkit(1) whose value is the next word; a word behind them is no plugin.
takes_value() {
    case $1 in
        -D | --debug | -e | --export | --exportname | --filter | -g | --group | -i | --ipaddr | --log | --mask-handshake | \
            -P | --pidfile | -p | --port | --run | --selinux-label | -t | --threads | --timeout | --tls | --tls-certificates | --tls-psk | \
            -U | --unix | -u | --user) return 0 ;;
    esac
    return 1
}

arguments=("$@")
for ((i = 0; i < ${#arguments[@]}; i++)); do
    word=${arguments[i]}
    if takes_value "$word"; then
        i=$((i + 1))
    elif [ "${word:0:1}" != - ]; then
        # The first word that is neither an option nor its value is the plugin.
        if [ "$word" = vddk ] && ! "$real" vddk --version >/dev/null 2>&1; then
            arguments[i]=$here/nbdkit-vddk-plugin.so
        fi
        break
    fi
done
exec "$real" ${arguments[@]+"${arguments[@]}"}
