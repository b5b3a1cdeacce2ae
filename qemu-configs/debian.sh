#!/bin/sh
# One of several virtual machines with a whole Debian 13, each with a vrnic that the distribution's
# RDMA programs use by our kernel module and provider.
#
#   vrnic serve --socket /tmp/a.sock --link shm:listen=/tmp/link      # four terminals
#   vrnic serve --socket /tmp/b.sock --link shm:connect=/tmp/link
#   SOCKET=/tmp/a.sock RUN=/tmp qemu-configs/debian.sh a [QEMU ARGUMENTS]
#   SOCKET=/tmp/b.sock RUN=/tmp qemu-configs/debian.sh b [QEMU ARGUMENTS]
#
# The guests start from the same read-only images, the distribution (IMAGE), another kernel of it
# if there is one (KERNEL_LAYER) and what our packages add (LAYER), and keep what they write in
# memory. They also have an ordinary network between them (virtio-net), over a socket in the folder
# RUN; start a first. With one machine alone, b is not needed. Without SOCKET the machine has no vrnic; with DIR and VFS
# instead, as in sriov.sh, it has a physical function and its virtual functions.
set -eu
role=${1:-}
case $role in
[a-h]) number=$(($(printf %d "'$role") - 96)) ;;
*)
    echo "usage: $0 a|b [QEMU ARGUMENTS]" >&2
    exit 2
    ;;
esac
shift
# Written by `cargo xtask prepare --kernel DEBIAN_KERNEL`: the images, and this guest's KERNEL and INITRD.
debian=$(dirname "$0")/../target/debian/${DEBIAN_KERNEL:-stable}/env
if [ -r "$debian" ]; then . "$debian"; fi
MEMORY=${MEMORY:-1G}
. "$(dirname "$0")/common.sh"
: "${IMAGE:?is not set: run cargo xtask prepare}"
: "${LAYER:?is not set: run cargo xtask prepare}"

case $role in
a) : "${NETDEV:=stream,server=on,addr.type=unix,addr.path=$RUN/net.sock}" ;;
b) : "${NETDEV:=stream,server=off,addr.type=unix,addr.path=$RUN/net.sock}" ;;
*) : "${NETDEV:?is not set, and needed for more than two machines}" ;;
esac

# The guest lays the disks over each other in this order.
for disk in "$LAYER" "${KERNEL_LAYER:-}" "$IMAGE"; do
    [ -n "$disk" ] || continue
    set -- \
        -drive "file=$disk,format=raw,readonly=on,if=none,id=disk$#" -device "virtio-blk-pci,drive=disk$#" \
        "$@"
done

# The controllers that are off, and the module that is not to be loaded, are what the guest would
# spend time on in vain. The virtio-serial port is how `cargo xtask` runs commands in the guest, and
# the QMP socket how it, or a person, plugs and unplugs devices (README.md).
# host_mtu is what the guest takes for its interface: room for a path MTU of 4096 with its headers.
exec "$QEMU" \
    -nodefaults -no-user-config -display none -no-reboot \
    -accel "$ACCEL" -cpu "$CPU" -smp "$CPUS" \
    -m "$MEMORY" -object memory-backend-memfd,id=mem,size="$MEMORY",share=on \
    -machine q35,memory-backend=mem,sata=off,smbus=off,i8042=off \
    -netdev "$NETDEV,id=net" \
    -device "virtio-net-pci,netdev=net,host_mtu=9000,romfile=,mac=52:54:00:00:00:0$number" \
    -qmp "unix:$RUN/$role.qmp,server=on,wait=off" \
    -device virtio-serial-pci \
    -chardev "socket,id=control,path=$RUN/$role.control,server=on,wait=off" \
    -device virtserialport,chardev=control,name=vrnic.control \
    -kernel "$KERNEL" -initrd "$INITRD" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check modprobe.blacklist=lpc_ich guest.system=shell guest.role=$role $APPEND" \
    -chardev "$CONSOLE,id=console" -serial chardev:console \
    "$@"
