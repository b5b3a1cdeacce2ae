#!/bin/sh
# One virtual machine with a physical function and its virtual functions, all on one slot.
#
#   vrnic serve --vfs 4 --dir /tmp/nic          # in another terminal
#   DIR=/tmp/nic VFS=4 qemu-configs/sriov.sh [QEMU ARGUMENTS]
#
# The guest finds the physical function; the virtual ones appear when it enables them by
# sriov_numvfs. A slot has room for seven (VFS, 4 by default).
set -eu
: "${VFS:=4}"
. "$(dirname "$0")/common.sh"

exec "$QEMU" \
    -nodefaults -no-user-config -display none -no-reboot \
    -accel "$ACCEL" -cpu "$CPU" -smp "$CPUS" \
    -m "$MEMORY" -object memory-backend-memfd,id=mem,size="$MEMORY",share=on \
    -machine q35,memory-backend=mem \
    -kernel "$KERNEL" -initrd "$INITRD" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check $APPEND" \
    -chardev "$CONSOLE,id=console" -serial chardev:console \
    "$@"
