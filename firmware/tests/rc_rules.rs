//! The reliable connected transport rule by rule: one queue pair, its peer played by hand.
//!
//! Sequence numbers in these tests count from the first of each direction.

#![allow(clippy::panic, clippy::unwrap_used)] // Helpers of tests.

mod rc_bench;

use rc_bench::*;
use vrnic_abi::counter::Counter;
use vrnic_firmware::pdu::{
    Acknowledge, AtomicOperation, Body, NakCode, Place, RemoteRange, SendTail, Syndrome,
};
use vrnic_firmware::transport::{
    AttributeSet, Modify, ModifyError, Pkey, QpEvent, ReceiveKind, ReceiveWork, SendOperation,
};
use vrnic_firmware::types::{Access, Mtu, Outcome, Psn, Qpn, State, Time};

const ACK: Syndrome = Syndrome::Ack(31);

const fn nak(code: NakCode) -> Syndrome {
    Syndrome::Nak(code)
}

/// The state that every fault must lead to: error, everything flushed, nothing left to do.
#[track_caller]
fn assert_broken(solo: &mut Solo) {
    assert_eq!(solo.qp.state(), State::Error);
    solo.run();
    assert!(solo.node.handed.is_empty() && solo.node.receives_handed.is_empty());
    assert!(solo.node.sends.is_empty() && solo.node.receives.is_empty());
    assert!(!solo.qp.has_work() && solo.qp.deadline().is_none());
}

/// How the last send ended before the flush.
#[track_caller]
fn assert_sends(solo: &Solo, outcomes: &[Outcome]) {
    let expected: Vec<_> = (1..).zip(outcomes.iter().copied()).collect();
    assert_eq!(solo.node.outcomes(), expected);
}

#[track_caller]
fn assert_receives(solo: &Solo, outcomes: &[Outcome]) {
    let got: Vec<_> = solo.node.received.iter().map(|done| done.outcome).collect();
    assert_eq!(got, outcomes);
}

mod states {
    use super::*;

    const STATES: [State; 7] = [
        State::Reset,
        State::Init,
        State::Rtr,
        State::Rts,
        State::Sqd,
        State::Sqe,
        State::Error,
    ];

    fn at(state: State) -> Solo {
        let setup = Setup::default();
        let mut solo = Solo::reset(setup);
        let steps = [
            setup.init(),
            setup.rtr(),
            setup.rts(),
            Modify::to(State::Sqd),
        ];
        for step in steps {
            if solo.qp.state() == state {
                break;
            }
            if state == State::Error {
                solo.modify(Modify::to(State::Error)).unwrap();
                break;
            }
            solo.modify(step).unwrap();
        }
        assert_eq!(solo.qp.state(), state);
        solo
    }

    /// What the transition needs, with everything right.
    fn change(from: State, to: State) -> Modify {
        let setup = Setup::default();
        match (from, to) {
            (State::Reset, State::Init) => setup.init(),
            (State::Init, State::Rtr) => setup.rtr(),
            (State::Rtr, State::Rts) => setup.rts(),
            _ => Modify::to(to),
        }
    }

    #[test]
    fn only_the_transitions_of_the_table_exist() {
        use State::*;
        let exist = [
            (Reset, Init),
            (Init, Init),
            (Init, Rtr),
            (Rtr, Rts),
            (Rts, Rts),
            (Rts, Sqd),
            (Sqd, Sqd),
            (Sqd, Rts),
        ];
        for from in STATES.into_iter().filter(|&state| state != Sqe) {
            for to in STATES {
                let mut solo = at(from);
                let result = solo.modify(change(from, to));
                if matches!(to, Reset | Error) || exist.contains(&(from, to)) {
                    assert_eq!(result, Ok(()), "{from:?} to {to:?}");
                    assert_eq!(solo.qp.state(), to);
                } else {
                    assert_eq!(result, Err(ModifyError::Transition), "{from:?} to {to:?}");
                    assert_eq!(solo.qp.state(), from);
                }
            }
        }
    }

    #[test]
    fn each_required_attribute_is_required() {
        let setup = Setup::default();
        let mut init = Solo::reset(setup);
        let without_port = Modify {
            port: None,
            ..setup.init()
        };
        let missing = Err(ModifyError::Missing(AttributeSet::PORT));
        assert_eq!(init.modify(without_port), missing);
        init.modify(setup.init()).unwrap();
        let bare = init.modify(Modify::to(State::Rtr));
        let required = AttributeSet::PATH
            | AttributeSet::PATH_MTU
            | AttributeSet::REMOTE_QPN
            | AttributeSet::RECEIVE_PSN
            | AttributeSet::RESPONDER_RESOURCES
            | AttributeSet::MIN_RNR_TIMER;
        assert_eq!(bare, Err(ModifyError::Missing(required)));
        init.modify(setup.rtr()).unwrap();
        let required = AttributeSet::TIMEOUT
            | AttributeSet::RETRY_COUNT
            | AttributeSet::RNR_RETRY
            | AttributeSet::SEND_PSN
            | AttributeSet::INITIATOR_DEPTH;
        let bare = init.modify(Modify::to(State::Rts));
        assert_eq!(bare, Err(ModifyError::Missing(required)));
    }

    #[test]
    fn attributes_that_do_not_belong_change_nothing() {
        let mut solo = Solo::new();
        let before = solo.qp.attributes();
        let change = Modify {
            access: Some(Access::empty()),
            path_mtu: Some(Mtu::B4096),
            ..Modify::default()
        };
        let refused = Err(ModifyError::NotAllowed(AttributeSet::PATH_MTU));
        assert_eq!(solo.modify(change), refused);
        assert_eq!(solo.qp.attributes(), before);
    }

    #[test]
    fn values_are_checked() {
        let mut solo = Solo::rtr(Setup::default());
        let change = Modify {
            timeout: Some(32),
            retry_count: Some(8),
            rnr_retry: Some(8),
            initiator_depth: Some(17),
            ..Setup::default().rts()
        };
        let wrong = AttributeSet::TIMEOUT
            | AttributeSet::RETRY_COUNT
            | AttributeSet::RNR_RETRY
            | AttributeSet::INITIATOR_DEPTH;
        assert_eq!(solo.modify(change), Err(ModifyError::OutOfRange(wrong)));
        let change = Modify {
            current_state: Some(State::Rts),
            ..Setup::default().rts()
        };
        assert_eq!(solo.modify(change), Err(ModifyError::CurrentState));
    }

