#!/bin/sh
# One virtual machine without a vrnic, whose Linux Soft-RoCE (rdma_rxe on virtio-net) is on the
# wire of a vrnic.
#
#   vrnic serve --socket /tmp/vrnic.sock --link stream:listen=/tmp/link.sock  # two terminals
#   RUN=/tmp qemu-configs/softroce.sh [QEMU ARGUMENTS]
#
# QEMU puts the guest's Ethernet frames on the stream that the vrnic is plugged into, as they are.
# A virtio-serial port (/dev/virtio-ports/peer in the guest) ends in a socket in the folder RUN, so
# that the program in the guest and the one that drives the vrnic can talk. README.md says what to
# run on both sides.
set -eu
: "${INITRD:=${VRNIC_VM_DIR:-$(dirname "$0")/../target/vm}/softroce-initramfs.cpio}"
# The machine itself has none.
SOCKET=
. "$(dirname "$0")/common.sh"

# host_mtu is what the guest takes for its interface: room for a path MTU of 4096 with its headers.
exec "$QEMU" \
    -nodefaults -no-user-config -display none -no-reboot \
    -accel "$ACCEL" -cpu "$CPU" -smp "$CPUS" -m "$MEMORY" -machine q35 \
    -netdev "stream,id=wire,server=off,addr.type=unix,addr.path=$RUN/link.sock" \
    -device virtio-net-pci,netdev=wire,host_mtu=9000,romfile= \
    -device virtio-serial-pci \
    -chardev "socket,id=peer,path=$RUN/peer.sock,server=on,wait=off" \
    -device virtserialport,chardev=peer,name=peer \
    -kernel "$KERNEL" -initrd "$INITRD" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check $APPEND" \
    -chardev "$CONSOLE,id=console" -serial chardev:console \
    "$@"
