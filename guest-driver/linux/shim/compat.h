/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Where kernels differ in what the C part calls; src/kernel/compat.rs is the same for the Rust part.
 * shapes.sh finds out which shape this kernel has. The older shape is the one without a macro.
 */
#ifndef VRNIC_COMPAT_H
#define VRNIC_COMPAT_H

#include <rdma/ib_umem.h>

#include "shapes.h"

/* Since memory of processes can also come as a dma-buf, their addresses have a function by name. */
#ifdef VRNIC_HAS_IB_UMEM_GET_VA
#define vrnic_umem_get ib_umem_get_va
#else
#define vrnic_umem_get ib_umem_get
#endif

#endif