    #[test]
    fn a_query_returns_what_was_set() {
        let solo = Solo::new();
        let attributes = solo.qp.attributes();
        assert_eq!(attributes.path_mtu, Mtu::B256);
        assert_eq!(attributes.remote_qpn, Qpn::new(0x22));
        assert_eq!(attributes.send_psn, Psn::new(1000));
        assert_eq!(attributes.receive_psn, Psn::new(2000));
        let pkey = Pkey {
            index: 0,
            key: 0xffff,
        };
        assert_eq!(attributes.pkey, pkey);
        assert_eq!(solo.qp.path().pkey, 0xffff);
    }

    #[test]
    fn reset_forgets_everything_without_completions() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 100);
        solo.run();
        solo.modify(Modify::to(State::Reset)).unwrap();
        assert!(solo.node.sent.is_empty());
        assert!(!solo.qp.has_work() && solo.qp.deadline().is_none());
        assert_eq!(solo.qp.attributes().retry_count, 0);
    }

    #[test]
    fn before_rtr_and_after_an_error_packets_are_dropped() {
        for state in [State::Reset, State::Init, State::Error] {
            let mut solo = at(state);
            solo.request(0, send(Place::Only), b"x");
            assert_eq!(solo.node.counter(Counter::RxNoQp), 1, "{state:?}");
            assert!(solo.run().is_empty());
        }
    }

    #[test]
    fn rtr_answers_and_does_not_send() {
        let mut solo = Solo::rtr(Setup::default());
        solo.post(1, SEND, 0, 4);
        assert!(solo.run().is_empty());
        solo.node.post_receive(9, 0, 64);
        solo.request(0, send(Place::Only), b"x");
        solo.request(
            1,
            Body::Read {
                source: range(0, 1),
            },
            &[],
        );
        assert_eq!(
            solo.run().len(),
            1,
            "the READ response acknowledges the SEND"
        );
        assert_eq!(solo.node.events, [QpEvent::CommunicationEstablished]);
        solo.modify(solo.setup.rts()).unwrap();
        assert_eq!(solo.sent_psns(), [0]);
    }
}

mod sqd {
    use super::*;

    fn notify() -> Modify {
        Modify {
            sqd_notify: Some(true),
            ..Modify::to(State::Sqd)
        }
    }

    #[test]
    fn an_idle_queue_has_drained_at_once() {
        let mut solo = Solo::new();
        solo.modify(notify()).unwrap();
        assert_eq!(solo.node.events, [QpEvent::SendQueueDrained]);
        assert!(!solo.qp.is_draining());
    }

    #[test]
    fn started_messages_end_and_others_wait() {
        let mut solo = Solo::new();
        solo.node.room = 2;
        solo.post(1, SEND, 0, 3 * MTU);
        solo.post(2, SEND, 0, 1);
        let mut side_sent = 0;
        // Two packets go out; then there is no room.
        solo.poll_once();
        side_sent += std::mem::take(&mut solo.out).len();
        assert_eq!(side_sent, 2);
        solo.node.room = usize::MAX;
        solo.modify(notify()).unwrap();
        assert!(solo.qp.is_draining());
        assert_eq!(solo.sent_psns(), [2], "the rest of the first message");
        let change = Modify {
            timeout: Some(5),
            ..Modify::to(State::Sqd)
        };
        assert_eq!(solo.modify(change), Err(ModifyError::Draining));
        solo.ack(2);
        assert_eq!(solo.node.events, [QpEvent::SendQueueDrained]);
        assert!(!solo.qp.has_work());
        solo.modify(change).unwrap();
        assert_eq!(solo.qp.attributes().timeout, 5);
        solo.modify(Modify::to(State::Rts)).unwrap();
        assert_eq!(solo.sent_psns(), [3]);
        assert_eq!(solo.node.events.len(), 1);
    }

    #[test]
    fn without_the_wish_nothing_is_reported() {
        let mut solo = Solo::new();
        solo.modify(Modify::to(State::Sqd)).unwrap();
        assert!(solo.node.events.is_empty());
    }

    #[test]
    fn requests_are_answered() {
        let mut solo = Solo::new();
        solo.modify(Modify::to(State::Sqd)).unwrap();
        solo.node.post_receive(1, 0, 64);
        solo.request(0, send(Place::Only), b"x");
        assert_eq!(solo.answers(), [(0, ACK)]);
    }
}

mod sending {
    use super::*;

    #[test]
    fn a_message_is_cut_into_packets() {
        let mut solo = Solo::new();
        solo.node.number(0, 1000);
        solo.post(1, write_operation(4096), 10, 600);
        let packets = solo.run();
        let places = [Place::First, Place::Middle, Place::Last];
        let lengths = [256, 256, 88];
        assert_eq!(packets.len(), 3);
        for (index, packet) in packets.iter().enumerate() {
            let Body::Write { place, target, .. } = packet.pdu.body else {
                panic!("{packet:?}");
            };
            assert_eq!(place, places[index]);
            assert_eq!(target, (index == 0).then(|| range(4096, 600)));
            assert_eq!(packet.pdu.length, lengths[index]);
            assert_eq!(packet.pdu.ack_request, index == 2);
            assert_eq!(packet.payload[0], mark(10 + 256 * index as u64));
        }
    }

