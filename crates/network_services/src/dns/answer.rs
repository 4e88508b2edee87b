//! From the bytes of a question to those of an answer, or to what others are to be asked (RFC 1035, RFC 6891), without input or output.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};

use super::zone::{Local, Zone};

/// Fixed fields of a message, bytes.
pub(super) const HEADER: usize = 12;

/// Longest answer to who says nothing of EDNS, bytes.
const SHORT: u16 = 512;

/// Longest datagram that is sent, bytes: none is cut to pieces on the way.
const LONG: u16 = 1232;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// In a datagram.
    Udp,
    /// In a stream.
    Tcp,
}

/// What to do with a question.
#[derive(Debug)]
pub(super) enum Action {
    /// Nothing: it is none.
    Ignore,
    /// This is the answer.
    Answer(Vec<u8>),
    /// Others know.
    Forward(Question),
}

/// A question for others.
#[derive(Debug)]
pub(super) struct Question {
    query: Query,
    request: Metadata,
    edns: Option<Edns>,
    transport: Transport,
}

/// Reads a question and answers it if it can be answered here. `may_forward` is false for who is not to be helped further.
pub(super) fn answer(bytes: &[u8], transport: Transport, zone: &Zone, may_forward: bool) -> Action {
    let Some([high, low, flags, _]) = bytes.first_chunk().filter(|_| bytes.len() >= HEADER) else {
        return Action::Ignore;
    };
    // An answer is never answered.
    if flags & 0x80 != 0 {
        return Action::Ignore;
    }
    let id = u16::from_be_bytes([*high, *low]);
    let Ok(message) = Message::from_vec(bytes) else {
        let error = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
        return error.to_vec().map_or(Action::Ignore, Action::Answer);
    };
    let question = |query: &Query| Question {
        query: query.clone(),
        request: message.metadata,
        edns: message.edns.clone(),
        transport,
    };
    let refuse = |code| match message.queries.first() {
        Some(query) => question(query).refuse(code),
        None => Message::error_msg(id, message.metadata.op_code, code).to_vec().unwrap_or_default(),
    };
    if message.metadata.op_code != OpCode::Query {
        return Action::Answer(refuse(ResponseCode::NotImp));
    }
    let [query] = message.queries.as_slice() else { return Action::Answer(refuse(ResponseCode::FormErr)) };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Action::Answer(refuse(ResponseCode::BADVERS));
    }
    let transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
    if query.query_class != DNSClass::IN || transfer {
        return Action::Answer(refuse(ResponseCode::Refused));
    }
    let question = question(query);
    Action::Answer(match zone.look_up(&query.name, query.query_type) {
        Local::Here(records) => {
            let records = records.into_iter().map(|data| Record::from_rdata(query.name.clone(), 0, data));
            question.answer(ResponseCode::NoError, records.collect())
        }
        Local::Nowhere => question.answer(ResponseCode::NXDomain, Vec::new()),
        Local::Elsewhere if may_forward && message.metadata.recursion_desired => {
            return Action::Forward(question);
        }
        Local::Elsewhere | Local::Refused => question.refuse(ResponseCode::Refused),
    })
}

impl Question {
    /// What is asked about.
    pub(super) fn name(&self) -> &hickory_proto::rr::Name {
        &self.query.name
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// Longest answer that the guest takes, bytes.
    fn most_bytes(&self) -> usize {
        match (self.transport, &self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => SHORT.into(),
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(SHORT, LONG).into(),
        }
    }

    fn answer(&self, code: ResponseCode, records: Vec<Record>) -> Vec<u8> {
        let mut message = Message::new(self.request.id, MessageType::Response, self.request.op_code);
        message.metadata.recursion_desired = self.request.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.request.checking_disabled;
        message.metadata.authoritative = code != ResponseCode::Refused && code != ResponseCode::ServFail;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        message.answers = records;
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LONG).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
            edns.set_rcode_high(code.high());
            message.set_edns(edns);
        }
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= self.most_bytes() => bytes,
            _ => message.truncate().to_vec().unwrap_or_default(),
        }
    }

    /// An answer without records that is not the last word on the name.
    pub(super) fn refuse(&self, code: ResponseCode) -> Vec<u8> {
        self.answer(code, Vec::new())
    }

    /// The question as others are asked it: nothing else of what the guest sent.
    pub(super) fn to_ask(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.authentic_data = self.request.authentic_data;
        message.metadata.checking_disabled = self.request.checking_disabled;
        message.add_query(self.query.clone());
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LONG.min(asked.max_payload()).max(SHORT));
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        message.to_vec().ok()
    }

    /// What the guest is told of another's answer to `asked`: all of it under the guest's number. None when it is no answer to that.
    pub(super) fn relay(&self, asked: &[u8], mut answer: Vec<u8>) -> Option<Vec<u8>> {
        let end = question_end(asked)?;
        if answer.len() < end
            || answer[..2] != asked[..2]
            || answer[2] & 0xf8 != 0x80
            || answer[4..6] != [0, 1]
        {
            return None;
        }
        let (names, kinds) = (HEADER..end - 4, end - 4..end);
        let same = answer[names.clone()].eq_ignore_ascii_case(&asked[names])
            && answer[kinds.clone()] == asked[kinds];
        if !same {
            return None;
        }
        answer[..2].copy_from_slice(&self.request.id.to_be_bytes());
        if answer.len() > self.most_bytes() {
            answer.truncate(end);
            answer[2] |= 2;
            answer[6..HEADER].fill(0);
        }
        Some(answer)
    }
}

/// Where the one question of a message ends. Its name is never compressed, being the first.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut place = HEADER;
    loop {
        let length = usize::from(*message.get(place)?);
        if length > 63 {
            return None;
        }
        place += length + 1;
        if length == 0 {
            break;
        }
    }
    (message.len() >= place + 4).then_some(place + 4)
}

/// Whether an answer says that this server can't or will not help (SERVFAIL, NOTIMP, REFUSED).
pub(super) fn is_of_no_use(answer: &[u8]) -> bool {
    answer.get(3).is_none_or(|flags| matches!(flags & 0xf, 2 | 4 | 5))
}
