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
        /// Messages sent by congestion notification.
        NpCnpSent = 31,
        /// Congestion notification packets handled.
        RpCnpHandled = 32,
    }
}