    #[test]
    fn a_burst_is_one_pdu() {
        let setup = Setup {
            burst: 64,
            ..Setup::default()
        };
        let mut solo = Solo::rts(setup);
        solo.post(1, write_operation(0), 0, 16 << 10);
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 1);
        assert_eq!((pdus[0].packets, pdus[0].length), (64, 16 << 10));
        solo.ack(63);
        assert_sends(&solo, &[Outcome::Success]);
    }

    #[test]
    fn an_empty_message_is_one_packet() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 0);
        let pdus = solo.pdus();
        assert_eq!((pdus.len(), pdus[0].length), (1, 0));
        assert_eq!(pdus[0].body, send(Place::Only));
        solo.ack(0);
        assert_eq!(solo.node.sent, [(1, Outcome::Success, 0)]);
    }

    #[test]
    fn inline_data_needs_no_memory() {
        let mut solo = Solo::new();
        let mut work = work(1, SEND, 0, 0);
        work.sges.clear();
        work.inline = (0..300u32).map(|i| i as u8).collect();
        solo.node.sends.push_back(work);
        let packets = solo.run();
        assert_eq!(packets[1].payload.len(), 44);
        assert_eq!(packets[1].payload[0], 0);
    }

    #[test]
    fn solicited_and_immediate_stand_in_the_last_packet() {
        let mut solo = Solo::new();
        let tail = SendTail::Immediate(7);
        let mut work = work(1, SendOperation::Send(tail), 0, 2 * MTU);
        work.solicited = true;
        solo.node.sends.push_back(work);
        let pdus = solo.pdus();
        assert_eq!(pdus[0].body, send(Place::First));
        assert!(!pdus[0].solicited && pdus[1].solicited);
        let place = Place::Last;
        assert_eq!(pdus[1].body, Body::Send { place, tail });
    }

    #[test]
    fn nop_completes_in_its_turn() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, SendOperation::Nop, 0, 0);
        solo.run();
        assert!(solo.node.sent.is_empty());
        solo.ack(0);
        assert_sends(&solo, &[Outcome::Success; 2]);
        solo.post(3, SendOperation::Nop, 0, 0);
        solo.run();
        assert_sends(&solo, &[Outcome::Success; 3]);
    }

    #[test]
    fn the_window_bounds_what_is_outstanding() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 60_000);
        solo.post(2, SEND, 0, 60_000);
        let first = solo.pdus();
        assert_eq!(first.len(), 256);
        assert!(
            first[255].ack_request,
            "the peer is asked before the window closes"
        );
        assert!(!solo.qp.has_work());
        solo.ack(99);
        assert!(solo.run().len() >= 100);
    }

    #[test]
    fn messages_outstanding_are_bounded() {
        let mut solo = Solo::new();
        for cookie in 1..=300 {
            solo.post(cookie, read_operation(0), 0, 1);
        }
        solo.run();
        assert!(solo.node.handed.len() <= 256);
        assert_eq!(solo.node.sends.len() + solo.node.handed.len(), 300);
    }

    #[test]
    fn no_room_loses_nothing() {
        let mut solo = Solo::new();
        solo.node.room = 1;
        solo.post(1, SEND, 0, 3 * MTU);
        for psn in 0..3 {
            assert_eq!(solo.poll_once(), 1, "packet {psn}");
            assert_eq!(
                solo.out.pop().map(|p| p.pdu.psn),
                Some(Psn::new(1000 + psn))
            );
        }
    }
}

mod fence {
    use super::*;

    #[test]
    fn waits_for_reads_and_atomics() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(0), 0, 8);
        let mut fenced = work(2, SEND, 0, 8);
        fenced.fence = true;
        solo.node.sends.push_back(fenced);
        assert_eq!(solo.sent_psns(), [0]);
        assert!(!solo.qp.has_work());
        solo.response(0, read_response(Place::Only), &[1; 8]);
        assert_eq!(solo.sent_psns(), [1]);
    }

    #[test]
    fn does_not_wait_for_writes() {
        let mut solo = Solo::new();
        solo.post(1, write_operation(0), 0, 8);
        let mut fenced = work(2, SEND, 0, 8);
        fenced.fence = true;
        solo.node.sends.push_back(fenced);
        assert_eq!(solo.sent_psns(), [0, 1]);
    }
}

mod initiator_depth {
    use super::*;

    #[test]
    fn bounds_reads_in_flight() {
        let setup = Setup {
            depth: 2,
            ..Setup::default()
        };
        let mut solo = Solo::rts(setup);
        for cookie in 1..=3 {
            solo.post(cookie, read_operation(0), 0, 1);
        }
        assert_eq!(solo.sent_psns(), [0, 1]);
        assert!(!solo.qp.has_work());
        solo.response(0, read_response(Place::Only), &[0]);
        assert_eq!(solo.sent_psns(), [2]);
    }

    #[test]
    fn of_zero_fails_the_request() {
        let setup = Setup {
            depth: 0,
            ..Setup::default()
        };
        let mut solo = Solo::rts(setup);
        solo.post(1, read_operation(0), 0, 1);
        assert!(solo.run().is_empty());
        assert_sends(&solo, &[Outcome::LocalQpOperation]);
        assert_broken(&mut solo);
    }
}

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
        solo.request(0, send(Place::Only), b"x");
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

mod local_errors {
    use super::*;

    /// The outcome of one request after a good one, and whether anything of it was sent.
    #[track_caller]
    fn fails(change: impl Fn(&mut Solo), expected: Outcome) {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        change(&mut solo);
        solo.post(3, SEND, 0, 1);
        assert_eq!(solo.sent_psns(), [0], "nothing of it is sent");
        assert!(solo.node.sent.is_empty(), "it waits for its turn");
        solo.ack(0);
        solo.run();
        assert_sends(&solo, &[Outcome::Success, expected, Outcome::Flushed]);
        assert_eq!(solo.node.counter(Counter::ReqCqeError), 1);
        assert_broken(&mut solo);
    }

    #[test]
    fn protection() {
        let wrong_key = |solo: &mut Solo, operation, length| {
            let mut work = work(2, operation, 0, length);
            work.sges[0].lkey = 0x999;
            solo.node.sends.push_back(work);
        };
        for operation in [
            SEND,
            write_operation(0),
            read_operation(0),
            atomic(0, AtomicOperation::FetchAdd(1)),
        ] {
            for length in [8, 1000] {
                fails(
                    |solo| wrong_key(solo, operation, length),
                    Outcome::LocalProtection,
                );
            }
        }
    }

    #[test]
    fn bounds() {
        let outside = |solo: &mut Solo| solo.post(2, SEND, (64 << 10) - 300, 301);
        fails(outside, Outcome::LocalProtection);
        let wraps = |solo: &mut Solo| {
            let mut work = work(2, SEND, 0, 300);
            work.sges[0].address = u64::MAX - 10;
            solo.node.sends.push_back(work);
        };
        fails(wraps, Outcome::LocalProtection);
    }

    #[test]
    fn a_read_needs_local_write() {
        let read_only = |solo: &mut Solo| {
            let mut region = solo.node.regions[&KEY];
            region.access = Access::LOCAL_READ;
            solo.node.regions.insert(7, region);
            let mut work = work(2, read_operation(0), 0, 8);
            work.sges[0].lkey = 7;
            solo.node.sends.push_back(work);
        };
        fails(read_only, Outcome::LocalProtection);
    }

