/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the Rust part cannot say, because the kernel says it in inline functions and macros. Each
 * helper is one such call; decisions are the Rust part's.
 */
#ifndef VRNIC_HELPERS_H
#define VRNIC_HELPERS_H

#include <linux/interrupt.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <net/devlink.h>
#include <rdma/ib_umem.h>
#include <rdma/ib_verbs.h>
#include <rdma/uverbs_ioctl.h>

/* Allocations up to this many bytes do not fail. */
#define VRNIC_SURE_ALLOCATION SZ_2M

struct module *vrnic_module(void);
bool vrnic_may_log(void);
void vrnic_bug(const char *message) __attribute__((noreturn));

/* --- memory ------------------------------------------------------------------------------- */
void *vrnic_alloc(size_t size);
void vrnic_free(const void *memory);

/* --- mutual exclusion and waiting ----------------------------------------------------------- */
void vrnic_spin_init(spinlock_t *lock);
unsigned long vrnic_spin_lock(spinlock_t *lock);
void vrnic_spin_unlock(spinlock_t *lock, unsigned long flags);
void vrnic_mutex_init(struct mutex *lock);
void vrnic_waitqueue_init(struct wait_queue_head *queue);
void vrnic_wake_up(struct wait_queue_head *queue);
void vrnic_wait(struct wait_queue_head *queue, const u32 *counter, u32 seen, u64 nanoseconds);
void vrnic_bh_disable(void);
void vrnic_bh_enable(void);
void vrnic_work_init(struct delayed_work *work, work_func_t function);
void vrnic_schedule(struct delayed_work *work, u64 milliseconds);
void vrnic_xa_init(struct xarray *array);

u32 vrnic_processors(void);
u32 vrnic_user(void);
bool vrnic_is_privileged(void);

/* --- the device ----------------------------------------------------------------------------- */
void *vrnic_get_drvdata(struct pci_dev *pdev);
void vrnic_set_drvdata(struct pci_dev *pdev, void *data);
void *vrnic_get_physical_drvdata(struct pci_dev *pdev);
int vrnic_set_dma_mask(struct pci_dev *pdev);
int vrnic_request_irq(unsigned int irq, irq_handler_t handler, const char *name, void *data);
void vrnic_set_max_segment(struct device *device, unsigned int length);
u64 vrnic_bar_address(struct pci_dev *pdev, int bar);
u64 vrnic_bar_bus_address(struct pci_dev *pdev, int bar);
u64 vrnic_bar_length(struct pci_dev *pdev, int bar);

/* --- devlink, if this kernel has it ---------------------------------------------------------- */
struct devlink *vrnic_devlink_alloc(const struct devlink_ops *ops, size_t size,
				    struct device *device);

/* --- the RDMA core -------------------------------------------------------------------------- */

/* The RDMA core allocates the device; the driver's part is Rust's. */
struct vrnic_ib_device {
	struct ib_device ib;
	void *data;
};

extern const struct attribute_group vrnic_attributes;

struct ib_device *vrnic_alloc_ib_device(void);
int vrnic_copy_from_udata(void *to, struct ib_udata *udata, size_t length);
int vrnic_copy_to_udata(struct ib_udata *udata, const void *from, size_t length);
struct ib_umem *vrnic_umem_pin(struct ib_device *device, u64 address, u64 length, int access);
struct scatterlist *vrnic_sg_next(struct scatterlist *entry);
struct ib_udata *vrnic_bundle_udata(struct uverbs_attr_bundle *attrs);
struct ib_ucontext *vrnic_udata_context(struct ib_udata *udata);
struct nlattr *vrnic_nest_start(struct sk_buff *message, int type);
void vrnic_nest_end(struct sk_buff *message, struct nlattr *nest);
void vrnic_nest_cancel(struct sk_buff *message, struct nlattr *nest);
int vrnic_mmap_page(struct ib_ucontext *context, struct vm_area_struct *vma, u64 frame,
		    struct rdma_user_mmap_entry *entry);

#endif
