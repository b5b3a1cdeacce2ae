//! What a requester makes of acknowledgements, and what it does without: timeouts, retries, NAKs.
//!
//! Sequence numbers in these tests count from the first of each direction.

use crate::bench::*;
use crate::rules::*;

mod acknowledgement {
    use super::*;

    #[test]
    fn acknowledges_everything_before_it() {
        let mut solo = Solo::new();
        for cookie in 1..=4 {
            solo.post(cookie, SEND, 0, 300);
        }
        solo.run();
        solo.ack(4);
        assert_sends(&solo, &[Outcome::Success; 2]);
        solo.ack(5);
        assert_sends(&solo, &[Outcome::Success; 3]);
        solo.ack(7);
        assert_sends(&solo, &[Outcome::Success; 4]);
        assert_eq!(solo.qp.deadline(), None);
    }

    #[test]
    fn ghosts_and_packets_never_sent_are_ignored() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.run();
        for psn in [-1, -1000, 1, 2, 0x7f_ffff] {
            solo.ack(psn);
            solo.nak(psn, NakCode::RemoteAccess);
            solo.response(psn, acknowledge(Syndrome::RnrNak(1)), &[]);
            solo.response(psn, read_response(Place::Only), &[1]);
        }
        assert!(solo.node.sent.is_empty() && solo.run().is_empty());
        assert_eq!(solo.qp.state(), State::Rts);
        solo.ack(0);
        assert_sends(&solo, &[Outcome::Success]);
    }

    #[test]
    fn one_covers_all_requests_since_the_last_poll() {
        let mut solo = Solo::new();
        for psn in 0..5 {
            solo.node.post_receive(psn, 0, 64);
            solo.request(psn as i32, send(Place::Only), b"x");
        }
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 1);
        let msn = Psn::new(5);
        let syndrome = ACK;
        assert_eq!(
            pdus[0].body,
            Body::Acknowledge(Acknowledge { syndrome, msn })
        );
        assert_eq!(pdus[0].psn, Psn::new(2004));
    }

    #[test]
    fn is_not_sent_unasked() {
        let mut solo = Solo::new();
        solo.node.post_receive(1, 0, 64);
        let mut request = packet(Psn::new(2000), 1, send(Place::Only), b"x");
        request.pdu.ack_request = false;
        solo.deliver(&request);
        assert_eq!(solo.node.received.len(), 1);
        assert!(solo.run().is_empty());
    }

    #[test]
    fn wraps_around() {
        let setup = Setup {
            send_psn: 0xff_fffe,
            receive_psn: 0xff_ffff,
            ..Setup::default()
        };
        let mut solo = Solo::rts(setup);
        solo.post(1, SEND, 0, 4 * MTU);
        assert_eq!(solo.sent_psns(), [0, 1, 2, 3]);
        solo.ack(2);
        solo.ack(3);
        assert_sends(&solo, &[Outcome::Success]);
        for psn in 0..3 {
            solo.node.post_receive(psn, 0, 64);
            solo.request(psn as i32, send(Place::Only), b"x");
        }
        assert_eq!(solo.answers(), [(2, ACK)]);
    }
}

mod sequence_nak {
    use super::*;

    #[test]
    fn sent_once_per_gap() {
        let mut solo = Solo::new();
        for cookie in 0..8 {
            solo.node.post_receive(cookie, 0, 64);
        }
        solo.request(1, send(Place::Only), b"x");
        solo.request(2, send(Place::Only), b"x");
        assert_eq!(solo.answers(), [(0, nak(NakCode::PsnSequence))]);
        solo.request(3, send(Place::Only), b"x");
        assert!(solo.answers().is_empty());
        assert!(
            solo.node.received.is_empty(),
            "nothing is taken out of order"
        );
        solo.request(0, send(Place::Only), b"x");
        assert_eq!(solo.answers(), [(0, ACK)]);
        solo.request(5, send(Place::Only), b"x");
        assert_eq!(solo.answers(), [(1, nak(NakCode::PsnSequence))]);
        assert_eq!(solo.node.counter(Counter::OutOfSequence), 4);
        assert_eq!(solo.node.counter(Counter::TxSeqNak), 2);
    }

    #[test]
    fn is_taken_back_if_the_packet_arrives_first() {
        let mut solo = Solo::new();
        solo.node.post_receive(1, 0, 64);
        solo.request(1, send(Place::Only), b"x");
        let mut missing = packet(Psn::new(2000), 1, send(Place::Only), b"x");
        missing.pdu.ack_request = false;
        solo.deliver(&missing);
        assert_eq!(solo.answers(), [(0, ACK)]);
    }