    #[test]
    fn length() {
        let huge = |solo: &mut Solo| {
            let mut work = work(2, SEND, 0, 1 << 31);
            work.sges.push(sge(0, 1));
            solo.node.sends.push_back(work);
        };
        fails(huge, Outcome::LocalLength);
        let short = |solo: &mut Solo| {
            solo.post(2, atomic(0, AtomicOperation::FetchAdd(1)), 0, 7);
        };
        fails(short, Outcome::LocalLength);
    }

    #[test]
    fn what_the_front_end_refused() {
        let invalid = SendOperation::Invalid(Outcome::LocalQpOperation);
        fails(
            |solo| solo.post(2, invalid, 0, 0),
            Outcome::LocalQpOperation,
        );
    }

    #[test]
    fn memory_that_cannot_be_read() {
        let unreachable = |solo: &mut Solo| {
            solo.node.dma_limit = 4096;
            solo.post(2, SEND, 4000, 200);
        };
        fails(unreachable, Outcome::LocalProtection);
    }

    #[test]
    fn at_once_if_nothing_is_before_it() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 64 << 10, 1);
        assert!(solo.run().is_empty());
        assert_sends(&solo, &[Outcome::LocalProtection]);
        assert_broken(&mut solo);
    }

    #[test]
    fn of_the_senders_memory_found_by_the_receiver() {
        // The receiving side is not hurt and can take the message later.
        let mut receiver = Solo::new();
        receiver.node.post_receive(1, 0, 64);
        let mut lost = packet(Psn::new(2000), 1, send(Place::Only), b"abc");
        lost.lost_source = true;
        receiver.deliver(&lost);
        assert_eq!(receiver.qp.state(), State::Rts);
        assert_eq!(receiver.answers(), [(0, nak(NakCode::InvalidRdRequest))]);
        receiver.request(0, send(Place::Only), b"abc");
        assert_receives(&receiver, &[Outcome::Success]);
        assert_eq!(receiver.node.bytes(0, 4), [b'a', b'b', b'c', PATTERN]);
        // The sending side fails as it would have on the wire.
        let setup = Setup {
            burst: 64,
            ..Setup::default()
        };
        let mut sender = Solo::rts(setup);
        sender.post(1, SEND, 0, 3);
        sender.run();
        sender.nak(0, NakCode::InvalidRdRequest);
        assert_sends(&sender, &[Outcome::LocalProtection]);
    }
}

mod flush {
    use super::*;

    #[test]
    fn in_order() {
        let mut solo = Solo::new();
        for cookie in 1..=400 {
            solo.post(cookie, SEND, 0, 256);
            solo.node.post_receive(cookie, 0, 300);
        }
        solo.run();
        solo.request(0, send(Place::First), &[0; 256]);
        solo.modify(Modify::to(State::Error)).unwrap();
        assert!(solo.node.received.len() < 400, "the rest follows");
        solo.run();
        let flushed = Outcome::Flushed;
        let expected: Vec<_> = (1..=400).map(|cookie| (cookie, flushed)).collect();
        assert_eq!(solo.node.outcomes(), expected);
        let got = solo
            .node
            .received
            .iter()
            .map(|done| (done.cookie, done.outcome));
        assert_eq!(got.collect::<Vec<_>>(), expected);
        assert_broken(&mut solo);
    }

    #[test]
    fn what_is_posted_later_too() {
        let mut solo = Solo::new();
        solo.modify(Modify::to(State::Error)).unwrap();
        assert!(!solo.qp.has_work());
        solo.post(1, SEND, 0, 1);
        solo.node.post_receive(1, 0, 1);
        assert!(solo.qp.has_work());
        assert!(solo.run().is_empty());
        assert_sends(&solo, &[Outcome::Flushed]);
        assert_receives(&solo, &[Outcome::Flushed]);
    }
}

mod receiving {
    use super::*;

    #[test]
    fn scatters_a_send() {
        let mut solo = Solo::new();
        solo.node.receives.push_back(ReceiveWork {
            cookie: 1,
            sges: [sge(100, 200), sge(50, 0), sge(1000, 400)]
                .into_iter()
                .collect(),
            invalid: None,
        });
        let data: Vec<u8> = (0..300u32).map(|i| i as u8).collect();
        solo.request(0, send(Place::First), &data[..256]);
        let tail = SendTail::Immediate(0x0102_0304);
        let place = Place::Last;
        let mut last = packet(Psn::new(2001), 1, Body::Send { place, tail }, &data[256..]);
        last.pdu.solicited = true;
        solo.deliver(&last);
        assert_eq!(solo.node.bytes(100, 200), &data[..200]);
        assert_eq!(solo.node.bytes(1000, 100), &data[200..]);
        assert_eq!(solo.node.bytes(300, 700), [PATTERN; 700]);
        assert_eq!(solo.node.bytes(1100, 8), [PATTERN; 8]);
        let done = solo.node.received[0];
        assert_eq!((done.bytes, done.kind), (300, ReceiveKind::Send(tail)));
        assert!(done.solicited);
    }

    #[test]
    fn an_empty_send_needs_a_buffer_and_no_key() {
        let mut solo = Solo::new();
        solo.request(0, send(Place::Only), &[]);
        assert_eq!(solo.answers(), [(0, Syndrome::RnrNak(12))]);
        solo.node.receives.push_back(ReceiveWork {
            cookie: 1,
            sges: Default::default(),
            invalid: None,
        });
        solo.request(0, send(Place::Only), &[]);
        assert_receives(&solo, &[Outcome::Success]);
    }

    #[test]
    fn an_empty_write_and_an_empty_read_need_no_key() {
        let mut solo = Solo::new();
        let nowhere = RemoteRange {
            address: 1,
            rkey: 0xdead,
            length: 0,
        };
        let write = Body::Write {
            place: Place::Only,
            target: Some(nowhere),
            immediate: None,
        };
        solo.request(0, write, &[]);
        solo.request(1, Body::Read { source: nowhere }, &[]);
        let pdus = solo.pdus();
        assert_eq!((pdus.len(), pdus[0].length), (1, 0));
        assert!(matches!(
            pdus[0].body,
            Body::ReadResponse {
                place: Place::Only,
                ..
            }
        ));
    }

    #[test]
    fn a_send_can_invalidate_a_key() {
        let mut solo = Solo::new();
        solo.node.regions.insert(7, solo.node.regions[&KEY]);
        let tail = SendTail::Invalidate(7);
        let place = Place::Only;
        for psn in 0..2 {
            solo.node.post_receive(psn, 0, 8);
            solo.request(psn as i32, Body::Send { place, tail }, b"x");
        }
        assert_receives(&solo, &[Outcome::Success, Outcome::LocalAccess]);
        assert_eq!(solo.node.invalidated, [7, 7]);
        assert_eq!(solo.answers().pop(), Some((1, nak(NakCode::RemoteAccess))));
        assert_broken(&mut solo);
    }

