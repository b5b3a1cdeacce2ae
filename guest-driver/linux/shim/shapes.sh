#!/bin/sh
# SPDX-License-Identifier: GPL-2.0 OR MIT
#
# shapes.sh CC FLAGS...
#
# Prints a C header that says which shape the interface of this kernel has, where kernels differ:
# a macro VRNIC_HAS_NAME for each shape that its headers have. They are asked by compiling against
# them, whatever the version, as distributions take changes over from later ones. The Rust part
# gets the same as `cfg(kernel = "name")`. What is made of it is in compat.h and in
# src/kernel/compat.rs, and a comment there says what each shape means.
set -e

# Whether a declaration compiles.
compiles() {
	declaration=$1
	shift
	printf '#include <linux/kconfig.h>\n#include <rdma/ib_umem.h>\n#include <rdma/ib_verbs.h>\n%s;\n' "$declaration" |
		"$@" -w -fsyntax-only -x c -
}

# What does not compile must fail for what is asked, and for nothing else.
compiles 'extern int nothing' "$@"

shape() {
	name=$1
	declaration=$2
	shift 2
	if compiles "$declaration" "$@" 2>/dev/null; then
		printf '#define VRNIC_HAS_%s\n' "$name"
	fi
}

ops='((struct ib_device_ops *)0)'

echo '/* Made by shapes.sh from the headers of one kernel. */'
shape IB_UMEM_GET_VA 'extern typeof(&ib_umem_get_va) shape' "$@"
shape CREATE_USER_CQ "extern typeof($ops->create_user_cq) shape" "$@"
shape RESIZE_USER_CQ "extern typeof($ops->resize_user_cq) shape" "$@"
shape REG_USER_MR_DMAH "_Static_assert(__builtin_types_compatible_p(
	typeof($ops->reg_user_mr),
	struct ib_mr *(*)(struct ib_pd *, u64, u64, u64, int, struct ib_dmah *, struct ib_udata *)),
	\"its arguments\")" "$@"
shape REPORT_PORT_EVENT "extern typeof($ops->report_port_event) shape" "$@"
shape DEVLINK '_Static_assert(IS_ENABLED(CONFIG_NET_DEVLINK), "built into the kernel")' "$@"
