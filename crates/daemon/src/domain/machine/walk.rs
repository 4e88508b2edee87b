//! The walk over a whole document by which nothing is dropped silently: every element and attribute is looked up in the table of
//! decisions, and what the table does not have is refused.

use std::collections::HashMap;
use std::sync::LazyLock;

use libvirt_xml::Element;

use super::rules::{self, Decision, Rule, When};
use super::{Findings, HostAbilities};

/// Devices with a host's end that speaks bytes; they share rules.
const CHARACTER_DEVICES: [&str; 3] = ["serial", "console", "channel"];

static RULES: LazyLock<HashMap<&'static str, Vec<&'static Rule>>> = LazyLock::new(|| {
    let mut rules: HashMap<_, Vec<_>> = HashMap::new();
    for rule in rules::all() {
        rules.entry(rule.path).or_default().push(rule);
    }
    rules
});

/// Something of the document that is looked up.
#[derive(Clone, Copy)]
struct Subject<'a> {
    /// The element, or the one that the attribute belongs to.
    element: &'a Element,
    /// The attribute's value, or the element's text.
    value: &'a str,
}

/// Walks the document below (and with) its root.
pub(super) fn document(root: &Element, abilities: HostAbilities, findings: &mut Findings) {
    Walk { abilities, findings }.element(root, root.name.clone(), root.name.clone());
}

struct Walk<'a> {
    abilities: HostAbilities,
    findings: &'a mut Findings,
}

impl Walk<'_> {
    /// `path` says where an element is, `key` how rules name it: without numbers, and a chain of backing images as one.
    fn element(&mut self, element: &Element, path: String, key: String) {
        let text = element.own_text();
        if !self.descends(Subject { element, value: &text }, &path, &key) {
            return;
        }
        for (name, value) in &element.attributes {
            let subject = Subject { element, value };
            self.descends(subject, &format!("{path}/@{name}"), &format!("{key}/@{name}"));
        }
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for child in element.children() {
            *counts.entry(child.name.as_str()).or_default() += 1;
        }
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        for child in element.children() {
            let number = numbers.entry(child.name.as_str()).or_default();
            *number += 1;
            let several = counts.get(child.name.as_str()).is_some_and(|count| *count > 1);
            let below = numbered(&path, &child.name, *number, several);
            let chain = child.name == "backingStore" && key.ends_with("/backingStore");
            let key = if chain { key.clone() } else { format!("{key}/{}", child.name) };
            self.element(child, below, key);
        }
    }

    /// Notes what is decided; true when what is inside has decisions of its own.
    fn descends(&mut self, subject: Subject<'_>, path: &str, key: &str) -> bool {
        match decision(subject, key) {
            Some(Decision::Honoured(_)) => true,
            Some(Decision::Kept(_)) => false,
            Some(Decision::Hint(reason)) => {
                self.findings.ignore(path, reason);
                false
            }
            Some(Decision::Demand(ability, _)) => {
                if self.abilities.has(ability) {
                    return true;
                }
                let reason = format!("the daemon can't apply {} on this host", ability.what());
                self.findings.refuse(path, reason, "leave it out");
                false
            }
            Some(Decision::Refused(reason, advice)) => {
                self.findings.refuse(path, reason, advice);
                false
            }
            None => {
                let said =
                    if subject.value.is_empty() { String::new() } else { format!(" {:?}", subject.value) };
                self.findings.refuse(path, format!("the machine can't honour it{said}"), "leave it out");
                false
            }
        }
    }
}

/// The path of a child; numbered from 1 where there are several of the name, as in XPath.
pub(super) fn numbered(parent: &str, name: &str, number: usize, several: bool) -> String {
    if several { format!("{parent}/{name}[{number}]") } else { format!("{parent}/{name}") }
}

/// The first rule that matches: one of the very path, then one of all character devices, then one of all devices.
fn decision(subject: Subject<'_>, key: &str) -> Option<Decision> {
    let device = key.strip_prefix("domain/devices/").and_then(|rest| rest.split_once('/'));
    let shared = device.into_iter().flat_map(|(name, rest)| {
        let character = CHARACTER_DEVICES.contains(&name).then(|| format!("domain/devices/CHARACTER/{rest}"));
        character.into_iter().chain([format!("domain/devices/ANY/{rest}")])
    });
    std::iter::once(key.to_owned()).chain(shared).find_map(|key| {
        let rules = RULES.get(key.as_str())?;
        rules.iter().find(|rule| matches(rule.when, subject)).map(|rule| rule.decision)
    })
}

fn matches(when: When, subject: Subject<'_>) -> bool {
    match when {
        When::Always => true,
        When::Is(values) => values.contains(&subject.value),
        When::Has(attribute, values) => {
            subject.element.attribute(attribute).is_some_and(|value| values.contains(&value))
        }
        When::Both((one, values), (other, others)) => {
            matches(When::Has(one, values), subject) && matches(When::Has(other, others), subject)
        }
        When::HasWithout(attribute, values, child) => {
            matches(When::Has(attribute, values), subject) && subject.element.first(child).is_none()
        }
    }
}