    #[test]
    fn a_burst_is_taken_whole() {
        let mut solo = Solo::new();
        solo.node.post_receive(1, 0, 4096);
        solo.requests(0, 3, send(Place::First), &[1; 768]);
        solo.requests(3, 2, send(Place::Last), &[2; 300]);
        assert_eq!(solo.answers(), [(4, ACK)]);
        assert_eq!(solo.node.received[0].bytes, 1068);
        // Seen before, even if it reaches further than what was seen.
        solo.requests(3, 3, send(Place::Last), &[3; 600]);
        assert_eq!(solo.answers(), [(4, ACK)]);
        assert_eq!(solo.node.bytes(768, 300), [2; 300]);
    }

    #[test]
    fn congestion_is_counted() {
        let mut solo = Solo::new();
        solo.request(0, Body::Congestion, &[]);
        assert_eq!(solo.node.counter(Counter::RpCnpHandled), 1);
    }
}

mod duplicates {
    use super::*;

    #[test]
    fn of_sends_and_writes_are_acknowledged_again() {
        let mut solo = Solo::new();
        solo.node.post_receive(1, 0, 8);
        solo.request(0, send(Place::Only), b"a");
        solo.run();
        solo.request(0, send(Place::Only), b"b");
        assert_eq!(solo.answers(), [(0, ACK)]);
        assert_eq!(solo.node.received.len(), 1);
        assert_eq!(solo.node.bytes(0, 1), b"a");
        assert_eq!(solo.node.counter(Counter::DuplicateRequest), 1);
    }

    #[test]
    fn of_reads_read_again() {
        let mut solo = Solo::new();
        solo.node.number(0, 1024);
        solo.request(
            0,
            Body::Read {
                source: range(0, 1024),
            },
            &[],
        );
        assert_eq!(solo.run().len(), 4);
        solo.node.memory[512] = 99;
        let rest = Body::Read {
            source: range(512, 512),
        };
        solo.request(2, rest, &[]);
        let packets = solo.run();
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].pdu.psn, Psn::new(2002));
        assert_eq!(packets[0].payload[0], 99);
        let place = |index: usize| match packets[index].pdu.body {
            Body::ReadResponse { place, .. } => place,
            _ => panic!("{packets:?}"),
        };
        assert_eq!((place(0), place(1)), (Place::First, Place::Last));
    }

    #[test]
    fn of_reads_restart_the_response_only_if_needed() {
        let mut solo = Solo::new();
        let all = Body::Read {
            source: range(0, 4 * MTU),
        };
        solo.node.room = 2;
        solo.request(0, all, &[]);
        solo.poll_once();
        assert_eq!(std::mem::take(&mut solo.out).len(), 2);
        // The third packet is still to be sent: nothing to repeat.
        let third = Body::Read {
            source: range(512, 512),
        };
        solo.request(2, third, &[]);
        // The second one was sent, and is missing.
        let second = Body::Read {
            source: range(256, 768),
        };
        solo.request(1, second, &[]);
        solo.node.room = usize::MAX;
        let psns: Vec<_> = solo.pdus().iter().map(|pdu| pdu.psn.get()).collect();
        assert_eq!(psns, [2001, 2002, 2003]);
    }

    #[test]
    fn of_reads_whose_memory_has_gone_are_dropped() {
        let mut solo = Solo::new();
        solo.request(
            0,
            Body::Read {
                source: range(0, 1),
            },
            &[],
        );
        solo.run();
        solo.node.regions.clear();
        solo.request(
            0,
            Body::Read {
                source: range(0, 1),
            },
            &[],
        );
        assert!(solo.run().is_empty());
        assert_eq!(solo.qp.state(), State::Rts);
    }

    #[test]
    fn of_atomics_are_answered_from_memory_of_the_first() {
        let mut solo = Solo::new();
        solo.node.memory[..8].fill(0);
        for psn in [0, 1, 0, 1, 1] {
            let operation = AtomicOperation::FetchAdd(10);
            solo.request(psn, atomic_body(0, operation), &[]);
            let pdus = solo.pdus();
            let Body::AtomicResponse { original, .. } = pdus[0].body else {
                panic!("{pdus:?}");
            };
            assert_eq!(original, 10 * psn as u64);
        }
        assert_eq!(solo.node.memory[0], 20, "each was executed once");
    }

    #[test]
    fn do_not_pile_up() {
        let mut solo = Solo::new();
        solo.node.number(0, 1024);
        for psn in 0..40 {
            solo.request(
                psn,
                Body::Read {
                    source: range(0, 1),
                },
                &[],
            );
            solo.run();
        }
        for psn in 0..40 {
            solo.request(
                psn,
                Body::Read {
                    source: range(0, 1),
                },
                &[],
            );
        }
        assert_eq!(solo.run().len(), 4, "no more than the responder resources");
    }
}

mod read {
    use super::*;

