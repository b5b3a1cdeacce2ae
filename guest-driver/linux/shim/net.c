// SPDX-License-Identifier: GPL-2.0 OR MIT
#include <linux/dma-mapping.h>
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>

#include "net.h"

/* The private part of a device is a pointer to the Rust part's. */
void *vrnic_netdev_data(const struct net_device *dev)
{
	return *(void **)netdev_priv(dev);
}

void vrnic_set_netdev_data(struct net_device *dev, void *data)
{
	*(void **)netdev_priv(dev) = data;
}

/* The hardware address in what the stack hands over to set one. */
const u8 *vrnic_sockaddr_address(const void *address)
{
	return (const u8 *)((const struct sockaddr *)address)->sa_data;
}

bool vrnic_netdev_running(const struct net_device *dev)
{
	return netif_running(dev);
}

/* Whether packets can go: the administrator and the link say so. */
bool vrnic_netdev_is_up(const struct net_device *dev)
{
	return netif_running(dev) && netif_carrier_ok(dev);
}

/* The address may change while the device is up, and there are filters for further ones. */
void vrnic_netdev_announce_filters(struct net_device *dev)
{
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE | IFF_UNICAST_FLT;
}

void vrnic_napi_add(struct net_device *dev, struct napi_struct *napi, vrnic_poll_t poll)
{
	netif_napi_add(dev, napi, poll);
}

void vrnic_napi_del(struct napi_struct *napi)
{
	netif_napi_del(napi);
}

/* Schedules a poll from a task. */
void vrnic_napi_kick(struct napi_struct *napi)
{
	local_bh_disable();
	napi_schedule(napi);
	local_bh_enable();
}

/* Copies at most so many addresses that are listened to besides the own; returns how many there are. */
u32 vrnic_netdev_addresses(struct net_device *dev, u8 (*to)[ETH_ALEN], u32 most)
{
	struct netdev_hw_addr *entry;
	u32 count = 0;

	netif_addr_lock_bh(dev);
	netdev_for_each_uc_addr(entry, dev)
		if (count++ < most)
			ether_addr_copy(to[count - 1], entry->addr);
	netdev_for_each_mc_addr(entry, dev)
		if (count++ < most)
			ether_addr_copy(to[count - 1], entry->addr);
	netif_addr_unlock_bh(dev);
	return count;
}

void vrnic_tx_start_all(struct net_device *dev)
{
	netif_tx_start_all_queues(dev);
}

void vrnic_tx_wake_all(struct net_device *dev)
{
	netif_tx_wake_all_queues(dev);
}

void vrnic_tx_disable(struct net_device *dev)
{
	netif_tx_disable(dev);
}

void vrnic_tx_stop(struct netdev_queue *queue)
{
	netif_tx_stop_queue(queue);
}

void vrnic_tx_start(struct netdev_queue *queue)
{
	netif_tx_start_queue(queue);
}

bool vrnic_tx_stopped(const struct netdev_queue *queue)
{
	return netif_tx_queue_stopped(queue);
}

bool vrnic_tx_sent(struct netdev_queue *queue, u32 bytes, bool more)
{
	return __netdev_tx_sent_queue(queue, bytes, more);
}

void vrnic_tx_completed(struct netdev_queue *queue, u32 packets, u32 bytes)
{
	netdev_tx_completed_queue(queue, packets, bytes);
}

void vrnic_tx_reset(struct netdev_queue *queue)
{
	netdev_tx_reset_queue(queue);
}

bool vrnic_packet_is_cut(const struct sk_buff *skb)
{
	return skb_is_gso(skb);
}

/* What the stack's own check leaves of the features. */
netdev_features_t vrnic_packet_features(struct sk_buff *skb, netdev_features_t features)
{
	return vlan_features_check(skb, features);
}

