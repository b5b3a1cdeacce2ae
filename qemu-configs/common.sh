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

# The RNIC in a PCIe slot: QEMU is the client of the socket that vrnic serves. A vrnic that is stopped
# for a while must not lose it: QEMU waits so many milliseconds for an answer, 5000 by itself, and
# after that the device does not work again.
if [ -n "${SOCKET:-}" ]; then
    set -- \
        -device pcie-root-port,id=slot1,chassis=1 \
        -device '{"driver":"vfio-user-pci","id":"nic1","bus":"slot1","x-msg-timeout":60000,"socket":{"type":"unix","path":"'"$SOCKET"'"}}' \
        "$@"
fi