    #[test]
    fn places_the_responses() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(4096), 10, 600);
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 1);
        let source = range(4096, 600);
        assert_eq!(pdus[0].body, Body::Read { source });
        solo.response(0, read_response(Place::First), &[1; 256]);
        solo.response(1, read_response(Place::Middle), &[2; 256]);
        assert!(solo.node.sent.is_empty());
        solo.response(2, read_response(Place::Last), &[3; 88]);
        assert_eq!(solo.node.sent, [(1, Outcome::Success, 600)]);
        assert_eq!(solo.node.bytes(10, 256), [1; 256]);
        assert_eq!(solo.node.bytes(522, 88), [3; 88]);
        assert_eq!(solo.node.bytes(610, 8), [PATTERN; 8]);
        assert_eq!(solo.qp.deadline(), None);
    }

    #[test]
    fn takes_the_sequence_numbers_of_its_responses() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(0), 0, 1000);
        solo.post(2, SEND, 0, 1);
        assert_eq!(solo.sent_psns(), [0, 4]);
    }

    #[test]
    fn response_acknowledges_what_was_before() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, read_operation(0), 0, 1);
        solo.run();
        solo.response(1, read_response(Place::Only), &[1]);
        assert_sends(&solo, &[Outcome::Success; 2]);
    }

    #[test]
    fn missing_responses_are_asked_for_again() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(4096), 0, 4 * MTU);
        solo.run();
        solo.response(0, read_response(Place::First), &[1; 256]);
        solo.response(2, read_response(Place::Middle), &[3; 256]);
        solo.response(3, read_response(Place::Last), &[4; 256]);
        assert_eq!(solo.node.bytes(256, 256), [PATTERN; 256]);
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 1, "once for the gap");
        assert_eq!(pdus[0].psn, Psn::new(1001));
        let source = range(4096 + 256, 768);
        assert_eq!(pdus[0].body, Body::Read { source });
        assert_eq!(solo.node.counter(Counter::ImpliedNakSeqErr), 1);
        solo.response(1, read_response(Place::First), &[2; 256]);
        solo.response(2, read_response(Place::Middle), &[3; 256]);
        solo.response(3, read_response(Place::Last), &[4; 256]);
        assert_eq!(solo.node.sent, [(1, Outcome::Success, 1024)]);
    }

    #[test]
    fn an_acknowledgement_of_a_later_request_shows_the_loss() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, read_operation(0), 0, 1);
        solo.post(3, SEND, 0, 1);
        solo.run();
        solo.ack(2);
        assert_sends(&solo, &[Outcome::Success]);
        assert_eq!(solo.sent_psns(), [1, 2]);
    }

    #[test]
    fn wrong_responses_break_the_queue_pair() {
        let wrong: [(i32, Place, usize); 5] = [
            (0, Place::First, 255),
            (0, Place::First, 257),
            (0, Place::Only, 256),
            (1, Place::Middle, 44),
            (1, Place::Last, 45),
        ];
        for (psn, place, length) in wrong {
            let mut solo = Solo::new();
            solo.post(1, read_operation(0), 0, 300);
            solo.run();
            if psn == 1 {
                solo.response(0, read_response(Place::First), &[1; 256]);
            }
            solo.response(psn, read_response(place), &vec![9; length]);
            assert_sends(&solo, &[Outcome::BadResponse]);
            assert!(!solo.node.memory.contains(&9), "nothing was placed");
            assert_broken(&mut solo);
        }
    }

    #[test]
    fn responses_to_other_requests_are_ignored() {
        let mut solo = Solo::new();
        solo.post(1, SEND, 0, 1);
        solo.post(2, read_operation(0), 0, 1);
        solo.run();
        solo.response(0, read_response(Place::Only), &[1]);
        let acknowledge = Acknowledge {
            syndrome: ACK,
            msn: Psn::new(0),
        };
        let atomic = Body::AtomicResponse {
            acknowledge,
            original: 1,
        };
        solo.response(1, atomic, &[]);
        assert!(solo.node.sent.is_empty());
        assert_eq!(solo.qp.state(), State::Rts);
    }

    #[test]
    fn local_memory_that_has_gone() {
        let mut solo = Solo::new();
        solo.post(1, read_operation(0), 0, 1);
        solo.run();
        solo.node.regions.clear();
        solo.response(0, read_response(Place::Only), &[1]);
        assert_sends(&solo, &[Outcome::LocalProtection]);
        assert_broken(&mut solo);
    }
}

mod atomics {
    use super::*;

    #[test]
    fn compare_and_swap() {
        let mut solo = Solo::new();
        solo.node.memory[..8].copy_from_slice(&5u64.to_le_bytes());
        for (psn, compare, original) in [(0, 4, 5), (1, 5, 5), (2, 5, 77)] {
            let operation = AtomicOperation::CompareSwap { compare, swap: 77 };
            solo.request(psn, atomic_body(0, operation), &[]);
            let pdus = solo.pdus();
            let Body::AtomicResponse { original: got, .. } = pdus[0].body else {
                panic!("{pdus:?}");
            };
            assert_eq!(got, original);
        }
    }

    #[test]
    fn the_result_is_stored() {
        let mut solo = Solo::new();
        solo.post(1, atomic(4096, AtomicOperation::FetchAdd(1)), 16, 8);
        solo.run();
        let acknowledge = Acknowledge {
            syndrome: ACK,
            msn: Psn::new(1),
        };
        let original = 0x0102_0304_0506_0708;
        let body = Body::AtomicResponse {
            acknowledge,
            original,
        };
        solo.response(0, body, &[]);
        assert_eq!(solo.node.bytes(16, 8), original.to_le_bytes());
        assert_eq!(solo.node.bytes(24, 8), [PATTERN; 8]);
        assert_eq!(solo.node.sent, [(1, Outcome::Success, 8)]);
    }

    #[test]
    fn unreachable_memory_is_an_operational_error() {
        let mut solo = Solo::new();
        solo.node.dma_limit = 0;
        solo.request(0, atomic_body(0, AtomicOperation::FetchAdd(1)), &[]);
        assert_eq!(solo.answers(), [(0, nak(NakCode::RemoteOperational))]);
        assert_eq!(solo.node.events, [QpEvent::Fatal]);
        assert_broken(&mut solo);
    }
}

mod invalid_request {
    use super::*;

    fn write(place: Place, target: Option<RemoteRange>) -> Body {
        Body::Write {
            place,
            target,
            immediate: None,
        }
    }

    /// After the requests before it, `last` must be refused.
    #[track_caller]
    fn refused(before: &[(Body, usize)], last: (Body, usize)) -> Solo {
        refused_by(Setup::default(), before, last)
    }

    #[track_caller]
    fn refused_by(setup: Setup, before: &[(Body, usize)], last: (Body, usize)) -> Solo {
        let mut solo = Solo::rts(setup);
        solo.post(1, SEND, 0, 1);
        solo.node.post_receive(1, 0, 1 << 10);
        solo.node.post_receive(2, 0, 1 << 10);
        let mut psn = 0;
        for &(body, length) in before {
            solo.request(psn, body, &vec![1; length]);
            psn += 1;
        }
        assert_eq!(solo.qp.state(), State::Rts, "{before:?}");
        solo.run();
        solo.request(psn, last.0, &vec![1; last.1]);
        assert_eq!(solo.qp.state(), State::Error, "{last:?}");
        assert_eq!(
            solo.answers(),
            [(psn, nak(NakCode::InvalidRequest))],
            "{last:?}"
        );
        assert_sends(&solo, &[Outcome::Flushed]);
        assert_broken(&mut solo);
        solo
    }

