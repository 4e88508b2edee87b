//! Domains: what libvirt's clients define, under which names and in which state it is, and the machines that run them. No
//! protocol: `crate::service` speaks it.
//!
//! A `Domain` never changes. A change puts another one in its place (`Domains`), so whoever looks at one sees it whole and
//! holds no lock, and a thousand of them that nobody asks for cost their documents and nothing else: what is known of a
//! document beyond its text (`Summary`) is read when it is asked for the first time.
//!
//! | module | what |
//! |---|---|
//! | this one | a domain |
//! | `registry` | all of them: by UUID, name and number, and the order in which they are written down |
//! | `summary` | what a definition says, in the form in which it is asked for |
//! | `tune` | changes of numbers: memory, vCPUs, places |
//! | `device` | devices attached to, changed in and detached from definitions |
//! | `metadata` | title, description, elements of other programs |
//! | [`machine`] | the machine that a definition asks for |
//! | `running` | machines that run: started, watched, ended, found again |
//! | `error` | why something can't be done |

pub(crate) mod device;
pub(crate) mod error;
pub mod machine;
pub(crate) mod metadata;
pub(crate) mod registry;
pub(crate) mod running;
pub(crate) mod summary;
pub(crate) mod tune;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use libvirt_xml::Uuid;
use libvirt_xml::domain::Domain as Definition;
use libvirt_xml::size::Kib;

pub(crate) use self::error::DomainError;
pub(crate) use self::registry::{Change, Domains};
pub(crate) use self::running::{Console, Machine, Machines};
pub(crate) use self::summary::Summary;
use crate::store::{Kind, Record};

/// A state and why it is so, with the numbers of virDomainState and of the reasons of that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// virDomainState.
    pub(crate) state: u8,
    /// As virDomainRunningReason, virDomainPausedReason or virDomainShutoffReason.
    pub(crate) reason: i32,
}

/// VIR_DOMAIN_RUNNING.
pub(crate) const RUNNING: u8 = 1;
/// VIR_DOMAIN_PAUSED.
pub(crate) const PAUSED: u8 = 3;
/// VIR_DOMAIN_SHUTOFF.
pub(crate) const SHUT_OFF: u8 = 5;

/// A document as libvirt prints it, passwords included; what it says is read when somebody asks.
#[derive(Debug)]
pub(crate) struct Document {
    text: Box<str>,
    summary: OnceLock<Result<Box<Summary>, String>>,
}

impl Document {
    /// A document whose model is at hand.
    pub(crate) fn of(definition: &Definition) -> Self {
        let summary = OnceLock::from(Ok(Box::new(Summary::of(definition))));
        Self { text: definition.to_xml().into_boxed_str(), summary }
    }

    fn remembered(text: String) -> Self {
        Self { text: text.into_boxed_str(), summary: OnceLock::new() }
    }

    /// All of it.
    fn definition(&self) -> Result<Definition, String> {
        Definition::parse(&self.text).map_err(|error| error.to_string())
    }

    fn summary(&self) -> Result<&Summary, &str> {
        let read = || self.definition().map(|definition| Box::new(Summary::of(&definition)));
        self.summary.get_or_init(read).as_deref().map_err(String::as_str)
    }
}

/// The running machine of a domain.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    /// Number while it runs.
    pub(crate) id: i32,
    /// What it does.
    pub(crate) status: Status,
    /// What its guest has put into the balloon, KiB.
    pub(crate) ballooned: u64,
    /// The definition that it was started from, completed by what it has got, with what is demanded of it now.
    document: Arc<Document>,
    /// Where its consoles and channels are.
    pub(crate) consoles: Arc<[Console]>,
    /// Its process.
    pub(crate) machine: Arc<Machine>,
}

/// A domain as it is at one moment: defined, running, or both.
#[derive(Debug, Clone)]
pub(crate) struct Domain {
    uuid: Uuid,
    name: String,
    autostart: bool,
    /// What it is next started from; none of a domain that is forgotten when it ends.
    definition: Option<Arc<Document>>,
    live: Option<Live>,
    /// Why it does not run, when it does not.
    off: i32,
}

