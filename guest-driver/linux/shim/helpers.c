// SPDX-License-Identifier: GPL-2.0 OR MIT
#include <linux/bottom_half.h>
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/dma-mapping.h>
#include <linux/jiffies.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>
#include <net/netlink.h>

#include "compat.h"
#include "helpers.h"

struct module *vrnic_module(void)
{
	return THIS_MODULE;
}

void vrnic_bug(const char *message)
{
	pr_emerg("vrnic: %s\n", message);
	BUG();
}

bool vrnic_may_log(void)
{
	return printk_ratelimit();
}

/*
 * Rust's collections cannot go on without memory, so this does not fail, up to a size that is enough
 * for all of them whose users cannot cope with that. More is asked for by those only who can: it
 * is a process that says how much.
 */
void *vrnic_alloc(size_t size)
{
	if (size > VRNIC_SURE_ALLOCATION)
		return kvmalloc(size, GFP_KERNEL | __GFP_NOWARN);
	return kvmalloc(size, GFP_KERNEL | __GFP_NOFAIL);
}

void vrnic_free(const void *memory)
{
	kvfree(memory);
}

void vrnic_spin_init(spinlock_t *lock)
{
	spin_lock_init(lock);
}

unsigned long vrnic_spin_lock(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

void vrnic_spin_unlock(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}

void vrnic_mutex_init(struct mutex *lock)
{
	mutex_init(lock);
}

void vrnic_waitqueue_init(struct wait_queue_head *queue)
{
	init_waitqueue_head(queue);
}

void vrnic_wake_up(struct wait_queue_head *queue)
{
	wake_up_all(queue);
}

/* Sleeps until the counter has another value than it was seen with. */
void vrnic_wait(struct wait_queue_head *queue, const u32 *counter, u32 seen, u64 nanoseconds)
{
	unsigned long timeout = nsecs_to_jiffies(nanoseconds) + 1;

	wait_event_timeout(*queue, READ_ONCE(*counter) != seen, timeout);
}

void vrnic_bh_disable(void)
{
	local_bh_disable();
}

void vrnic_bh_enable(void)
{
	local_bh_enable();
}

void vrnic_work_init(struct delayed_work *work, work_func_t function)
{
	INIT_DELAYED_WORK(work, function);
}

void vrnic_schedule(struct delayed_work *work, u64 milliseconds)
{
	mod_delayed_work(system_long_wq, work, msecs_to_jiffies(milliseconds));
}

void vrnic_xa_init(struct xarray *array)
{
	xa_init(array);
}

u32 vrnic_processors(void)
{
	return num_online_cpus();
}

/*
 * Who runs the process: in a user namespace, whoever of the first one has made it. The users in it
 * are as many as he likes.
 */
u32 vrnic_user(void)
{
	const struct user_namespace *ns = current_user_ns();
	kuid_t user = current_uid();

	for (; ns != &init_user_ns; ns = ns->parent)
		user = ns->owner;
	return from_kuid(&init_user_ns, user);
}

bool vrnic_is_privileged(void)
{
	return ns_capable_noaudit(&init_user_ns, CAP_SYS_RESOURCE);
}

void *vrnic_get_drvdata(struct pci_dev *pdev)
{
	return pci_get_drvdata(pdev);
}

void vrnic_set_drvdata(struct pci_dev *pdev, void *data)
{
	pci_set_drvdata(pdev, data);
}

int vrnic_set_dma_mask(struct pci_dev *pdev)
{
	return dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
}

int vrnic_request_irq(unsigned int irq, irq_handler_t handler, const char *name, void *data)
{
	return request_irq(irq, handler, 0, name, data);
}

/* How long a piece of memory may be that the kernel describes to the device as one. */
void vrnic_set_max_segment(struct device *device, unsigned int length)
{
	dma_set_max_seg_size(device, length);
}

u64 vrnic_bar_address(struct pci_dev *pdev, int bar)
{
	return pci_resource_start(pdev, bar);
}

/* 0 for a BAR that was given no place on the bus. */
u64 vrnic_bar_bus_address(struct pci_dev *pdev, int bar)
{
	return pdev->resource[bar].parent ? pci_bus_address(pdev, bar) : 0;
}

u64 vrnic_bar_length(struct pci_dev *pdev, int bar)
{
	return pci_resource_len(pdev, bar);
}

#ifdef VRNIC_HAS_DEVLINK
struct devlink *vrnic_devlink_alloc(const struct devlink_ops *ops, size_t size,
				    struct device *device)
{
	return devlink_alloc(ops, size, device);
}
#endif

struct ib_device *vrnic_alloc_ib_device(void)
{
	struct vrnic_ib_device *device = ib_alloc_device(vrnic_ib_device, ib);

	return device ? &device->ib : NULL;
}

int vrnic_copy_from_udata(void *to, struct ib_udata *udata, size_t length)
{
	return ib_copy_from_udata(to, udata, min(length, udata->inlen));
}

int vrnic_copy_to_udata(struct ib_udata *udata, const void *from, size_t length)
{
	return ib_copy_to_udata(udata, (void *)from, min(length, udata->outlen));
}

/* The kernel checks that address and length, which are as wide as its own, make a range. */
struct ib_umem *vrnic_umem_pin(struct ib_device *device, u64 address, u64 length, int access)
{
	return vrnic_umem_get(device, address, length, access);
}

struct scatterlist *vrnic_sg_next(struct scatterlist *entry)
{
	return sg_next(entry);
}

struct ib_udata *vrnic_bundle_udata(struct uverbs_attr_bundle *attrs)
{
	return attrs ? &attrs->driver_udata : NULL;
}

struct ib_ucontext *vrnic_udata_context(struct ib_udata *udata)
{
	struct first_part {
		struct ib_ucontext ib;
	} *context = rdma_udata_to_drv_context(udata, struct first_part, ib);

	return &context->ib;
}

struct nlattr *vrnic_nest_start(struct sk_buff *message, int type)
{
	return nla_nest_start(message, type);
}

void vrnic_nest_end(struct sk_buff *message, struct nlattr *nest)
{
	nla_nest_end(message, nest);
}

void vrnic_nest_cancel(struct sk_buff *message, struct nlattr *nest)
{
	nla_nest_cancel(message, nest);
}

/* Maps a page of a BAR into a process; its accesses take effect in order, and at once. */
int vrnic_mmap_page(struct ib_ucontext *context, struct vm_area_struct *vma, u64 frame,
		    struct rdma_user_mmap_entry *entry)
{
	return rdma_user_mmap_io(context, vma, frame, PAGE_SIZE,
				 pgprot_noncached(vma->vm_page_prot), entry);
}
