//! The text of HTTP/1.1: the head of a request is taken apart, a response is put together. Pure.

use serde::Serialize;

/// Most bytes of a request line and its headers. Bounds the memory that a client takes before it says anything useful.
pub(super) const MAX_HEAD_BYTES: usize = 64 << 10;
/// Most bytes of a body. A machine with every device there can be is described in a tenth of it.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;
/// Most header fields.
const MAX_HEADERS: usize = 64;

/// A request without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The method as sent.
    pub(super) method: String,
    /// The path, without a query.
    pub(super) path: String,
    /// Bytes of the body that follows.
    pub(super) body_bytes: usize,
    /// The client waits for an interim response before it sends the body.
    pub(super) expects_continue: bool,
    /// The client sends nothing after this request.
    pub(super) closes: bool,
}

/// What the bytes that have arrived so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A head that has not arrived whole.
    Partial,
    /// A head, and how many bytes it took.
    Head(Head, usize),
}

/// Takes the head off the front of `bytes`.
///
/// # Errors
/// The response to send before the connection is closed: what follows can't be told apart any more.
pub(super) fn parse_head(bytes: &[u8]) -> Result<Parsed, Response> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) if head_bytes <= MAX_HEAD_BYTES => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Ok(Parsed::Partial),
        Ok(_) => {
            return Err(Response::error(Status::HeadTooLarge, "the request's head is larger than 64 KiB"));
        }
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Response::error(Status::HeadTooLarge, "the request has more than 64 header fields"));
        }
        Err(httparse::Error::Version) => {
            return Err(Response::error(
                Status::VersionNotSupported,
                "only HTTP/1.1 and HTTP/1.0 are spoken",
            ));
        }
        Err(error) => return Err(bad_request(&format!("not an HTTP request: {error}"))),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(bad_request("not an HTTP request: no request line"));
    };
    let mut fields = Fields { closes: minor == 0, ..Fields::default() };
    for header in request.headers.iter() {
        fields.take(header.name, header.value)?;
    }
    // RFC 9112, 3.2.
    if minor == 1 && fields.hosts != 1 || fields.hosts > 1 {
        return Err(bad_request("a request needs one Host header"));
    }
    let head = Head {
        method: method.to_owned(),
        path: path_of(target).to_owned(),
        body_bytes: fields.body_bytes.unwrap_or(0),
        // RFC 9110, 10.1.1: an expectation of an HTTP/1.0 client is ignored.
        expects_continue: fields.expects_continue && minor == 1,
        closes: fields.closes,
    };
    Ok(Parsed::Head(head, head_bytes))
}

/// The header fields that matter here.
#[derive(Default)]
struct Fields {
    hosts: usize,
    body_bytes: Option<usize>,
    expects_continue: bool,
    closes: bool,
}

impl Fields {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), Response> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("host") {
            self.hosts += 1;
        } else if is("content-length") {
            let bytes = content_length(value)?;
            if self.body_bytes.is_some_and(|other| other != bytes) {
                return Err(bad_request("two Content-Length headers that differ"));
            }
            self.body_bytes = Some(bytes);
        } else if is("transfer-encoding") {
            return Err(Response::error(
                Status::NotImplemented,
                "transfer encodings are not supported: send the body with a Content-Length",
            ));
        } else if is("expect") {
            if !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
                return Err(Response::error(
                    Status::ExpectationFailed,
                    "the only expectation met is 100-continue",
                ));
            }
            self.expects_continue = true;
        } else if is("connection") {
            let options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            for option in options {
                if option.eq_ignore_ascii_case(b"close") {
                    self.closes = true;
                }
            }
        }
        Ok(())
    }
}

fn content_length(value: &[u8]) -> Result<usize, Response> {
    let value = value.trim_ascii();
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad_request("a Content-Length that is not a number"));
    }
    // Only digits: what does not fit is too large.
    let bytes = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    if bytes > MAX_BODY_BYTES {
        return Err(Response::error(Status::BodyTooLarge, "the request's body is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// The path of a request target in origin form or absolute form (RFC 9112, 3.2).
fn path_of(target: &str) -> &str {
    let origin = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
            target[7..].find('/').map_or("/", |slash| &target[7 + slash..])
        }
        _ => target,
    };
    origin.split('?').next().unwrap_or(origin)
}

fn bad_request(reason: &str) -> Response {
    Response::error(Status::BadRequest, reason)
}

/// The status codes in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    NoContent,
    BadRequest,
    NotFound,
    NotAllowed,
    RequestTimeout,
    BodyTooLarge,
    ExpectationFailed,
    HeadTooLarge,
    InternalError,
    NotImplemented,
    Unavailable,
    VersionNotSupported,
}

impl Status {
    /// Code and reason phrase (RFC 9110, 15; RFC 6585 for 431).
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::NoContent => "204 No Content",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::NotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::BodyTooLarge => "413 Content Too Large",
            Self::ExpectationFailed => "417 Expectation Failed",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::InternalError => "500 Internal Server Error",
            Self::NotImplemented => "501 Not Implemented",
            Self::Unavailable => "503 Service Unavailable",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// What tells a client that waits for it to send the body.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    status: Status,
    /// The method that the path has, for a request with another.
    allow: Option<&'static str>,
    /// JSON; `None` goes with [`Status::NoContent`].
    body: Option<Vec<u8>>,
}

impl Response {
    /// Done, and nothing to say about it.
    pub(super) fn done() -> Self {
        Self { status: Status::NoContent, allow: None, body: None }
    }

    /// An answer.
    pub(super) fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { status: Status::Ok, allow: None, body: Some(body) },
            // A path that is not UTF-8, which only a program that links this crate can have put there.
            Err(error) => Self::error(Status::InternalError, &format!("the answer is not JSON: {error}")),
        }
    }

    /// An error: the body is an array of messages, the outermost first.
    pub(super) fn error(status: Status, message: &str) -> Self {
        let body = serde_json::Value::from(vec![message]).to_string().into_bytes();
        Self { status, allow: None, body: Some(body) }
    }

    /// The same, telling the method that the path has (RFC 9110, 15.5.6).
    pub(super) fn allowing(self, method: &'static str) -> Self {
        Self { allow: Some(method), ..self }
    }

    /// The bytes that go over the wire. `closes`: the connection ends after them.
    pub(super) fn bytes(&self, closes: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {}\r\n", self.status.line());
        if let Some(allow) = self.allow {
            head.push_str(&format!("Allow: {allow}\r\n"));
        }
        if closes {
            head.push_str("Connection: close\r\n");
        }
        if let Some(body) = &self.body {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(self.body.iter().flatten());
        bytes
    }
}
