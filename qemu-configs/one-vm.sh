#!/bin/sh
# One virtual machine with one vrnic.
#
#   vrnic serve --socket /tmp/vrnic.sock        # in another terminal
#   SOCKET=/tmp/vrnic.sock qemu-configs/one-vm.sh [QEMU ARGUMENTS]
#
# Without SOCKET the machine has no vrnic.
set -eu
. "$(dirname "$0")/common.sh"

# Guest memory is a file that the RNIC maps (share=on): its DMA is plain loads and stores.
exec "$QEMU" \
    -nodefaults -no-user-config -display none -no-reboot \
    -accel "$ACCEL" -cpu "$CPU" -smp "$CPUS" \
    -m "$MEMORY" -object memory-backend-memfd,id=mem,size="$MEMORY",share=on \
    -machine q35,memory-backend=mem \
    -kernel "$KERNEL" -initrd "$INITRD" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check $APPEND" \
    -chardev "$CONSOLE,id=console" -serial chardev:console \
    "$@"
