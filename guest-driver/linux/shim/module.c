// SPDX-License-Identifier: GPL-2.0 OR MIT
/* What only macros can say: the module, and the devices it is for. */
#include <linux/module.h>
#include <linux/pci.h>

#include "helpers.h"

/* The Rust part: src/function.rs. */
int vrnic_probe(struct pci_dev *pdev, const struct pci_device_id *id);
void vrnic_remove(struct pci_dev *pdev);
void vrnic_shutdown(struct pci_dev *pdev);
void vrnic_reset_prepare(struct pci_dev *pdev);
void vrnic_reset_done(struct pci_dev *pdev);
pci_ers_result_t vrnic_error_detected(struct pci_dev *pdev, pci_channel_state_t state);
pci_ers_result_t vrnic_slot_reset(struct pci_dev *pdev);
int vrnic_sriov_configure(struct pci_dev *pdev, int count);

/* vrnic_abi::pci; the Rust part refuses a function that is another one. */
static const struct pci_device_id vrnic_ids[] = {
	{ PCI_DEVICE(0x5652, 0x0001) },
	{ PCI_DEVICE(0x5652, 0x0002) },
	{ }
};
MODULE_DEVICE_TABLE(pci, vrnic_ids);

static const struct pci_error_handlers vrnic_error_handlers = {
	.error_detected = vrnic_error_detected,
	.slot_reset = vrnic_slot_reset,
	.reset_prepare = vrnic_reset_prepare,
	.reset_done = vrnic_reset_done,
};

static struct pci_driver vrnic_driver = {
	.name = KBUILD_MODNAME,
	.id_table = vrnic_ids,
	.probe = vrnic_probe,
	.remove = vrnic_remove,
	.shutdown = vrnic_shutdown,
	.err_handler = &vrnic_error_handlers,
	.sriov_configure = vrnic_sriov_configure,
};
module_pci_driver(vrnic_driver);

/* Of the physical function that a virtual one belongs to, if that has this driver. */
void *vrnic_get_physical_drvdata(struct pci_dev *pdev)
{
	void *data = pci_iov_get_pf_drvdata(pdev, &vrnic_driver);

	return IS_ERR(data) ? NULL : data;
}

MODULE_DESCRIPTION("vrnic RDMA NIC");
MODULE_AUTHOR("The vrnic authors");
MODULE_LICENSE("Dual MIT/GPL");
MODULE_VERSION(VRNIC_VERSION);