/// Which of a domain's documents is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// That of the running machine, else the definition.
    Present,
    /// That of the running machine.
    Live,
    /// What it is next started from.
    Defined,
}

/// Which of a domain's documents a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Affected {
    /// That of the running machine.
    pub(crate) live: bool,
    /// What it is next started from.
    pub(crate) defined: bool,
}

impl Domain {
    /// A domain with a completed and checked definition, that does not run.
    pub(crate) fn defined(definition: &Definition, autostart: bool) -> Result<Self, DomainError> {
        let domain = Self::transient(definition)?;
        Ok(Self { definition: Some(Arc::new(Document::of(definition))), autostart, ..domain })
    }

    /// A domain without definition: it exists while it runs.
    pub(crate) fn transient(definition: &Definition) -> Result<Self, DomainError> {
        let (Some(uuid), Some(name)) = (definition.uuid, definition.name.clone()) else {
            return Err(DomainError::Broken("a definition without name or UUID".to_owned()));
        };
        Ok(Self { uuid, name, autostart: false, definition: None, live: None, off: 0 })
    }

    /// A domain that the store remembers, without its machine. Its definition is what an earlier daemon has completed and checked,
    /// and is not read before somebody asks.
    pub(crate) fn remembered(record: Record) -> Self {
        Self {
            uuid: Uuid(record.uuid),
            name: record.name,
            autostart: record.autostart,
            definition: record.definition.map(|text| Arc::new(Document::remembered(text))),
            live: None,
            off: 0,
        }
    }

    /// The same domain with another definition.
    pub(crate) fn with_definition(&self, definition: Option<&Definition>) -> Self {
        let definition = definition.map(|definition| Arc::new(Document::of(definition)));
        // What is forgotten with its machine starts with nobody.
        Self { autostart: self.autostart && definition.is_some(), definition, ..self.clone() }
    }

    /// The same domain with a running machine.
    pub(crate) fn with_live(
        &self,
        id: i32,
        status: Status,
        document: Document,
        machine: &Arc<Machine>,
    ) -> Self {
        let (document, machine) = (Arc::new(document), Arc::clone(machine));
        let live = Live { id, status, ballooned: 0, document, consoles: Arc::default(), machine };
        Self { live: Some(live), ..self.clone() }
    }

    /// The same domain, its machine with these consoles.
    pub(crate) fn with_consoles(self, consoles: Vec<Console>) -> Self {
        let live = self.live.map(|live| Live { consoles: consoles.into(), ..live });
        Self { live, ..self }
    }

    /// The same domain, its machine in another state.
    pub(crate) fn with_status(&self, status: Status) -> Self {
        let live = self.live.clone().map(|live| Live { status, ..live });
        Self { live, ..self.clone() }
    }

    /// The same domain, its guest with so many KiB in the balloon.
    pub(crate) fn with_ballooned(&self, ballooned: u64) -> Self {
        let live = self.live.clone().map(|live| Live { ballooned, ..live });
        Self { live, ..self.clone() }
    }

    /// The same domain with another document of its machine.
    pub(crate) fn with_live_document(&self, document: &Definition) -> Self {
        let document = Arc::new(Document::of(document));
        let live = self.live.clone().map(|live| Live { document, ..live });
        Self { live, ..self.clone() }
    }

    /// The same domain without its machine, which ended for this reason (virDomainShutoffReason); nothing is left of a domain
    /// without definition.
    pub(crate) fn without_live(&self, reason: i32) -> Option<Self> {
        self.is_persistent().then(|| Self { live: None, off: reason, ..self.clone() })
    }

    /// What is written down of it.
    fn record(&self) -> Record {
        Record {
            kind: Kind::Domain,
            uuid: self.uuid.0,
            name: self.name.clone(),
            definition: self.definition.as_ref().map(|definition| definition.text.to_string()),
            autostart: self.autostart,
            live: self.live.as_ref().map(running::record::text),
        }
    }

