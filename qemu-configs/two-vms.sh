#!/bin/sh
# One of two virtual machines, each with a vrnic, joined by a link between the two vrnic.
#
#   vrnic serve --socket /tmp/a.sock --link shm:listen=/tmp/link      # four terminals
#   vrnic serve --socket /tmp/b.sock --link shm:connect=/tmp/link
#   SOCKET=/tmp/a.sock RUN=/tmp qemu-configs/two-vms.sh a [QEMU ARGUMENTS]
#   SOCKET=/tmp/b.sock RUN=/tmp qemu-configs/two-vms.sh b [QEMU ARGUMENTS]
#
# The guests also have a serial line between them (/dev/ttyS1 in both), over a socket in the
# folder RUN, so that programs in them can coordinate without the RDMA that they test. Start a
# first: it waits for b. Without SOCKET the machine has no vrnic.
set -eu
case ${1:-} in
a) peer="server=on,wait=on" ;;
b) peer="server=off" ;;
*)
    echo "usage: $0 a|b [QEMU ARGUMENTS]" >&2
    exit 2
    ;;
esac
shift
. "$(dirname "$0")/common.sh"

exec "$QEMU" \
    -nodefaults -no-user-config -display none -no-reboot \
    -accel "$ACCEL" -cpu "$CPU" -smp "$CPUS" \
    -m "$MEMORY" -object memory-backend-memfd,id=mem,size="$MEMORY",share=on \
    -machine q35,memory-backend=mem,kernel-irqchip=split \
    -device intel-iommu,intremap=on,caching-mode=on \
    -kernel "$KERNEL" -initrd "$INITRD" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check intel_iommu=on $APPEND" \
    -chardev "$CONSOLE,id=console" -serial chardev:console \
    -chardev "socket,id=peer,path=$RUN/peer.sock,$peer" -serial chardev:peer \
    "$@"
