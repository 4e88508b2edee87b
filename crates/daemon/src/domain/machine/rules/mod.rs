//! What a rule says, and all of them.

mod devices;
mod machine;

/// What may be wanted of the daemon and the host around a machine's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ability {
    /// Shares and bandwidth of processors.
    CpuLimits,
    /// Limits of memory.
    MemoryLimits,
    /// Processors that threads may use.
    Pinning,
    /// Comparing wanted features with the host's processor.
    CpuFeatures,
}

impl Ability {
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::CpuLimits => "limits of processors",
            Self::MemoryLimits => "limits of memory",
            Self::Pinning => "sets of processors",
            Self::CpuFeatures => "wanted features of the processor",
        }
    }
}

/// What happens to an element or attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Honoured, by whom or in which field of the wire; what is inside has decisions of its own.
    Honoured(&'static str),
    /// With everything inside of no concern to the machine's process: names, and what only running domains show.
    Kept(&'static str),
    /// With everything inside without effect, for that reason.
    Hint(&'static str),
    /// Honoured by a daemon that is able to; what is inside has decisions of its own.
    Demand(Ability, &'static str),
    /// Refused with everything inside: reason and advice.
    Refused(&'static str, &'static str),
}

/// When a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// The value or text is one of these.
    Is(&'static [&'static str]),
    /// The element has an attribute with one of these values.
    Has(&'static str, &'static [&'static str]),
    /// The element has an attribute with one of these values, and another one with one of those.
    Both((&'static str, &'static [&'static str]), (&'static str, &'static [&'static str])),
    /// The element has an attribute with one of these values, and no such child.
    HasWithout(&'static str, &'static [&'static str], &'static str),
}

/// A decision. In paths `CHARACTER` stands for `serial`, `console` and `channel`, `ANY` for all devices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) path: &'static str,
    pub(super) when: When,
    pub(super) decision: Decision,
}

impl Rule {
    const fn is(self, values: &'static [&'static str]) -> Self {
        Self { when: When::Is(values), ..self }
    }

    const fn has(self, attribute: &'static str, values: &'static [&'static str]) -> Self {
        Self { when: When::Has(attribute, values), ..self }
    }

    const fn has_both(
        self,
        one: (&'static str, &'static [&'static str]),
        other: (&'static str, &'static [&'static str]),
    ) -> Self {
        Self { when: When::Both(one, other), ..self }
    }

    const fn has_without(
        self,
        attribute: &'static str,
        values: &'static [&'static str],
        child: &'static str,
    ) -> Self {
        Self { when: When::HasWithout(attribute, values, child), ..self }
    }
}

const fn rule(path: &'static str, decision: Decision) -> Rule {
    Rule { path, when: When::Always, decision }
}

const fn honoured(path: &'static str, field: &'static str) -> Rule {
    rule(path, Decision::Honoured(field))
}

const fn kept(path: &'static str, what: &'static str) -> Rule {
    rule(path, Decision::Kept(what))
}

const fn hint(path: &'static str, reason: &'static str) -> Rule {
    rule(path, Decision::Hint(reason))
}

const fn demand(path: &'static str, ability: Ability, what: &'static str) -> Rule {
    rule(path, Decision::Demand(ability, what))
}

const fn refused(path: &'static str, reason: &'static str, advice: &'static str) -> Rule {
    rule(path, Decision::Refused(reason, advice))
}

/// Every rule; of those with the same path the first that applies decides.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    machine::RULES.iter().chain(devices::RULES)
}
