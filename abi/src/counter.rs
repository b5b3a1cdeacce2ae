//! Statistics of a function, in the order in which QueryCounters writes them.
//!
//! Names are those that Linux and current RNICs use. New counters are added at the end; a driver
//! gives the device as much room as it knows names.
//!
//! Queue pairs of one process count the same for what they exchange directly as for packets: only
//! counters of the port (`Port…`) stand still, and `LocalBytes` grows instead. A run of packets that
//! moves as one is dropped as one: all of them count by the cause of the first.

codes! {
    /// Counters, 64 bits each, that count from reset on and wrap around.
    Counter: u16 {
        /// Octets of the packets sent, divided by 4, from the Ethernet header to the ICRC; each
        /// packet rounded down.
        PortXmitData = 0,
        /// Octets of the packets received, divided by 4; each packet rounded down.
        PortRcvData = 1,
        /// Packets sent through the port, also those to another function that take no direct
        /// path.
        PortXmitPackets = 2,
        /// Packets received through the port that are well-formed and have an address of the
        /// function.
        PortRcvPackets = 3,
        /// Requester: packet sequence error NAKs received for requests in flight.
        PacketSeqErr = 4,
        /// Responder: request packets beyond the expected sequence number; of unreliable
        /// connections, gaps in the sequence.
        OutOfSequence = 5,
        /// Responder: packets of duplicate requests.
        DuplicateRequest = 6,
        /// Requester: requests ended as the RNR retries were used up.
        RnrNakRetryErr = 7,
        /// Responder: requests of reliable services refused as there was no receive request.
        OutOfBuffer = 8,
        /// Requester: ack timeouts that expired with requests in flight.
        LocalAckTimeoutErr = 9,
        /// Requester: responses that showed that the response to an earlier READ or atomic
        /// operation was lost, so that it was asked for again.
        ImpliedNakSeqErr = 10,
        /// Responder: receive requests ended with an error, flushed ones not included.
        RespCqeError = 11,
        /// Requester: requests ended with an error, flushed ones not included.
        ReqCqeError = 12,
        /// Responder: requests of reliable services refused with a remote access error NAK.
        RespRemoteAccessErrors = 13,
        /// Requester: requests ended by a remote access error.
        ReqRemoteAccessErrors = 14,
        /// Requester: requests ended by a remote invalid request error.
        ReqRemoteInvalidRequest = 15,
        /// Responder: receive requests that were too short, of reliable services or shared.
        RespLocalLengthError = 16,
        /// READ requests carried out, duplicates not included.
        RxReadRequests = 17,
        /// WRITE requests carried out, of all connected services.
        RxWriteRequests = 18,
        /// Atomic requests carried out, duplicates not included.
        RxAtomicRequests = 19,
        /// SEND requests carried out, of all connected services.
        RxSendRequests = 20,
        /// Packets with a wrong ICRC.
        RxIcrcEncapsulated = 21,
        /// Packets for a queue pair that does not exist, or whose function is not enabled.
        RxNoQp = 22,
        /// Malformed packets: the sum of RxTruncated, RxIpHeader, RxLength, RxTransportVersion,
        /// RxUnknownOpcode, RxUnexpectedPayload and RxReservedField.
        RxMalformed = 23,
        /// Packets for a queue pair that is connected to another address.
        RxWrongSource = 24,
        /// Packets with a P_Key that does not match that of the queue pair.
        RxBadPkey = 25,
        /// Request packets sent again.
        TxRetransmits = 26,
        /// RNR NAKs sent.
        TxRnrNak = 27,
        /// Sequence error NAKs sent.
        TxSeqNak = 28,
        /// Doorbells that named another queue than the slot's owner, or announced what cannot be.
        BadDoorbell = 29,
        /// Bytes of payload sent directly to another queue pair of the process.
        LocalBytes = 30,
        /// Congestion notification packets sent.
        NpCnpSent = 31,
        /// Congestion notification packets handled.
        RpCnpHandled = 32,
        /// Congestion notification packets ignored, as the reaction is off.
        RpCnpIgnored = 33,
        /// Packets received that met congestion: marked so, and no notifications themselves.
        NpEcnMarkedRocePackets = 34,
        /// Requester: requests ended as flushed.
        ReqCqeFlushError = 35,
        /// Responder: receive requests ended as flushed.
        RespCqeFlushError = 36,
        /// Requester: RNR NAKs received for requests in flight.
        RnrNakReceived = 37,
        /// Requester: requests ended by a remote operational error.
        ReqRemoteOperationErrors = 38,
        /// Requester: requests ended as the retries were used up.
        ReqTransportRetriesExceeded = 39,
        /// Requester: requests ended by a response that the protocol does not allow.
        ReqBadResponse = 40,
        /// Requester: requests ended by a local length error.
        ReqLocalLengthError = 41,
        /// Requester: requests ended by a local protection error.
        ReqLocalProtectionError = 42,
        /// Responder: requests of reliable services that are not valid, refused with a NAK; too
        /// long ones count in RespLocalLengthError.
        RespInvalidRequest = 43,
        /// Responder: requests that failed because of a receive request that cannot be read or
        /// used, or of memory that DMA does not reach.
        RespLocalOperationErrors = 44,
        /// Flush requests carried out, duplicates not included.
        RxFlushRequests = 45,
        /// Atomic writes carried out, duplicates not included.
        RxAtomicWriteRequests = 46,
        /// Packets dropped: another Q_Key.
        QkeyViolations = 47,
        /// Packets for a queue pair of another transport service, or for the half that it does
        /// not have.
        RxWrongService = 48,
        /// Packets for a queue pair that is not in a state to receive.
        RxBadState = 49,
        /// Packets dropped: the frame ends before its headers do, or before their lengths say.
        RxTruncated = 50,
        /// Packets dropped: version, header length or checksum of the IP header is wrong.
        RxIpHeader = 51,
        /// Packets dropped: lengths in the headers contradict each other or the operation.
        RxLength = 52,
        /// Packets dropped: the transport headers have an unknown version.
        RxTransportVersion = 53,
        /// Packets dropped: the opcode is reserved, or of a transport that nobody here speaks.
        RxUnknownOpcode = 54,
        /// Packets dropped: payload or padding where there can be none.
        RxUnexpectedPayload = 55,
        /// Packets dropped: the syndrome of an acknowledgement, or a field of another extended
        /// header, is reserved.
        RxReservedField = 56,
        /// Packets dropped: a response that answers no request in flight, or not of its kind.
        /// After losses these are mostly ghosts, the second answer to a request that was sent
        /// again.
        RxUnexpectedResponse = 57,
        /// Packets of unreliable services dropped: the start of their message was lost or
        /// dropped.
        RxUnreliableLost = 58,
        /// Packets of unreliable services dropped: no receive request was posted.
        RxUnreliableNoReceive = 59,
        /// Packets of unreliable services dropped: longer than the receive request.
        RxUnreliableTooLong = 60,
        /// Packets of unreliable services dropped: the request is not valid, or may not access the
        /// memory that it names.
        RxUnreliableInvalid = 61,
        /// Multicast packets dropped: no queue pair of the device is attached to the group.
        RxNoMulticastMember = 62,
        /// Ethernet frames received by raw packet queues.
        RxFrames = 63,
        /// Ethernet frames to an address of the function dropped: no filter wants them.
        RxFrameNoFilter = 64,
        /// Ethernet frames dropped: no receive request was posted, or it is too short.
        RxFrameNoReceive = 65,
        /// Ethernet frames sent by raw packet queues.
        TxFrames = 66,
        /// Packets that had to wait for room on the link.
        PortXmitWait = 67,
        /// Packets sent while the link was down, and lost.
        PortXmitDiscards = 68,
        /// Received datagrams.
        RxDatagrams = 69,
        /// Received datagrams to multicast groups.
        MulticastRcvPackets = 70,
        /// Sent datagrams to multicast groups.
        MulticastXmitPackets = 71,
        /// Physical function: RoCEv2 packets received by the port for an address that no function
        /// has, malformed ones included.
        RxNotForUs = 72,
        /// Physical function: frames received by the port that are no RoCEv2 packets and that no
        /// function takes.
        RxNotRoce = 73,
        /// Ethernet frames for raw packet queues dropped: longer than the port's MTU allows.
        RxFrameTooLong = 74,
        /// Packets and Ethernet frames of the function dropped: their source is an Ethernet address
        /// that it may not send from.
        TxSpoofedMac = 75,
        /// Packets and Ethernet frames of the function dropped: their VLAN is one that it may not
        /// send to, or they hide it behind a second tag.
        TxSpoofedVlan = 76,
        /// Packets and Ethernet frames of the function dropped: their source is a GID, or an IP
        /// address, that it may not send from.
        TxSpoofedGid = 77,
        /// Packets and Ethernet frames for the function dropped: it is not in their VLAN, or the
        /// operator has disabled its port.
        RxNotAllowed = 78,
        /// Packets and Ethernet frames from the link dropped: their source is an address of the
        /// function, or should be, as the queue pair that they are for is connected to it.
        RxSpoofedSource = 79,
        /// Commands refused: the operator's rules for the function do not allow what they ask for.
        PolicyRefusals = 80,
    }
}
