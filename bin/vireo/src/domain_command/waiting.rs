//! Waiting until a domain is in a state: by its events, and by looking now and then, as events may get lost.

use std::time::{Duration, Instant};

use libvirt_rpc::ErrorCode;
use libvirt_rpc::client::{ClientError, Connection};
use libvirt_rpc::procedures::{ConnectDomainEventCallbackRegisterAny, DomainGetState};
use libvirt_rpc::types::RemoteDomain;

use super::state::State;
use crate::connection::Error;

/// How often is looked without an event.
const LOOK: Duration = Duration::from_secs(1);

/// VIR_DOMAIN_EVENT_ID_LIFECYCLE.
const LIFECYCLE: i32 = 0;

/// Somebody who waits for a domain.
pub(super) struct Watch<'a> {
    connection: &'a mut Connection,
    domain: &'a RemoteDomain,
}

impl<'a> Watch<'a> {
    /// Begins to listen to what happens to the domain. A daemon without events is asked instead.
    pub(super) fn begin(connection: &'a mut Connection, domain: &'a RemoteDomain) -> Self {
        let call = ConnectDomainEventCallbackRegisterAny { event_id: LIFECYCLE, dom: Some(domain.clone()) };
        // Without events it is looked all the same.
        let _ = connection.call(&call);
        Self { connection, domain }
    }

    /// The connection, for the call that makes happen what is waited for.
    pub(super) fn connection(&mut self) -> &mut Connection {
        self.connection
    }

    /// The state now. A domain that is gone is shut off: it was transient.
    pub(super) fn state(&mut self) -> Result<State, Error> {
        match self.connection.call(&DomainGetState { dom: self.domain.clone(), flags: 0 }) {
            Ok(reply) => Ok(State::from_number(reply.state)),
            Err(ClientError::Daemon(error)) if error.code == ErrorCode::NoDomain => Ok(State::ShutOff),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Waits until `check` has an answer; none when it had none by `deadline`.
    pub(super) fn until<T>(
        &mut self,
        deadline: Option<Instant>,
        mut check: impl FnMut(&mut Self) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        loop {
            if let Some(found) = check(self)? {
                return Ok(Some(found));
            }
            let left = deadline.map_or(LOOK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            let event = self.connection.next_event(left.min(LOOK));
            event.map_err(|error| self.failed(error))?;
        }
    }

    fn failed(&self, error: ClientError) -> Error {
        Error::daemon(format!("cannot wait for domain {}", self.domain.name), error)
    }
}
