# Defaults for the environment of a scenario, and the RNIC. Sourced, not run, by a file whose
# arguments are those for QEMU; README.md explains the variables.

vm=${VRNIC_VM_DIR:-$(dirname "$0")/../target/vm}
# Written by `cargo xtask prepare`: QEMU, KERNEL, INITRD and ACCEL, unless they are set already.
if [ -r "$vm/env" ]; then . "$vm/env"; fi

: "${QEMU:=qemu-system-x86_64}"
: "${KERNEL:?is not set: run cargo xtask prepare, or name a kernel}"
: "${INITRD:?is not set: run cargo xtask prepare, or name an initramfs}"
: "${ACCEL:=tcg}"
: "${MEMORY:=512M}"
: "${CPUS:=1}"
: "${RUN:=.}"
: "${CONSOLE:=stdio,mux=on,signal=off}"
: "${APPEND:=}"

case $ACCEL in
kvm) CPU=host ;;
*) CPU=max ;;
esac

# SOCKET ID [PROPERTIES]: the RNIC in a PCIe slot. QEMU is the client of the socket that vrnic serves. A
# vrnic that is stopped for a while must not lose it: QEMU waits so many milliseconds for an answer,
# 5000 by itself, and after that the device does not work again.
rnic() {
    printf '{"driver":"vfio-user-pci","id":"%s","bus":"slot1",%s"x-msg-timeout":60000,"socket":{"type":"unix","path":"%s"}}' \
        "$2" "${3:-}" "$1"
}

# NAME NUMBER: what is served on NAME.sock in the folder DIR, as function NUMBER of the slot.
function_on() {
    rnic "$DIR/$1.sock" "$1" '"addr":"0.'"$2"'","multifunction":true,'
}

if [ -n "${VFS:-}" ]; then
    # Virtual function n is function n + 1 of the slot, as the SR-IOV capability says.
    : "${DIR:?is not set: name the folder of vrnic serve --vfs}"
    n=$VFS
    while [ "$n" -gt 0 ]; do
        set -- -device "$(function_on "vf$((n - 1))" "$n")" "$@"
        n=$((n - 1))
    done
    set -- -device pcie-root-port,id=slot1,chassis=1 -device "$(function_on pf0 0)" "$@"
elif [ -n "${SOCKET:-}" ]; then
    set -- -device pcie-root-port,id=slot1,chassis=1 -device "$(rnic "$SOCKET" nic1)" "$@"
fi
