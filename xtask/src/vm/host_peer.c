/*
 * The guest's end of a connection with guest-driver/vfio/examples/host_process.rs, which leads: it
 * writes into this program's memory, reads that back, and sends the same once more.
 *
 * usage: host_peer GID_INDEX ADDRESS FIFO
 *
 * Says "own QPN RKEY", reads the number of the other queue pair, at that IPv4 address, from the fifo,
 * and says "ready" when it is connected. When the message has come, all bytes are compared. Sizes,
 * addresses and what the bytes are is that program's choice.
 */
#include <arpa/inet.h>
#include <infiniband/verbs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE = 1 << 20, START = 0x10000000, PSN = 1, UNWRITTEN = 0xa5 };

#define CHECK(what) \
	do { \
		if (!(what)) { \
			fprintf(stderr, "line %d: %s: %m\n", __LINE__, #what); \
			exit(1); \
		} \
	} while (0)

static uint8_t memory[2 * MESSAGE] __attribute__((aligned(4096)));

static void to_init(struct ibv_qp *qp, int access)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT, .port_num = 1, .qp_access_flags = access,
	};

	CHECK(!ibv_modify_qp(qp, &attr,
			     IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS));
}

static void connect_to(struct ibv_qp *qp, uint32_t peer, struct in_addr address, int gid_index)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_RTR, .path_mtu = IBV_MTU_4096, .dest_qp_num = peer, .rq_psn = PSN,
		.max_dest_rd_atomic = 16, .min_rnr_timer = 12,
		.ah_attr = { .is_global = 1, .port_num = 1,
			     .grh = { .sgid_index = gid_index, .hop_limit = 64 } },
	};

	attr.ah_attr.grh.dgid.raw[10] = 0xff;
	attr.ah_attr.grh.dgid.raw[11] = 0xff;
	memcpy(&attr.ah_attr.grh.dgid.raw[12], &address, sizeof(address));
	CHECK(!ibv_modify_qp(qp, &attr,
			     IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
				     IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER));
	attr = (struct ibv_qp_attr){
		.qp_state = IBV_QPS_RTS, .sq_psn = PSN, .max_rd_atomic = 16, .timeout = 18,
		.retry_cnt = 7, .rnr_retry = 7,
	};
	CHECK(!ibv_modify_qp(qp, &attr,
			     IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC | IBV_QP_TIMEOUT |
				     IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY));
}

/* What was written, or sent, is at this offset. */
static void compare(size_t offset)
{
	for (size_t n = 0; n < MESSAGE; n++) {
		uint8_t expected = n ^ n >> 8 ^ n >> 16;

		if (memory[offset + n] != expected) {
			fprintf(stderr, "byte %zu of that at %zu is wrong\n", n, offset);
			exit(1);
		}
	}
}

int main(int argc, char **argv)
{
	const int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
	struct in_addr address;
	struct ibv_recv_wr *bad;
	struct ibv_wc wc;
	uint32_t peer;
	void *context;

	CHECK(argc == 4 && inet_pton(AF_INET, argv[2], &address) == 1);
	memset(memory, UNWRITTEN, sizeof(memory));
	struct ibv_device **devices = ibv_get_device_list(NULL);
	CHECK(devices && devices[0]);
	struct ibv_context *device = ibv_open_device(devices[0]);
	CHECK(device);
	struct ibv_pd *pd = ibv_alloc_pd(device);
	CHECK(pd);
	struct ibv_mr *mr = ibv_reg_mr_iova(pd, memory, sizeof(memory), START, access);
	CHECK(mr);
	struct ibv_comp_channel *channel = ibv_create_comp_channel(device);
	CHECK(channel);
	struct ibv_cq *cq = ibv_create_cq(device, 4, NULL, channel, 0);
	CHECK(cq && !ibv_req_notify_cq(cq, 0));
	struct ibv_qp_init_attr init = {
		.send_cq = cq, .recv_cq = cq, .qp_type = IBV_QPT_RC, .cap = { 1, 1, 1, 1, 0 },
	};
	struct ibv_qp *qp = ibv_create_qp(pd, &init);
	CHECK(qp);
	to_init(qp, access);
	struct ibv_sge sge = { START + MESSAGE, MESSAGE, mr->lkey };
	struct ibv_recv_wr receive = { .sg_list = &sge, .num_sge = 1 };
	CHECK(!ibv_post_recv(qp, &receive, &bad));

	printf("own %u %u\n", qp->qp_num, mr->rkey);
	fflush(stdout);
	FILE *fifo = fopen(argv[3], "r");
	CHECK(fifo && fscanf(fifo, "%u", &peer) == 1);
	connect_to(qp, peer, address, atoi(argv[1]));
	printf("ready\n");
	fflush(stdout);

	CHECK(!ibv_get_cq_event(channel, &cq, &context));
	CHECK(ibv_poll_cq(cq, 1, &wc) == 1);
	if (wc.status != IBV_WC_SUCCESS || wc.opcode != IBV_WC_RECV || wc.byte_len != MESSAGE) {
		fprintf(stderr, "received %u bytes: %s\n", wc.byte_len, ibv_wc_status_str(wc.status));
		return 1;
	}
	compare(0);
	compare(MESSAGE);
	printf("was written to, and received: all bytes are right\n");
	return 0;
}