    #[test]
    fn makes_the_requester_go_back() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 3 * MTU);
        solo.post(2, SEND, 0, 3 * MTU);
        solo.run();
        solo.nak(4, NakCode::PsnSequence);
        assert_sends(&solo, &[Outcome::Success]);
        // A second copy of the NAK finds the retransmission pending.
        solo.nak(4, NakCode::PsnSequence);
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 2);
        assert_eq!(pdus[0].psn, Psn::new(1004));
        assert_eq!(pdus[0].body, send(Place::Middle));
        assert_eq!(solo.node.counter(Counter::TxRetransmits), 2);
        solo.ack(5);
        assert_sends(&solo, &[Outcome::Success; 2]);
    }

    #[test]
    fn counts_as_a_retry() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, SEND, 0, 1);
        for _ in 0..3 {
            assert_eq!(solo.run().len(), 2);
            solo.nak(0, NakCode::PsnSequence);
        }
        solo.run();
        solo.nak(0, NakCode::PsnSequence);
        assert_sends(&solo, &[Outcome::RetryExceeded, Outcome::Flushed]);
        assert_broken(&mut solo);
    }

    #[test]
    fn gives_the_retransmission_its_whole_time() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.run();
        solo.now = Time(4_000_000);
        solo.nak(0, NakCode::PsnSequence);
        solo.run();
        assert_eq!(solo.qp.deadline(), Some(Time(4_000_000 + (4096 << 10))));
    }
}

mod timeout {
    use super::*;

    #[test]
    fn sends_again_what_is_not_acknowledged() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 3 * MTU);
        solo.run();
        assert_eq!(solo.qp.deadline(), Some(Time(4096 << 10)));
        solo.ack(0);
        solo.expire();
        assert_eq!(solo.node.counter(Counter::LocalAckTimeoutErr), 1);
        assert_eq!(solo.sent_psns(), [1, 2]);
    }

    #[test]
    fn starts_over_with_every_progress() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 3 * MTU);
        solo.run();
        solo.now = Time(3_000_000);
        solo.ack(0);
        assert_eq!(solo.qp.deadline(), Some(Time(3_000_000 + (4096 << 10))));
        solo.ack(0);
        solo.now = Time(4_000_000);
        assert_eq!(solo.qp.deadline(), Some(Time(3_000_000 + (4096 << 10))));
    }

    #[test]
    fn of_code_zero_never_expires() {
        let setup = Setup {
            timeout: 0,
            ..Setup::default()
        };
        let mut solo = Solo::rts(setup);
        solo.post(1, SEND, 0, 1);
        solo.run();
        assert_eq!(solo.qp.deadline(), None);
    }

    #[test]
    fn an_acknowledgement_overtakes_the_retransmission() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 2 * MTU);
        solo.post(2, SEND, 0, 2 * MTU);
        solo.run();
        solo.expire();
        solo.ack(2);
        assert_eq!(solo.sent_psns(), [3]);
        solo.ack(3);
        assert_sends(&solo, &[Outcome::Success; 2]);
        assert!(solo.run().is_empty());
    }
}

mod retry_exceeded {
    use super::*;

    #[test]
    fn after_the_first_attempt_and_all_retries() {
        for retry_count in [0, 1, 7] {
            let setup = Setup {
                retry_count,
                ..Setup::default()
            };
            let mut solo = Solo::rts(setup);
            solo.post(1, SEND, 0, 1);
            solo.post(2, SEND, 0, 1);
            for _ in 0..=retry_count {
                assert_eq!(solo.run().len(), 2);
                solo.expire();
            }
            assert_sends(&solo, &[Outcome::RetryExceeded, Outcome::Flushed]);
            assert_broken(&mut solo);
        }
    }

    #[test]
    fn progress_gives_the_retries_back() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 8 * MTU);
        for psn in 0..7 {
            for _ in 0..3 {
                solo.run();
                solo.expire();
            }
            solo.run();
            solo.ack(psn);
        }
        assert_eq!(solo.qp.state(), State::Rts);
    }
}

mod rnr {
    use super::*;

    fn rnr(code: u8) -> Body {
        acknowledge(Syndrome::RnrNak(code))
    }

    #[test]
    fn is_the_answer_without_a_receive_buffer() {
        let write = Body::Write {
            place: Place::Only,
            target: Some(range(0, 1)),
            immediate: Some(5),
        };
        for body in [send(Place::Only), write] {
            let mut solo = Solo::new();
            solo.request(0, body, b"x");
            assert_eq!(solo.answers(), [(0, Syndrome::RnrNak(12))]);
            // What follows is dropped quietly until the request comes again.
            solo.request(1, body, b"x");
            assert!(solo.answers().is_empty());
            assert_eq!(solo.node.bytes(0, 1), [PATTERN], "nothing was placed");
            solo.node.post_receive(1, 8, 64);
            solo.request(0, body, b"x");
            assert_eq!(solo.answers(), [(0, ACK)]);
            assert_eq!(solo.node.counter(Counter::OutOfBuffer), 1);
        }
    }

