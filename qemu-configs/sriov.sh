#!/bin/sh
# One virtual machine with a physical function and its virtual functions, all on one slot.
#
#   vrnic serve --vfs 4 --dir /tmp/nic          # in another terminal
#   DIR=/tmp/nic VFS=4 qemu-configs/sriov.sh [QEMU ARGUMENTS]
#
# The guest finds the physical function; the virtual ones appear when it enables them by
# sriov_numvfs. A slot has room for seven (VFS, 4 by default).
set -eu
# The functions are attached here, by other names.
unset SOCKET
. "$(dirname "$0")/common.sh"

: "${DIR:?is not set: name the folder of vrnic serve --vfs}"
: "${VFS:=4}"

# NAME NUMBER: what is served on NAME.sock as function NUMBER of the slot.
function_on() {
    printf '{"driver":"vfio-user-pci","id":"%s","bus":"slot1","addr":"0.%s","multifunction":true,"x-msg-timeout":60000,"socket":{"type":"unix","path":"%s"}}' \
        "$1" "$2" "$DIR/$1.sock"
}

# Virtual function n is function n + 1 of the slot, as the SR-IOV capability says.
n=$VFS
while [ "$n" -gt 0 ]; do
    set -- -device "$(function_on "vf$((n - 1))" "$n")" "$@"
    n=$((n - 1))
done
set -- \
    -device pcie-root-port,id=slot1,chassis=1 \
    -device "$(function_on pf0 0)" \
    "$@"

exec "$QEMU" \
    -nodefaults -no-user-config -display none -no-reboot \
    -accel "$ACCEL" -cpu "$CPU" -smp "$CPUS" \
    -m "$MEMORY" -object memory-backend-memfd,id=mem,size="$MEMORY",share=on \
    -machine q35,memory-backend=mem \
    -kernel "$KERNEL" -initrd "$INITRD" \
    -append "console=ttyS0 quiet panic=-1 no_timer_check $APPEND" \
    -chardev "$CONSOLE,id=console" -serial chardev:console \
    "$@"
