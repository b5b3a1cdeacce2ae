/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Constants whose macros are casts, which bindgen does not evaluate; the C part uses the macros. */
#ifndef VRNIC_CONSTANTS_H
#define VRNIC_CONSTANTS_H

#include <linux/netdevice.h>
#include <linux/pci.h>
#include <linux/slab.h>

static const gfp_t VRNIC_GFP_KERNEL = GFP_KERNEL;
static const gfp_t VRNIC_GFP_NOWARN = __GFP_NOWARN;
static const pci_channel_state_t VRNIC_IO_PERM_FAILURE = pci_channel_io_perm_failure;

static const netdev_features_t VRNIC_F_SG = NETIF_F_SG;
static const netdev_features_t VRNIC_F_IP_CSUM = NETIF_F_IP_CSUM;
static const netdev_features_t VRNIC_F_IPV6_CSUM = NETIF_F_IPV6_CSUM;
static const netdev_features_t VRNIC_F_HIGHDMA = NETIF_F_HIGHDMA;
static const netdev_features_t VRNIC_F_RXCSUM = NETIF_F_RXCSUM;
static const netdev_features_t VRNIC_F_RXHASH = NETIF_F_RXHASH;
static const netdev_features_t VRNIC_F_VLAN_TX = NETIF_F_HW_VLAN_CTAG_TX;
static const netdev_features_t VRNIC_F_VLAN_RX = NETIF_F_HW_VLAN_CTAG_RX;
static const netdev_features_t VRNIC_F_TSO = NETIF_F_TSO | NETIF_F_TSO6 | NETIF_F_TSO_ECN;
static const netdev_features_t VRNIC_F_GSO = NETIF_F_GSO_MASK;

#endif