    #[test]
    fn out_of_turn() {
        let first = (send(Place::First), 256);
        let write_first = (write(Place::First, Some(range(0, 300))), 256);
        let read = (
            Body::Read {
                source: range(0, 1),
            },
            0,
        );
        let atomic = (atomic_body(0, AtomicOperation::FetchAdd(1)), 0);
        let write_only = (write(Place::Only, Some(range(0, 1))), 1);
        for last in [(send(Place::Middle), 256), (send(Place::Last), 1)] {
            refused(&[], last);
            refused(&[write_first], last);
        }
        for last in [
            (write(Place::Middle, None), 256),
            (write(Place::Last, None), 44),
        ] {
            refused(&[], last);
            refused(&[first], last);
        }
        for last in [first, (send(Place::Only), 1), write_only, read, atomic] {
            let solo = refused(&[first], last);
            // The receive work request in use says what happened, and no event does.
            assert_receives(&solo, &[Outcome::RemoteInvalidRequest, Outcome::Flushed]);
            assert!(solo.node.events.is_empty());
            let solo = refused(&[write_first], last);
            assert_eq!(solo.node.events, [QpEvent::RequestError]);
        }
    }

    #[test]
    fn packets_that_are_not_filled() {
        for length in [0, 255, 257] {
            refused(&[], (send(Place::First), length));
            refused(&[(send(Place::First), 256)], (send(Place::Middle), length));
        }
        for length in [0, 257] {
            refused(&[(send(Place::First), 256)], (send(Place::Last), length));
        }
        refused(&[], (send(Place::Only), 257));
    }

    #[test]
    fn a_write_of_another_length_than_announced() {
        for length in [2, 0] {
            refused(&[], (write(Place::Only, Some(range(0, 1))), length));
        }
        refused(&[], (write(Place::First, Some(range(0, 256))), 256));
        let first = (write(Place::First, Some(range(0, 300))), 256);
        for length in [43, 45] {
            refused(&[first], (write(Place::Last, None), length));
        }
        refused(&[first], (write(Place::Middle, None), 256));
    }

    #[test]
    fn longer_than_a_message_may_be() {
        let long = range(0, (1 << 31) + 1);
        refused(&[], (Body::Read { source: long }, 0));
        refused(&[], (write(Place::First, Some(long)), 256));
    }

    #[test]
    fn misaligned_atomics() {
        refused(&[], (atomic_body(4, AtomicOperation::FetchAdd(1)), 0));
    }

    #[test]
    fn what_the_queue_pair_does_not_allow() {
        let none = Setup {
            access: Access::empty(),
            ..Setup::default()
        };
        refused_by(
            none,
            &[],
            (
                Body::Read {
                    source: range(0, 1),
                },
                0,
            ),
        );
        refused_by(none, &[], (write(Place::Only, Some(range(0, 1))), 1));
        let solo = refused_by(none, &[], (atomic_body(0, AtomicOperation::FetchAdd(1)), 0));
        assert_eq!(solo.node.events, [QpEvent::RequestError]);
    }

    #[test]
    fn too_many_reads() {
        let mut solo = Solo::new();
        for psn in 0..5 {
            solo.request(
                psn,
                Body::Read {
                    source: range(0, 1),
                },
                &[],
            );
        }
        let pdus = solo.pdus();
        assert_eq!(pdus.len(), 5, "the four before it are answered");
        let syndrome = nak(NakCode::InvalidRequest);
        let msn = Psn::new(4);
        assert_eq!(
            pdus[4].body,
            Body::Acknowledge(Acknowledge { syndrome, msn })
        );
        assert_broken(&mut solo);
    }

    #[test]
    fn a_send_longer_than_the_buffer() {
        for (before, last) in [
            (vec![], (send(Place::Only), 101)),
            (vec![(send(Place::First), 256)], (send(Place::Last), 45)),
        ] {
            let mut solo = Solo::new();
            let room = if before.is_empty() { 100 } else { 300 };
            solo.node.post_receive(1, 0, room);
            let psn = before.len() as i32;
            for (body, length) in before {
                solo.request(0, body, &vec![1; length]);
            }
            solo.run();
            solo.request(psn, last.0, &vec![1; last.1]);
            assert_eq!(solo.answers(), [(psn, nak(NakCode::InvalidRequest))]);
            assert_receives(&solo, &[Outcome::LocalLength]);
            assert_eq!(solo.node.bytes(u64::from(room), 8), [PATTERN; 8]);
            assert_eq!(solo.node.counter(Counter::RespLocalLengthError), 1);
            assert_broken(&mut solo);
        }
    }
}

mod remote_access {
    use super::*;

    #[track_caller]
    fn refused(body: Body, length: usize) {
        let mut solo = Solo::new();
        let mut region = solo.node.regions[&KEY];
        region.access = Access::LOCAL_READ | Access::LOCAL_WRITE;
        solo.node.regions.insert(7, region);
        solo.request(0, body, &vec![1; length]);
        assert_eq!(
            solo.answers(),
            [(0, nak(NakCode::RemoteAccess))],
            "{body:?}"
        );
        assert_eq!(solo.node.events, [QpEvent::AccessError]);
        assert_eq!(solo.node.counter(Counter::RespRemoteAccessErrors), 1);
        assert!(!solo.node.memory.contains(&1), "{body:?}");
        assert_broken(&mut solo);
    }

    #[test]
    fn needs_key_permission_and_bounds() {
        let end = 64 << 10;
        let bad = [
            (0x999, BASE, 8),
            (7, BASE, 8),
            (KEY, BASE + end - 8, 16),
            (KEY, BASE - 8, 16),
            (KEY, u64::MAX - 7, 16),
        ];
        for (rkey, address, length) in bad {
            let range = RemoteRange {
                address,
                rkey,
                length,
            };
            refused(Body::Read { source: range }, 0);
            let write = Body::Write {
                place: Place::Only,
                target: Some(range),
                immediate: None,
            };
            refused(write, length as usize);
        }
        for (rkey, address) in [(0x999, BASE), (7, BASE), (KEY, BASE + end)] {
            let operation = AtomicOperation::FetchAdd(1);
            let atomic = Body::Atomic {
                address,
                rkey,
                operation,
            };
            refused(atomic, 0);
        }
    }

    #[test]
    fn a_long_write_is_checked_before_its_first_byte() {
        let write = Body::Write {
            place: Place::First,
            target: Some(range((64 << 10) - 256, 300)),
            immediate: None,
        };
        refused(write, 256);
    }

