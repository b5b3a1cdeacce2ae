/*
 * Holds a completion queue to the moderation that ibv_modify_cq sets, as rdma-core's own tests do not.
 *
 * usage: moderation GID_INDEX
 *
 * Two queue pairs of the first device send to each other. The queue that receives is armed before
 * each burst; what is measured is the time from posting the burst to the event. A period is the least
 * time for a burst that is smaller than the count, however slow the machine is. That no time is waited
 * for is shown by the fastest of many bursts. The data of each message is compared.
 */
#include <infiniband/verbs.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COUNT = 4, PERIOD = 60000, ROUNDS = 20, SIZE = 64, WAIT_MS = 30000 };

#define CHECK(what) \
	do { \
		if (!(what)) { \
			fprintf(stderr, "line %d: %s: %m\n", __LINE__, #what); \
			exit(1); \
		} \
	} while (0)

static struct ibv_comp_channel *channel;
static struct ibv_cq *sent, *received;
static struct ibv_qp *a, *b;
static struct ibv_mr *mr;
static uint8_t memory[2 * COUNT * SIZE];
static uint8_t seed;

static uint64_t microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

static struct ibv_qp *create(struct ibv_pd *pd)
{
	struct ibv_qp_init_attr attr = {
		.send_cq = sent, .recv_cq = received, .qp_type = IBV_QPT_RC,
		.cap = { COUNT, COUNT, 1, 1, 0 },
	};

	return ibv_create_qp(pd, &attr);
}

static void connect_to(struct ibv_qp *qp, uint32_t peer, union ibv_gid gid, int index)
{
	struct ibv_qp_attr attr = {
		.qp_state = IBV_QPS_INIT, .port_num = 1, .path_mtu = IBV_MTU_1024, .dest_qp_num = peer,
		.max_dest_rd_atomic = 1, .max_rd_atomic = 1, .min_rnr_timer = 12,
		.timeout = 14, .retry_cnt = 7, .rnr_retry = 7,
		.ah_attr = { .is_global = 1, .port_num = 1,
			     .grh = { .dgid = gid, .sgid_index = index, .hop_limit = 1 } },
	};

	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
			     IBV_QP_ACCESS_FLAGS));
	attr.qp_state = IBV_QPS_RTR;
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
			     IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER));
	attr.qp_state = IBV_QPS_RTS;
	CHECK(!ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
			     IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC));
}

static void take(struct ibv_cq *cq, int count)
{
	struct ibv_wc wc;

	while (count) {
		int got = ibv_poll_cq(cq, 1, &wc);

		CHECK(got >= 0 && (!got || wc.status == IBV_WC_SUCCESS));
		count -= got;
	}
}

/* Sends `burst` messages by one call; returns the time until the event. */
static uint64_t event_after(int burst)
{
	struct ibv_sge from = { (uintptr_t)memory, SIZE, mr->lkey };
	struct ibv_sge to[COUNT];
	struct ibv_send_wr sends[COUNT] = {}, *bad_send;
	struct ibv_recv_wr receives[COUNT] = {}, *bad_receive;
	struct pollfd readable = { .fd = channel->fd, .events = POLLIN };
	uint64_t begin, spent;
	struct ibv_cq *cq;
	void *context;

	memset(memory, ++seed, SIZE);
	memset(memory + COUNT * SIZE, 0xd5, COUNT * SIZE);
	for (int n = 0; n < burst; n++) {
		int last = n == burst - 1;

		to[n] = (struct ibv_sge){ (uintptr_t)memory + (COUNT + n) * SIZE, SIZE, mr->lkey };
		receives[n].sg_list = &to[n];
		sends[n].sg_list = &from;
		receives[n].num_sge = sends[n].num_sge = 1;
		sends[n].opcode = IBV_WR_SEND;
		sends[n].send_flags = IBV_SEND_SIGNALED;
		receives[n].next = last ? NULL : &receives[n + 1];
		sends[n].next = last ? NULL : &sends[n + 1];
	}
	CHECK(!ibv_post_recv(b, receives, &bad_receive));
	CHECK(!ibv_req_notify_cq(received, 0));
	begin = microseconds();
	CHECK(!ibv_post_send(a, sends, &bad_send));
	CHECK(poll(&readable, 1, WAIT_MS) == 1);
	spent = microseconds() - begin;
	CHECK(!ibv_get_cq_event(channel, &cq, &context) && cq == received);
	ibv_ack_cq_events(cq, 1);
	take(received, burst);
	take(sent, burst);
	for (int n = 0; n < COUNT * SIZE; n++)
		CHECK(memory[COUNT * SIZE + n] == (n < burst * SIZE ? seed : 0xd5));
	return spent;
}

static void moderate(int count, int period)
{
	struct ibv_modify_cq_attr attr = { IBV_CQ_ATTR_MODERATE, { count, period } };
	int error = ibv_modify_cq(received, &attr);

	CHECK(!error);
}

/* The shortest time of many bursts until the event. */
static uint64_t least(const char *what, int burst)
{
	uint64_t least = UINT64_MAX;

	for (int round = 0; round < ROUNDS; round++) {
		uint64_t spent = event_after(burst);

		least = spent < least ? spent : least;
	}
	printf("%s: %d messages, the event after %lu us at least\n", what, burst, least);
	return least;
}

int main(int count, char **arguments)
{
	int index = count == 2 ? atoi(arguments[1]) : 0;
	struct ibv_device **devices = ibv_get_device_list(NULL);
	struct ibv_context *context;
	struct ibv_device_attr_ex attr;
	union ibv_gid gid;
	struct ibv_pd *pd;

	CHECK(devices && devices[0] && (context = ibv_open_device(devices[0])));
	CHECK(!ibv_query_device_ex(context, NULL, &attr));
	CHECK(attr.cq_mod_caps.max_cq_count >= COUNT && attr.cq_mod_caps.max_cq_period >= PERIOD);
	CHECK(!ibv_query_gid(context, 1, index, &gid));
	CHECK((pd = ibv_alloc_pd(context)) && (channel = ibv_create_comp_channel(context)));
	CHECK((sent = ibv_create_cq(context, COUNT, NULL, NULL, 0)));
	CHECK((received = ibv_create_cq(context, COUNT, NULL, channel, 0)));
	CHECK((mr = ibv_reg_mr(pd, memory, sizeof(memory), IBV_ACCESS_LOCAL_WRITE)));
	CHECK((a = create(pd)) && (b = create(pd)));
	connect_to(a, b->qp_num, gid, index);
	connect_to(b, a->qp_num, gid, index);

	CHECK(least("without moderation", 1) < PERIOD);
	moderate(COUNT, PERIOD);
	/* The guest's clock need not be as exact as the device's. */
	CHECK(least("a period", 1) >= PERIOD * 9 / 10);
	CHECK(least("a period", COUNT - 1) >= PERIOD * 9 / 10);
	CHECK(least("a count", COUNT) < PERIOD);
	moderate(0, 0);
	CHECK(least("without moderation", 1) < PERIOD);

	CHECK(!ibv_destroy_qp(a) && !ibv_destroy_qp(b) && !ibv_destroy_cq(sent));
	CHECK(!ibv_destroy_cq(received) && !ibv_destroy_comp_channel(channel));
	CHECK(!ibv_dereg_mr(mr) && !ibv_dealloc_pd(pd) && !ibv_close_device(context));
	ibv_free_device_list(devices);
	puts("moderated");
	return 0;
}
