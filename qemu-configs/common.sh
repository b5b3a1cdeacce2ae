# Defaults for the environment of a scenario. Sourced, not run; README.md explains the variables.

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
