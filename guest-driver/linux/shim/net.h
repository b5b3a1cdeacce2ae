/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the Ethernet interface needs of the kernel's inline functions and macros. As in helpers.h,
 * decisions are the Rust part's.
 */
#ifndef VRNIC_NET_H
#define VRNIC_NET_H

#include <linux/netdevice.h>
#include <linux/skbuff.h>

/* Bytes before a received frame that the stack may put headers into. */
#define VRNIC_HEADROOM 64

typedef int (*vrnic_poll_t)(struct napi_struct *napi, int budget);

/* --- the device ----------------------------------------------------------------------------- */
void *vrnic_netdev_data(const struct net_device *dev);
void vrnic_set_netdev_data(struct net_device *dev, void *data);
const u8 *vrnic_sockaddr_address(const void *address);
bool vrnic_netdev_running(const struct net_device *dev);
bool vrnic_netdev_is_up(const struct net_device *dev);
void vrnic_netdev_announce_filters(struct net_device *dev);
void vrnic_napi_add(struct net_device *dev, struct napi_struct *napi, vrnic_poll_t poll);
void vrnic_napi_del(struct napi_struct *napi);
void vrnic_napi_kick(struct napi_struct *napi);
u32 vrnic_netdev_addresses(struct net_device *dev, u8 (*to)[ETH_ALEN], u32 most);

/* --- its transmit queues -------------------------------------------------------------------- */
void vrnic_tx_start_all(struct net_device *dev);
void vrnic_tx_wake_all(struct net_device *dev);
void vrnic_tx_disable(struct net_device *dev);
void vrnic_tx_stop(struct netdev_queue *queue);
void vrnic_tx_start(struct netdev_queue *queue);
bool vrnic_tx_stopped(const struct netdev_queue *queue);
bool vrnic_tx_sent(struct netdev_queue *queue, u32 bytes, bool more);
void vrnic_tx_completed(struct netdev_queue *queue, u32 packets, u32 bytes);
void vrnic_tx_reset(struct netdev_queue *queue);

/* --- packets to send ------------------------------------------------------------------------ */

/* What the Rust part wants to know of a packet to send. */
struct vrnic_packet {
	const u8 *data;
	/* All bytes, and those at data. */
	u32 length;
	u32 linear;
	u32 fragments;
	/* The stack's transmit queue. */
	u32 queue;
	/* Offset of the network header. */
	u32 network;
	/* If the checksum is to be filled in: what it begins with, and where it goes from there. */
	u32 checksum_start;
	u32 checksum_offset;
	bool checksum;
	/* If it is to be cut into frames: most bytes of data in each, and those of the headers. */
	u32 mss;
	u32 headers;
	/* A VLAN tag to insert. */
	bool tagged;
	u16 tag;
	/* Others follow at once. */
	bool more;
};

/* A piece of a packet as the device reaches it. */
struct vrnic_mapping {
	dma_addr_t address;
	u32 length;
};

bool vrnic_packet_is_cut(const struct sk_buff *skb);
netdev_features_t vrnic_packet_features(struct sk_buff *skb, netdev_features_t features);
void vrnic_packet_look(const struct sk_buff *skb, struct vrnic_packet *packet);
int vrnic_packet_linearize(struct sk_buff *skb);
int vrnic_packet_map(struct device *device, const struct sk_buff *skb, u32 piece,
		     struct vrnic_mapping *mapping);
void vrnic_packet_timestamp(struct sk_buff *skb);

/* --- packets received ----------------------------------------------------------------------- */
u32 vrnic_buffer_size(u32 length);
void *vrnic_buffer_alloc(u32 size);
void vrnic_buffer_free(void *buffer);
int vrnic_buffer_map(struct device *device, void *at, u32 length, dma_addr_t *address);
struct sk_buff *vrnic_buffer_packet(void *buffer, u32 size, u32 length);
void vrnic_packet_checked(struct sk_buff *skb);
void vrnic_packet_hashed(struct sk_buff *skb, u32 hash, bool ports);
void vrnic_packet_tagged(struct sk_buff *skb, u16 tag);
void vrnic_packet_deliver(struct napi_struct *napi, struct sk_buff *skb, u16 queue);

#endif
