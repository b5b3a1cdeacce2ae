#!/bin/sh
# One virtual machine whose memory the RNIC cannot map.
#
#   vrnic serve --socket /tmp/vrnic.sock        # in another terminal
#   SOCKET=/tmp/vrnic.sock qemu-configs/unshared-memory.sh [QEMU ARGUMENTS]
#
# Every DMA of the RNIC is a message that QEMU answers: slow, and needs nothing from the host.
# The guest has its own IOMMU, as in guest-iommu.sh. Without SOCKET the machine has no vrnic.
set -eu
. "$(dirname "$0")/common.sh"

# -m alone is anonymous memory of QEMU's own.
exec "$QEMU" \
    -nodefaults -no-user-config -display none -no-reboot \
    -accel "$ACCEL" -cpu "$CPU" -smp "$CPUS" -m "$MEMORY" \
    -machine q35,kernel-irqchip=split \
    -device intel-iommu,intremap=on,caching-mode=on \
    -kernel "$KERNEL" -initrd "$INITRD" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check intel_iommu=on $APPEND" \
    -chardev "$CONSOLE,id=console" -serial chardev:console \
    "$@"
