//! Statistics of a function, in the order in which QueryCounters writes them.
//!
//! Names are those that Linux and current RNICs use. New counters are added at the end; a driver
//! gives the device as much room as it knows names.

codes! {
    /// Counters, 64 bits each, that count from reset on and wrap around.
    Counter: u16 {
        /// Octets sent, divided by 4, from the Ethernet header to the ICRC.
        PortXmitData = 0,
        /// Octets received, divided by 4.
        PortRcvData = 1,
        /// Packets sent.
        PortXmitPackets = 2,
        /// Packets received.
        PortRcvPackets = 3,
        /// Requester: packet sequence error NAKs received.
        PacketSeqErr = 4,
        /// Responder: requests beyond the expected sequence number.
        OutOfSequence = 5,
        /// Responder: duplicate requests.
        DuplicateRequest = 6,
        /// Requester: RNR NAKs that used up the retries.
        RnrNakRetryErr = 7,
        /// Responder: requests that found no receive buffer.
        OutOfBuffer = 8,
        /// Requester: expired ack timeouts.
        LocalAckTimeoutErr = 9,
        /// Requester: read responses missing before a later response.
        ImpliedNakSeqErr = 10,
        /// Responder: completions with error.
        RespCqeError = 11,
        /// Requester: completions with error.
        ReqCqeError = 12,
        /// Responder: requests with remote access errors.
        RespRemoteAccessErrors = 13,
        /// Requester: remote access error NAKs.
        ReqRemoteAccessErrors = 14,
        /// Requester: remote invalid request NAKs.
        ReqRemoteInvalidRequest = 15,
        /// Responder: local length errors.
        RespLocalLengthError = 16,
        /// Received READ requests.
        RxReadRequests = 17,
        /// Received WRITE requests.
        RxWriteRequests = 18,
        /// Received atomic requests.
        RxAtomicRequests = 19,
        /// Received SEND requests.
        RxSendRequests = 20,
        /// Packets with a wrong ICRC.
        RxIcrcEncapsulated = 21,
        /// Packets for a queue pair that does not exist or is not in a state to receive.
        RxNoQp = 22,
        /// Malformed packets.
        RxMalformed = 23,
        /// Packets from an address that the queue pair is not connected to.
        RxWrongSource = 24,
        /// Packets with another P_Key.
        RxBadPkey = 25,
        /// Packets retransmitted.
        TxRetransmits = 26,
        /// RNR NAKs sent.
        TxRnrNak = 27,
        /// Sequence error NAKs sent.
        TxSeqNak = 28,
        /// Doorbells that named another queue than the slot's owner, or announced what cannot be.
        BadDoorbell = 29,
        /// Bytes moved directly between two queue pairs of the process.
        LocalBytes = 30,
        /// Congestion notification packets sent.
        NpCnpSent = 31,
        /// Congestion notification packets handled.
        RpCnpHandled = 32,
        /// Congestion notification packets ignored, as the reaction is off.
        RpCnpIgnored = 33,
        /// Packets received that met congestion: marked so, and no notifications themselves.
        NpEcnMarkedRocePackets = 34,
        /// Requester: completions as flushed.
        ReqCqeFlushError = 35,
        /// Responder: completions as flushed.
        RespCqeFlushError = 36,
        /// Requester: RNR NAKs received.
        RnrNakReceived = 37,
        /// Requester: remote operational error NAKs.
        ReqRemoteOperationErrors = 38,
        /// Requester: transport retries used up.
        ReqTransportRetriesExceeded = 39,
        /// Requester: responses that the protocol does not allow.
        ReqBadResponse = 40,
        /// Requester: local length errors.
        ReqLocalLengthError = 41,
        /// Requester: local protection errors.
        ReqLocalProtectionError = 42,
        /// Responder: requests that are not valid.
        RespInvalidRequest = 43,
        /// Responder: local protection errors and unreadable receive requests.
        RespLocalOperationErrors = 44,
        /// Received flush requests.
        RxFlushRequests = 45,
        /// Received atomic writes.
        RxAtomicWriteRequests = 46,
        /// Packets dropped: another Q_Key.
        QkeyViolations = 47,
        /// Packets dropped: the queue pair has another transport service.
        RxWrongService = 48,
        /// Packets dropped: the queue pair is not in a state to receive.
        RxBadState = 49,
        /// Packets dropped: the frame ends before its headers do, or before their lengths say.
        RxTruncated = 50,
        /// Packets dropped: version, header length or checksum of the IP header is wrong.
        RxIpHeader = 51,
        /// Packets dropped: lengths contradict each other or the operation.
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
        /// Packets dropped: a response that answers no request in flight.
        RxUnexpectedResponse = 57,
        /// Packets of unreliable services dropped: a part of the message was lost before.
        RxUnreliableLost = 58,
        /// Packets of unreliable services dropped: no receive request was posted.
        RxUnreliableNoReceive = 59,
        /// Packets of unreliable services dropped: longer than the receive request.
        RxUnreliableTooLong = 60,
        /// Packets of unreliable services dropped: the request is not valid, or may not access the
        /// memory that it names.
        RxUnreliableInvalid = 61,
        /// Multicast packets dropped: no queue pair is attached to the group.
        RxNoMulticastMember = 62,
        /// Ethernet frames received by raw packet queues.
        RxFrames = 63,
        /// Ethernet frames dropped: no filter wants them.
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
        /// Received multicast packets.
        MulticastRcvPackets = 70,
        /// Sent multicast packets.
        MulticastXmitPackets = 71,
    }
}
