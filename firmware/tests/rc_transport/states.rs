//! What each state allows, which transitions there are, and what they do.
//!
//! Sequence numbers in these tests count from the first of each direction.

use crate::bench::*;
use crate::rules::*;

mod transitions {
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
            assert_eq!(solo.node.counter(Counter::RxBadState), 1, "{state:?}");
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
    fn while_the_wire_has_no_room_for_the_nak() {
        let mut solo = Solo::new();
        solo.node.room = 0;
        for cookie in 1..=400 {
            solo.node.post_receive(cookie, 0, 300);
        }
        solo.request(0, send(Place::Middle), &[0; 256]);
        for _ in 0..20 {
            solo.poll_once();
        }
        assert_eq!(solo.node.received.len(), 400);
        solo.node.room = 1;
        assert_eq!(solo.poll_once(), 1);
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

/// Which attributes each type needs on its way up, and that no other has to be given.
mod types {
    use super::*;
    use AttributeSet as A;

    const KINDS: [Kind; 7] = [
        Kind::Rc,
        Kind::Uc,
        Kind::Ud,
        Kind::Gsi,
        Kind::Raw,
        Kind::XrcInitiator,
        Kind::XrcTarget,
    ];

    /// A way for each type that is known to work, without one attribute at a time.
    #[test]
    fn miss_every_attribute_that_they_need() {
        for kind in KINDS {
            let setup = Setup::of(kind);
            let mut solo = Solo::reset(setup);
            for step in [setup.init(), setup.rtr(), setup.rts()] {
                for name in (step.given() - A::STATE).iter() {
                    let refused = solo.modify(without(step, name));
                    assert_eq!(refused, Err(ModifyError::Missing(name)), "{kind:?}");
                }
                solo.modify(step).unwrap();
            }
        }
    }

    /// What belongs to another type is refused.
    #[test]
    fn have_no_attributes_of_other_types() {
        for kind in KINDS {
            let setup = Setup::of(kind);
            let mut solo = Solo::rts(setup);
            let qkey = Modify {
                qkey: Some(1),
                ..Modify::to(State::Rts)
            };
            let rnr = Modify {
                min_rnr_timer: Some(1),
                ..Modify::to(State::Rts)
            };
            let allowed = |result: Result<(), ModifyError>, name| match result {
                Ok(()) => true,
                Err(error) => {
                    assert_eq!(error, ModifyError::NotAllowed(name), "{kind:?}");
                    false
                }
            };
            assert_eq!(allowed(solo.modify(qkey), A::QKEY), kind.is_datagram());
            let responder = matches!(kind, Kind::Rc | Kind::XrcTarget);
            assert_eq!(allowed(solo.modify(rnr), A::MIN_RNR_TIMER), responder);
        }
    }

    #[test]
    fn drain_and_go_on() {
        for kind in KINDS {
            let mut solo = Solo::of(kind);
            let notify = Modify {
                sqd_notify: Some(true),
                ..Modify::to(State::Sqd)
            };
            solo.modify(notify).unwrap();
            assert_eq!(solo.node.events, [QpEvent::SendQueueDrained]);
            solo.modify(Modify::to(State::Rts)).unwrap();
            assert_eq!(solo.qp.state(), State::Rts);
        }
    }

    fn without(mut step: Modify, name: AttributeSet) -> Modify {
        match name {
            A::ACCESS => step.access = None,
            A::PKEY => step.pkey = None,
            A::PORT => step.port = None,
            A::QKEY => step.qkey = None,
            A::PATH => step.path = None,
            A::PATH_MTU => step.path_mtu = None,
            A::REMOTE_QPN => step.remote_qpn = None,
            A::SEND_PSN => step.send_psn = None,
            A::RECEIVE_PSN => step.receive_psn = None,
            A::INITIATOR_DEPTH => step.initiator_depth = None,
            A::RESPONDER_RESOURCES => step.responder_resources = None,
            A::MIN_RNR_TIMER => step.min_rnr_timer = None,
            A::TIMEOUT => step.timeout = None,
            A::RETRY_COUNT => step.retry_count = None,
            A::RNR_RETRY => step.rnr_retry = None,
            _ => panic!("{name:?} is not among them"),
        }
        step
    }
}
