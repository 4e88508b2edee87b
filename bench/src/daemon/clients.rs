//! What clients ask, as often as told; the time it took.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libvirt_rpc::client::Connection;
use libvirt_rpc::procedures::{
    ConnectGetAllDomainStats, ConnectGetLibVersion, ConnectListAllDomains, DomainDefineXmlFlags,
    DomainGetXmlDesc,
};
use libvirt_rpc::types::RemoteDomain;

use super::document::Documents;
use super::peer::Daemon;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Something that takes the daemon nothing: the way to it and back.
    Null,
    /// The document of a domain, one after the other.
    Document,
    /// A definition, one after the other.
    Define,
    /// All domains.
    List,
    /// Statistics of all domains.
    Statistics,
}

impl Question {
    /// Asks once for each number; definitions are those with these numbers.
    fn ask(
        self,
        connection: &mut Connection,
        numbers: Range<usize>,
        documents: &Documents,
        domains: &[RemoteDomain],
    ) -> Result<Duration> {
        let texts = documents.all();
        let start = Instant::now();
        for number in numbers {
            match self {
                Self::Null => {
                    connection.call(&ConnectGetLibVersion {})?;
                }
                Self::Document => {
                    let dom = domains[number % domains.len()].clone();
                    connection.call(&DomainGetXmlDesc { dom, flags: 0 })?;
                }
                Self::Define => {
                    let xml = texts[number % texts.len()].clone();
                    connection.call(&DomainDefineXmlFlags { xml, flags: 0 })?;
                }
                Self::List => {
                    list(connection)?;
                }
                Self::Statistics => {
                    let everything = ConnectGetAllDomainStats { doms: Vec::new(), stats: 0, flags: 0 };
                    let found = connection.call(&everything)?.ret_stats.len();
                    ensure!(found == texts.len(), "statistics of {found} domains of {}", texts.len());
                }
            }
        }
        Ok(start.elapsed())
    }
}

/// All domains, as a client lists them.
fn list(connection: &mut Connection) -> Result<Vec<RemoteDomain>> {
    Ok(connection.call(&ConnectListAllDomains { need_results: 1, flags: 0 })?.domains)
}

/// Lets clients ask at the same time, each for its part of the numbers; the time from the first question to the last answer, for
/// one of them.
pub(super) fn ask(
    daemon: &Daemon<'_>,
    question: Question,
    numbers: Range<usize>,
    documents: &Documents,
    clients: usize,
) -> Result<Duration> {
    let part = numbers.len() / clients;
    let calls = u32::try_from(part * clients)?;
    ensure!(calls > 0, "nothing to ask");
    let mut connections = (0..clients).map(|_| daemon.connect()).collect::<Result<Vec<_>, _>>()?;
    let domains = list(&mut connections[0])?;
    ensure!(question != Question::Document || !domains.is_empty(), "no domains");
    let (documents, domains) = (&documents, &domains);
    // One client alone is asked from here: nothing is to be woken for it.
    if let [connection] = &mut connections[..] {
        return Ok(question.ask(connection, numbers, documents, domains)? / calls);
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        let ask = |(client, mut connection)| {
            let first = numbers.start + client * part;
            scope.spawn(move || question.ask(&mut connection, first..first + part, documents, domains))
        };
        let asking: Vec<_> = connections.into_iter().enumerate().map(ask).collect();
        for thread in asking {
            thread.join().ok().context("a client has panicked")??;
        }
        anyhow::Ok(())
    })?;
    Ok(start.elapsed() / calls)
}
