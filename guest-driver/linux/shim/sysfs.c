// SPDX-License-Identifier: GPL-2.0 OR MIT
/* Attributes in sysfs that ibstat and its like show besides those of the RDMA core. */
#include <linux/device.h>
#include <linux/sysfs.h>

#include "helpers.h"

static ssize_t hw_rev_show(struct device *device, struct device_attribute *attr, char *buf)
{
	struct vrnic_ib_device *dev = rdma_device_to_drv_device(device, struct vrnic_ib_device, ib);

	return sysfs_emit(buf, "%x\n", dev->ib.attrs.hw_ver);
}
static DEVICE_ATTR_RO(hw_rev);

static ssize_t hca_type_show(struct device *device, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", KBUILD_MODNAME);
}
static DEVICE_ATTR_RO(hca_type);

static struct attribute *attributes[] = {
	&dev_attr_hw_rev.attr,
	&dev_attr_hca_type.attr,
	NULL
};

const struct attribute_group vrnic_attributes = {
	.attrs = attributes,
};