    /// Identity for good.
    pub(crate) fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its running machine.
    pub(crate) fn live(&self) -> Option<&Live> {
        self.live.as_ref()
    }

    /// Its running machine, or libvirt's words that there is none.
    pub(crate) fn running(&self) -> Result<&Live, DomainError> {
        self.live.as_ref().ok_or_else(DomainError::not_running)
    }

    /// Number while it runs.
    pub(crate) fn id(&self) -> Option<i32> {
        self.live.as_ref().map(|live| live.id)
    }

    /// Whether it runs.
    pub(crate) fn is_active(&self) -> bool {
        self.live.is_some()
    }

    /// Whether it stays when it ends.
    pub(crate) fn is_persistent(&self) -> bool {
        self.definition.is_some()
    }

    /// Whether the next start would make another machine than the one that runs.
    pub(crate) fn is_updated(&self) -> Result<bool, DomainError> {
        let Some(live) = self.live.as_ref().filter(|_| self.is_persistent()) else { return Ok(false) };
        let mut next = self.definition(Form::Defined)?;
        // What a start changes by itself is no difference.
        libvirt_xml::domain::assign::start(&mut next, live.id);
        let present = self.definition(Form::Live)?.without_live_details();
        Ok(next.without_live_details() != present)
    }

    /// State and reason.
    pub(crate) fn status(&self) -> Status {
        self.live.as_ref().map_or(Status { state: SHUT_OFF, reason: self.off }, |live| live.status)
    }

    /// Whether it starts with the daemon.
    pub(crate) fn autostart(&self) -> bool {
        self.autostart
    }

    /// One of its documents.
    fn form(&self, form: Form) -> Result<&Document, DomainError> {
        let live = self.live.as_ref().map(|live| &*live.document);
        let defined = self.definition.as_deref();
        match form {
            Form::Live => live.ok_or_else(DomainError::not_running),
            Form::Defined => defined.ok_or_else(DomainError::transient),
            Form::Present => live.or(defined).ok_or_else(DomainError::not_running),
        }
    }

    /// A document as text; without `secrets`, passwords are left out. That of a running machine says as current memory what its
    /// guest has now, as libvirt's does: what is demanded is where the guest is going.
    pub(crate) fn document(&self, form: Form, secrets: bool) -> Result<Cow<'_, str>, DomainError> {
        let document = self.form(form)?;
        if self.live.is_some() && form != Form::Defined {
            let current = self.current_memory()?;
            if current != self.summary(form)?.current_memory {
                let mut definition = self.definition(form)?;
                definition.current_memory = Some(Kib(current));
                let shown = if secrets { definition } else { definition.without_secrets() };
                return Ok(Cow::Owned(shown.to_xml()));
            }
        }
        let public = if secrets { None } else { self.summary(form)?.public.as_deref() };
        Ok(Cow::Borrowed(public.unwrap_or(&document.text)))
    }

    /// The memory that the guest of a running machine has, or that a guest is to have, KiB.
    pub(crate) fn current_memory(&self) -> Result<u64, DomainError> {
        let summary = self.summary(Form::Present)?;
        Ok(self.live.as_ref().map_or(summary.current_memory, |live| summary.left_by(live.ballooned)))
    }

    /// A document, to be looked at in all its parts.
    pub(crate) fn definition(&self, form: Form) -> Result<Definition, DomainError> {
        self.form(form)?.definition().map_err(|error| self.unreadable(&error))
    }

    /// What a document says.
    pub(crate) fn summary(&self, form: Form) -> Result<&Summary, DomainError> {
        self.form(form)?.summary().map_err(|error| self.unreadable(error))
    }

    fn unreadable(&self, reason: &str) -> DomainError {
        DomainError::Broken(format!("the definition of domain '{}' can't be read: {reason}", self.name))
    }
}

#[cfg(test)]
mod tests;
