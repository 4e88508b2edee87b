//! The daemon's functions, by procedure.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use super::handle::ClientHandle;
use super::stream::{Stream, StreamState};
use crate::call::Call;
use crate::error::RpcError;
use crate::frame::{FrameStatus, FrameType, Header, error_frame, value_frame};
use crate::procedures::Procedure;
use crate::xdr::Xdr;

/// What a daemon says to connections as such.
pub trait Service: Send + Sync + 'static {
    /// A client opens a connection to `name`, a URI without socket path, or none for the default one. It is called once for each
    /// client, before any other procedure; [`ClientHandle::read_only`] is final by then.
    ///
    /// # Errors
    /// The URI is not one of this daemon's, or the user may not use it.
    fn open(&self, client: &ClientHandle, name: Option<&str>) -> Result<(), RpcError>;

    /// A client that had opened a connection is gone, whatever the reason: its registrations end.
    fn closed(&self, client: &ClientHandle);
}

/// One call in progress: the client that made it, and the way to a stream where the procedure has one.
#[derive(Debug, Clone)]
pub struct CallContext {
    client: ClientHandle,
    header: Header,
}

impl Deref for CallContext {
    type Target = ClientHandle;
    fn deref(&self) -> &ClientHandle {
        &self.client
    }
}

impl CallContext {
    pub(super) fn new(client: ClientHandle, header: Header) -> Self {
        Self { client, header }
    }

    /// The client.
    pub fn client(&self) -> &ClientHandle {
        &self.client
    }

    /// Opens the stream of this call. To be called before the function returns; a task that serves the stream may be spawned
    /// then, and what it sends follows the reply. If the function fails after all, the stream is gone.
    ///
    /// # Errors
    /// The client has too many streams.
    pub fn stream(&self) -> Result<Stream, RpcError> {
        StreamState::open(&self.client, self.header)
    }
}

/// The whole reply to one call.
pub(super) struct Answer {
    /// Its frame.
    pub(super) frame: Vec<u8>,
    /// Whether the call succeeded.
    pub(super) good: bool,
}

impl Answer {
    pub(super) fn new<T: Xdr>(header: Header, reply: Result<T, RpcError>) -> Self {
        let error = match reply {
            Ok(reply) => match value_frame(header.answer(FrameType::Reply, FrameStatus::Ok), &reply) {
                Ok(frame) => return Self { frame, good: true },
                Err(error) => RpcError::rpc(format!("Unable to encode message payload: {error}")),
            },
            Err(error) => error,
        };
        let frame = error_frame(header.answer(FrameType::Reply, FrameStatus::Error), &error);
        Self { frame, good: false }
    }
}

pub(super) type AnswerFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

type Handler<S> = Box<dyn Fn(&Arc<S>, CallContext, &[u8]) -> Result<AnswerFuture, RpcError> + Send + Sync>;

/// Which function answers which procedure. Procedures without one are answered as not supported.
pub struct Table<S> {
    handlers: HashMap<Procedure, Handler<S>>,
}

impl<S> fmt::Debug for Table<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.handlers.keys()).finish()
    }
}

impl<S: Service> Default for Table<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Service> Table<S> {
    /// An empty table.
    pub fn new() -> Self {
        Self { handlers: HashMap::new() }
    }

    /// Lets `function` answer the procedure whose arguments it takes. Read-only connections reach it only with calls that they
    /// may make. The procedures of the handshake (CONNECT_OPEN, CONNECT_CLOSE, CONNECT_SUPPORTS_FEATURE, AUTH_LIST and
    /// the close callback) are answered by the connection and never reach a table.
    #[must_use]
    pub fn on<C, F, R>(mut self, function: F) -> Self
    where
        C: Call,
        F: Fn(Arc<S>, CallContext, C) -> R + Send + Sync + 'static,
        R: Future<Output = Result<C::Reply, RpcError>> + Send + 'static,
    {
        let handler: Handler<S> = Box::new(move |service, context, bytes| {
            let call = C::from_bytes(bytes)
                .map_err(|error| RpcError::rpc(format!("Unable to decode message payload: {error}")))?;
            if context.read_only() && !call.allowed_read_only() {
                return Err(RpcError::read_only(C::PROCEDURE.name()));
            }
            let header = context.header;
            let reply = function(Arc::clone(service), context, call);
            Ok(Box::pin(async move { Answer::new(header, reply.await) }))
        });
        self.handlers.insert(C::PROCEDURE, handler);
        self
    }

    /// Starts a call.
    pub(super) fn start(
        &self,
        service: &Arc<S>,
        context: CallContext,
        bytes: &[u8],
    ) -> Result<AnswerFuture, RpcError> {
        let Header { program, procedure, .. } = context.header;
        let procedure =
            Procedure::find(program, procedure).ok_or_else(|| RpcError::unknown_procedure(procedure))?;
        let handler =
            self.handlers.get(&procedure).ok_or_else(|| RpcError::not_supported(procedure.name()))?;
        handler(service, context, bytes)
    }
}
