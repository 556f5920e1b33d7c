// The programs of the Linux guest that are not busybox. They do, small, what
// their Debian namesakes do, because virt-v2v runs them inside the guest. As in
// Debian, DPKG_ROOT names the root of a system that is being installed from
// outside.
package guest

// The first process. Its last line on the console is what a proof waits for.
const initScript = `#!/bin/sh
# Checks everything this guest has, says what came of it and switches the machine off.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
damage=
total=0
complain() {
    echo "guest: $*"
    damage=yes
}

# check FOLDER: the files that its manifest names.
check() {
    if [ ! -s "$1/MANIFEST.sha256" ]; then
        complain "$1/MANIFEST.sha256 is missing"
        return
    fi
    if wrong=$(cd "$1" && sha256sum -c MANIFEST.sha256 2>&1 | grep -v ': OK$'); then
        complain "in $1: $wrong"
    fi
    count=$(wc -l <"$1/MANIFEST.sha256")
    echo "guest: checked $count files in $1"
    total=$((total + count))
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -c /dev/null ] || mount -t devtmpfs devtmpfs /dev
dmesg -n 1
hostname -F /etc/hostname
echo "guest: $(hostname) runs Linux $(uname -r)"

# A disk that cannot be written is not right either.
{ mount -o remount,rw / && date >>/var/log/started.log; } || complain "/ cannot be written"
check /
for folder in $(awk '$1 !~ /^#/ && $2 != "/" { print $2 }' /etc/fstab); do
    if mount "$folder"; then
        check "$folder"
    else
        complain "what /etc/fstab names for $folder cannot be mounted"
    fi
done
sync
umount -a -r 2>/dev/null
if [ -n "$damage" ]; then
    echo "guest: DAMAGED"
else
    echo "guest: $total files intact"
fi
sleep 1 # for the serial line
poweroff -f
`

// The first process of the initramfs.
const initramfsScript = `#!/bin/sh
# Loads the modules that update-initramfs put in, waits for the root file system and hands over to its init.
PATH=/bin
export PATH
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
give_up() {
    echo "guest: $*"
    echo "guest: DAMAGED"
    sleep 1
    poweroff -f
}
root=
for word in $(cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=} ;;
    esac
done
while read -r module; do
    modprobe "$module" 2>/dev/null # no harm: another controller's
done </etc/modules

device() {
    case $root in
        *=*) findfs "$root" 2>/dev/null ;;
        *) [ -b "$root" ] && echo "$root" ;;
    esac
}
tries=0
until found=$(device); do
    tries=$((tries + 1))
    [ "$tries" -lt 40 ] || give_up "no disk has the root file system $root"
    sleep 0.25
done
mount -t ext4 -o ro "$found" /root || give_up "$found cannot be mounted"
mount --move /dev /root/dev
umount /proc /sys
exec switch_root /root /sbin/init
`

const updateInitramfsScript = `#!/bin/sh
# update-initramfs -c|-u [-v] [-k VERSION]: makes /boot/initrd.img-VERSION of busybox and of the modules that
# /etc/initramfs-tools/modules names, with all they depend on.
set -e
set -o pipefail
root=${DPKG_ROOT:-}
version=
while [ $# -gt 0 ]; do
    case $1 in
        -k) version=$2; shift ;;
        -c | -u | -v) ;; # always all of it
        *) echo "update-initramfs: what is $1?" >&2; exit 1 ;;
    esac
    shift
done
[ -n "$version" ] || version=$(ls "$root/lib/modules" | tail -n 1)
modules=$root/lib/modules/$version
[ -f "$modules/modules.dep" ] || { echo "update-initramfs: there is no kernel $version" >&2; exit 1; }
echo "update-initramfs: Generating /boot/initrd.img-$version"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
within=$work/lib/modules/$version
mkdir -p "$work/bin" "$work/etc" "$within"
cp "$root/bin/busybox" "$work/bin/busybox"
ln -s busybox "$work/bin/sh"
cp "$root/usr/share/initramfs-tools/init" "$work/init"
cp "$modules"/modules.* "$within/"
awk '$1 !~ /^#/ && NF { print $1 }' "$root/etc/initramfs-tools/modules" >"$work/etc/modules"
# The first file read has the wanted names, the second one a line "FILE: WHAT IT NEEDS..." for each module.
awk '
    { gsub("-", "_", $1) }
    FNR == NR { wanted[$1]; next }
    { name = $1; sub(":$", "", name); sub(".*/", "", name); sub("[.]ko.*", "", name) }
    name in wanted { print FNR }
' "$work/etc/modules" "$modules/modules.dep" | while read -r number; do
    sed -n "${number}s/://p" "$modules/modules.dep" | tr ' ' '\n'
done | sort -u | while read -r file; do
    [ -n "$file" ] || continue
    mkdir -p "$within/${file%/*}"
    cp "$modules/$file" "$within/$file"
done
(cd "$work" && find . | sort | cpio -o -H newc 2>/dev/null) | gzip >"$root/boot/initrd.img-$version.new"
mv "$root/boot/initrd.img-$version.new" "$root/boot/initrd.img-$version"
`

const grubMkconfigScript = `#!/bin/sh
# grub-mkconfig [-o FILE]: the menu for the kernels in /boot, with the root device that /etc/fstab names.
set -e
root=${DPKG_ROOT:-}
out=/dev/stdout
[ "$1" != -o ] || out=$root$2
. "$root/etc/default/grub"
device=$(awk '$1 !~ /^#/ && $2 == "/" { print $1 }' "$root/etc/fstab")
{
    echo "# Made by grub-mkconfig of /etc/default/grub and /etc/fstab."
    echo "set timeout=$GRUB_TIMEOUT"
    for image in "$root"/boot/vmlinuz-*; do
        version=${image##*/vmlinuz-}
        echo "menuentry '$GRUB_DISTRIBUTOR, with Linux $version' {"
        echo "    linux /boot/vmlinuz-$version root=$device ro $GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT"
        [ ! -f "$root/boot/initrd.img-$version" ] || echo "    initrd /boot/initrd.img-$version"
        echo "}"
    done
} >"$out"
`

const updateGrubScript = `#!/bin/sh
exec /usr/sbin/grub-mkconfig -o /boot/grub/grub.cfg
`

const dpkgScript = `#!/bin/sh
# dpkg -L PACKAGE, dpkg -S PATH: what /var/lib/dpkg knows. It installs and removes nothing.
info=${DPKG_ROOT:-}/var/lib/dpkg/info
case $1 in
    --version) echo "Debian 'dpkg' package management program version 1.21 (amd64), as far as this guest needs it." ;;
    --print-architecture) echo amd64 ;;
    -L | --listfiles)
        [ -f "$info/$2.list" ] || { echo "dpkg-query: package '$2' is not installed" >&2; exit 1; }
        cat "$info/$2.list"
        ;;
    -S | --search)
        for list in "$info"/*.list; do
            if grep -qxF -e "$2" "$list"; then
                name=${list##*/}
                echo "${name%.list}: $2"
                exit 0
            fi
        done
        echo "dpkg-query: no path found matching pattern $2" >&2
        exit 1
        ;;
    *) echo "dpkg: this guest has no $1" >&2; exit 2 ;;
esac
`
