#!/bin/sh
# One virtual machine with one vrnic behind the guest's own IOMMU.
#
#   vrnic serve --socket /tmp/vrnic.sock        # in another terminal
#   SOCKET=/tmp/vrnic.sock qemu-configs/guest-iommu.sh [QEMU ARGUMENTS]
#
# The guest maps memory for the RNIC a page at a time, and a program in its user space can drive
# the RNIC by VFIO. Without SOCKET the machine has no vrnic.
set -eu
. "$(dirname "$0")/common.sh"

# The IOMMU comes before the devices behind it. caching-mode makes the guest announce every
# mapping, which is how QEMU learns what to tell the RNIC.
exec "$QEMU" \
    -nodefaults -no-user-config -display none -no-reboot \
    -accel "$ACCEL" -cpu "$CPU" -smp "$CPUS" \
    -m "$MEMORY" -object memory-backend-memfd,id=mem,size="$MEMORY",share=on \
    -machine q35,memory-backend=mem,kernel-irqchip=split \
    -device intel-iommu,intremap=on,caching-mode=on \
    -kernel "$KERNEL" -initrd "$INITRD" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check intel_iommu=on $APPEND" \
    -chardev "$CONSOLE,id=console" -serial chardev:console \
    "$@"
