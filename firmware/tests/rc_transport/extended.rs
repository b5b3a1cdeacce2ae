//! Extended reliable connections (IBTA volume 1, annex A14).

use crate::bench::*;
use crate::rules::*;

#[test]
fn requests_name_the_shared_queue_and_responses_do_not() {
    let mut solo = Solo::of(Kind::XrcInitiator);
    solo.post_to(Remote::SharedQueue(0x55), 1, SEND, 0, 300);
    solo.post_to(Remote::SharedQueue(0x66), 2, read_operation(0), 0x800, 3);
    let services: Vec<_> = solo.pdus().iter().map(|pdu| pdu.service).collect();
    let [first, second] = [0x55, 0x66].map(|srqn| Service::Extended { srqn });
    assert_eq!(services, [first, first, second]);
    solo.response(2, read_response(Place::Only), b"abc");
    assert_sends(&solo, &[Outcome::Success; 2]);
    assert_eq!(solo.node.bytes(0x800, 4), b"abc\xee");
}

#[test]
fn an_initiator_takes_no_requests() {
    let mut solo = Solo::of(Kind::XrcInitiator);
    solo.node.post_receive(1, 0, 10);
    solo.request(0, send(Place::Only), b"abc");
    assert_eq!(solo.node.counter(Counter::RxWrongService), 1);
    assert!(solo.node.received.is_empty() && solo.run().is_empty());
    assert_eq!(solo.qp.state(), State::Rts);
}

#[test]
fn a_target_receives_from_the_queue_that_is_named() {
    let mut solo = Solo::of(Kind::XrcTarget);
    solo.node.post_receive(1, 0, 10);
    solo.request(0, send(Place::Only), b"abc");
    assert_receives(&solo, &[Outcome::Success]);
    let pdus = solo.pdus();
    assert_eq!(pdus[0].service, Service::Extended { srqn: 0 });
    solo.request(1, send(Place::Only), b"abc");
    assert_eq!(solo.answers(), [(1, Syndrome::RnrNak(12))]);
}

#[test]
fn a_queue_that_does_not_exist_is_an_invalid_request() {
    let mut solo = Solo::of(Kind::XrcTarget);
    let mut packet = packet(Psn::new(2000), 1, send(Place::Only), b"abc");
    packet.pdu.service = Service::Extended { srqn: SRQN + 1 };
    solo.deliver(&packet);
    assert_eq!(solo.answers(), [(0, nak(NakCode::InvalidRequest))]);
    assert_eq!(solo.qp.state(), State::Error);
}

#[test]
fn a_target_has_nothing_to_flush_and_sends_nothing() {
    let mut solo = Solo::of(Kind::XrcTarget);
    solo.response(0, acknowledge(ACK), &[]);
    assert_eq!(solo.node.counter(Counter::RxUnexpectedResponse), 1);
    solo.modify(Modify::to(State::Error)).unwrap();
    assert_broken(&mut solo);
}