    #[test]
    fn is_for_the_last_packet_of_a_long_write() {
        let mut solo = Solo::new();
        let first = Body::Write {
            place: Place::First,
            target: Some(range(0, 300)),
            immediate: None,
        };
        let last = Body::Write {
            place: Place::Last,
            target: None,
            immediate: Some(5),
        };
        solo.request(0, first, &[1; 256]);
        solo.request(1, last, &[2; 44]);
        assert_eq!(solo.answers(), [(1, Syndrome::RnrNak(12))]);
        solo.node.post_receive(1, 1000, 0);
        solo.request(1, last, &[2; 44]);
        assert_eq!(solo.answers(), [(1, ACK)]);
        assert_eq!(solo.node.received[0].bytes, 300);
        assert_eq!(solo.node.received[0].kind, ReceiveKind::Write(5));
    }

    #[test]
    fn makes_the_requester_wait() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, SEND, 0, 1);
        solo.run();
        solo.response(0, rnr(1), &[]);
        solo.post(3, SEND, 0, 1);
        assert!(!solo.qp.has_work() && solo.run().is_empty());
        assert_eq!(solo.qp.deadline(), Some(Time(10_000)));
        solo.response(0, rnr(31), &[]);
        assert_eq!(
            solo.qp.deadline(),
            Some(Time(10_000)),
            "a copy changes nothing"
        );
        solo.expire();
        assert_eq!(solo.sent_psns(), [0, 1, 2]);
    }

    #[test]
    fn retries_are_counted() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        for _ in 0..3 {
            solo.run();
            solo.response(0, rnr(1), &[]);
            solo.expire();
        }
        solo.run();
        solo.response(0, rnr(1), &[]);
        assert_sends(&solo, &[Outcome::RnrRetryExceeded]);
        assert_eq!(solo.node.counter(Counter::RnrNakRetryErr), 1);
        assert_broken(&mut solo);
    }

    #[test]
    fn seven_retries_are_without_limit() {
        let setup = Setup {
            rnr_retry: 7,
            ..Setup::default()
        };
        let mut solo = Solo::rts(setup);
        solo.post(1, SEND, 0, 1);
        for _ in 0..100 {
            assert_eq!(solo.run().len(), 1);
            solo.response(0, rnr(1), &[]);
            solo.expire();
        }
        solo.run();
        solo.ack(0);
        assert_sends(&solo, &[Outcome::Success]);
    }

    #[test]
    fn an_acknowledgement_ends_the_wait() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, SEND, 0, 1);
        solo.run();
        solo.response(0, rnr(31), &[]);
        solo.ack(0);
        assert_eq!(solo.sent_psns(), [1]);
    }
}

mod refusal {
    use super::*;

    #[test]
    fn ends_the_request_that_it_names() {
        let table = [
            (NakCode::InvalidRequest, Outcome::RemoteInvalidRequest),
            (NakCode::RemoteAccess, Outcome::RemoteAccess),
            (NakCode::RemoteOperational, Outcome::RemoteOperation),
            (NakCode::InvalidRdRequest, Outcome::BadResponse),
        ];
        for (code, outcome) in table {
            let mut solo = Solo::new();
            for cookie in 1..=4 {
                solo.post(cookie, SEND, 0, 2 * MTU);
            }
            solo.node.post_receive(1, 0, 1);
            solo.run();
            solo.nak(3, code);
            let flushed = Outcome::Flushed;
            assert_sends(&solo, &[Outcome::Success, outcome, flushed, flushed]);
            assert_receives(&solo, &[flushed]);
            assert_broken(&mut solo);
        }
    }

    #[test]
    fn of_a_read_after_lost_responses() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(0), 0, 4 * MTU);
        solo.run();
        solo.nak(2, NakCode::RemoteAccess);
        assert_sends(&solo, &[Outcome::RemoteAccess]);
    }

    #[test]
    fn behind_an_unanswered_read_asks_for_the_read_first() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(0), 0, 1);
        solo.post(2, SEND, 0, 1);
        solo.run();
        solo.nak(1, NakCode::RemoteAccess);
        assert!(solo.node.sent.is_empty());
        assert_eq!(solo.sent_psns(), [0, 1]);
    }
}