    #[test]
    fn memory_that_goes_while_it_is_read() {
        let mut solo = Solo::new();
        solo.node.room = 1;
        solo.request(
            0,
            Body::Read {
                source: range(0, 4 * MTU),
            },
            &[],
        );
        solo.poll_once();
        solo.out.clear();
        solo.node.regions.clear();
        solo.node.room = usize::MAX;
        assert_eq!(solo.answers(), [(1, nak(NakCode::RemoteAccess))]);
        assert_eq!(solo.node.events, [QpEvent::AccessError]);
        assert_broken(&mut solo);
    }

    #[test]
    fn memory_that_cannot_be_read() {
        let mut solo = Solo::new();
        solo.node.dma_limit = 0;
        solo.request(
            0,
            Body::Read {
                source: range(0, 1),
            },
            &[],
        );
        assert_eq!(solo.answers(), [(0, nak(NakCode::RemoteOperational))]);
        assert_eq!(solo.node.events, [QpEvent::Fatal]);
        assert_broken(&mut solo);
    }
}

mod receive_errors {
    use super::*;

    #[track_caller]
    fn operational(change: impl Fn(&mut Solo), outcome: Outcome) {
        let mut solo = Solo::new();
        solo.node.post_receive(1, 0, 64);
        change(&mut solo);
        solo.request(0, send(Place::Only), b"x");
        assert_eq!(solo.answers(), [(0, nak(NakCode::RemoteOperational))]);
        assert_receives(&solo, &[outcome]);
        assert!(solo.node.events.is_empty());
        assert_broken(&mut solo);
    }

    #[test]
    fn are_the_owners_fault() {
        let key = |solo: &mut Solo| solo.node.receives[0].sges[0].lkey = 0x999;
        operational(key, Outcome::LocalProtection);
        let dma = |solo: &mut Solo| solo.node.dma_limit = 0;
        operational(dma, Outcome::LocalProtection);
        let invalid = |solo: &mut Solo| {
            solo.node.receives[0].invalid = Some(Outcome::LocalQpOperation);
        };
        operational(invalid, Outcome::LocalQpOperation);
    }

    #[test]
    fn write_to_unreachable_memory() {
        let mut solo = Solo::new();
        solo.node.dma_limit = 0;
        let write = Body::Write {
            place: Place::Only,
            target: Some(range(0, 1)),
            immediate: None,
        };
        solo.request(0, write, b"x");
        assert_eq!(solo.answers(), [(0, nak(NakCode::RemoteOperational))]);
        assert_eq!(solo.node.events, [QpEvent::Fatal]);
        assert_broken(&mut solo);
    }
}

mod fairness {
    use super::*;

    #[test]
    fn a_long_read_leaves_room_for_requests() {
        let mut solo = Solo::new();
        solo.request(
            0,
            Body::Read {
                source: range(0, 60_000),
            },
            &[],
        );
        solo.post(1, SEND, 0, 60_000);
        solo.poll_once();
        let (mut answers, mut requests) = (0, 0);
        for packet in &solo.out {
            match packet.pdu.body {
                Body::ReadResponse { .. } => answers += 1,
                _ => requests += 1,
            }
        }
        assert!(answers > 0 && requests > 0, "{answers} {requests}");
    }
}

mod hostile {
    use super::*;

    fn random_body(random: &mut Random) -> Body {
        let places = [Place::First, Place::Middle, Place::Last, Place::Only];
        let place = places[random.below(4) as usize];
        let source = RemoteRange {
            address: BASE.wrapping_add(random.below(70_000)).wrapping_sub(1000),
            rkey: if random.percent(90) {
                KEY
            } else {
                random.next() as u32
            },
            length: (random.next() >> random.below(40).max(32)) as u32,
        };
        let acknowledge = Acknowledge {
            syndrome: match random.below(4) {
                0 => Syndrome::RnrNak(random.next() as u8),
                1 => nak(NakCode::PsnSequence),
                2 if random.percent(10) => nak(NakCode::RemoteAccess),
                _ => Syndrome::Ack(random.next() as u8),
            },
            msn: Psn::new(random.next() as u32),
        };
        match random.below(8) {
            0 => send(place),
            1 => Body::Write {
                place,
                target: Some(source).filter(|_| place.starts()),
                immediate: Some(3).filter(|_| random.percent(30)),
            },
            2 => Body::Read { source },
            3 => atomic_body(random.below(100) & !3, AtomicOperation::FetchAdd(1)),
            4 => Body::ReadResponse {
                place,
                acknowledge: None,
            },
            5 => Body::AtomicResponse {
                acknowledge,
                original: random.next(),
            },
            _ => Body::Acknowledge(acknowledge),
        }
    }

    /// Random PDUs, timers and transitions: no panic, no endless work, all requests end.
    #[test]
    fn a_peer_can_say_anything() {
        for seed in 0..300 {
            let mut random = Random(seed);
            let mut solo = Solo::new();
            for step in 0..200 {
                let base = if random.percent(50) {
                    1000
                } else {
                    2000 + step
                };
                let psn = Psn::new(base + random.below(8) as u32);
                let lengths = [0, 1, 256, 255, 300];
                let length = lengths[random.below(5) as usize];
                let body = random_body(&mut random);
                let packets = if random.percent(90) {
                    1
                } else {
                    random.below(5) as u32
                };
                solo.deliver(&packet(psn, packets, body, &vec![7; length]));
                solo.node.post_receive(u64::from(step), 0, 300);
                let cookie = u64::from(step);
                match random.below(6) {
                    0 => solo.post(cookie, SEND, 0, 1000),
                    1 => solo.post(cookie, read_operation(0), 0, 1000),
                    2 if solo.qp.deadline().is_some() => solo.expire(),
                    _ => {}
                }
                solo.node.room = 1 + random.below(50) as usize;
                solo.poll_once();
                solo.out.clear();
            }
            solo.node.room = usize::MAX;
            solo.modify(Modify::to(State::Error)).unwrap();
            assert_broken(&mut solo);
        }
    }
}

fn atomic(offset: u64, operation: AtomicOperation) -> SendOperation {
    SendOperation::Atomic {
        address: BASE + offset,
        rkey: KEY,
        operation,
    }
}

fn atomic_body(offset: u64, operation: AtomicOperation) -> Body {
    Body::Atomic {
        address: BASE + offset,
        rkey: KEY,
        operation,
    }
}