void vrnic_packet_look(const struct sk_buff *skb, struct vrnic_packet *packet)
{
	packet->data = skb->data;
	packet->length = skb->len;
	packet->linear = skb_headlen(skb);
	packet->fragments = skb_shinfo(skb)->nr_frags;
	packet->queue = skb_get_queue_mapping(skb);
	packet->network = skb_network_offset(skb);
	packet->checksum = skb->ip_summed == CHECKSUM_PARTIAL;
	packet->checksum_start = packet->checksum ? skb_checksum_start_offset(skb) : 0;
	packet->checksum_offset = packet->checksum ? skb->csum_offset : 0;
	packet->mss = skb_shinfo(skb)->gso_size;
	packet->headers = packet->mss ? skb_tcp_all_headers(skb) : 0;
	packet->tagged = skb_vlan_tag_present(skb);
	packet->tag = packet->tagged ? skb_vlan_tag_get(skb) : 0;
	packet->more = netdev_xmit_more();
}

int vrnic_packet_linearize(struct sk_buff *skb)
{
	return skb_linearize(skb);
}

/* Piece 0 is the linear part, the others are the fragments. */
int vrnic_packet_map(struct device *device, const struct sk_buff *skb, u32 piece,
		     struct vrnic_mapping *mapping)
{
	if (piece) {
		const skb_frag_t *frag = &skb_shinfo(skb)->frags[piece - 1];

		mapping->length = skb_frag_size(frag);
		mapping->address = skb_frag_dma_map(device, frag, 0, mapping->length, DMA_TO_DEVICE);
	} else {
		mapping->length = skb_headlen(skb);
		mapping->address = dma_map_single(device, skb->data, mapping->length, DMA_TO_DEVICE);
	}
	return dma_mapping_error(device, mapping->address);
}

void vrnic_packet_timestamp(struct sk_buff *skb)
{
	skb_tx_timestamp(skb);
}

/*
 * Bytes of a buffer for frames of so many bytes, with what the stack has before and behind them. A
 * buffer is a fragment of a page, or all of several pages: the cache of fragments has no larger ones.
 */
u32 vrnic_buffer_size(u32 length)
{
	u32 size = SKB_DATA_ALIGN(VRNIC_HEADROOM + length) +
		   SKB_DATA_ALIGN(sizeof(struct skb_shared_info));

	return size <= PAGE_SIZE ? size : PAGE_SIZE << get_order(size);
}

void *vrnic_buffer_alloc(u32 size)
{
	struct page *pages;

	if (size <= PAGE_SIZE)
		return netdev_alloc_frag(size);
	pages = dev_alloc_pages(get_order(size));
	return pages ? page_address(pages) : NULL;
}

void vrnic_buffer_free(void *buffer)
{
	skb_free_frag(buffer);
}

int vrnic_buffer_map(struct device *device, void *at, u32 length, dma_addr_t *address)
{
	*address = dma_map_single(device, at, length, DMA_FROM_DEVICE);
	return dma_mapping_error(device, *address);
}

/* Makes a packet of the buffer, which it then owns. */
struct sk_buff *vrnic_buffer_packet(void *buffer, u32 size, u32 length)
{
	struct sk_buff *skb = napi_build_skb(buffer, size);

	if (likely(skb)) {
		skb_reserve(skb, VRNIC_HEADROOM);
		__skb_put(skb, length);
	}
	return skb;
}

void vrnic_packet_checked(struct sk_buff *skb)
{
	skb->ip_summed = CHECKSUM_UNNECESSARY;
}

void vrnic_packet_hashed(struct sk_buff *skb, u32 hash, bool ports)
{
	skb_set_hash(skb, hash, ports ? PKT_HASH_TYPE_L4 : PKT_HASH_TYPE_L3);
}

void vrnic_packet_tagged(struct sk_buff *skb, u16 tag)
{
	__vlan_hwaccel_put_tag(skb, htons(ETH_P_8021Q), tag);
}

void vrnic_packet_deliver(struct napi_struct *napi, struct sk_buff *skb, u16 queue)
{
	skb_record_rx_queue(skb, queue);
	skb->protocol = eth_type_trans(skb, napi->dev);
	napi_gro_receive(napi, skb);
}
