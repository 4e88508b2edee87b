//! Documents that nobody would write, made from those of clients.

use proptest::prelude::*;

use libvirt_xml::Node;

use super::*;

/// Values that mean something somewhere, and some that mean nothing.
const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "2",
    "3",
    "-1",
    "255",
    "4096",
    "65536",
    "4294967295",
    "18446744073709551615",
    "on",
    "off",
    "yes",
    "no",
    "virtio",
    "ide",
    "file",
    "block",
    "volume",
    "qcow2",
    "raw",
    "vdi",
    "none",
    "pty",
    "unix",
    "null",
    "serial",
    "bind",
    "network",
    "user",
    "direct",
    "kvm",
    "qemu",
    "utc",
    "hpet",
    "host-model",
    "custom",
    "disk",
    "cdrom",
    "require",
    "0-3",
    "/a",
    "../b",
    "vda",
    "net0",
    "é\u{1}",
    "destroy",
    "restart",
];

/// A change: which element (counted over the whole tree), what to do, and with what.
type Change = (u16, u8, u16);

/// Elements in the order of the document.
fn nth<'a>(element: &'a mut Element, left: &mut usize) -> Option<&'a mut Element> {
    if *left == 0 {
        return Some(element);
    }
    *left -= 1;
    element.content.iter_mut().find_map(|node| match node {
        Node::Element(child) => nth(child, left),
        Node::Text(_) => None,
    })
}

fn count(element: &Element) -> usize {
    1 + element.children().map(count).sum::<usize>()
}

fn change(root: &mut Element, (place, kind, with): Change) {
    let mut left = usize::from(place) % count(root);
    let value = VALUES[usize::from(with) % VALUES.len()];
    let Some(element) = nth(root, &mut left) else { return };
    let with = usize::from(with);
    match kind % 4 {
        0 if !element.attributes.is_empty() => {
            let at = with % element.attributes.len();
            element.attributes[at].1 = value.to_owned();
        }
        1 if !element.content.is_empty() => {
            element.content.remove(with % element.content.len());
        }
        2 if !element.content.is_empty() => {
            let twice = element.content[with % element.content.len()].clone();
            element.content.push(twice);
        }
        _ => element.content = vec![Node::Text(value.to_owned())],
    }
}

fn documents() -> Vec<Element> {
    let mut documents: Vec<_> = [
        "optimized-domain.xml",
        "domain-running-t1.xml",
        "domain-inactive-t1.xml",
        "client-virt-install-autoconsole-domain_create_xml.xml",
        "client-virt-install-cdrom-domain_create_xml.xml",
    ]
    .into_iter()
    .map(|name| sample(name).to_element())
    .collect();
    let devices = "<disk><driver type='qcow2' queues='2'/><source file='/i'/><target dev='vda'/>
          <backingStore type='file'><format type='raw'/><source file='/b'/></backingStore></disk>
        <interface type='user'><mtu size='1500'/><driver queues='2'/></interface><console type='pty'/>
        <console type='pty'><target type='virtio'/></console>
        <channel type='unix'><target type='virtio' name='a'/></channel><rng model='virtio'><backend model='random'/></rng>";
    let more = "<cpu mode='maximum'><topology sockets='1' cores='1' threads='1'/>
        <numa><cell cpus='0' memory='524288'/></numa></cpu><clock><timer name='tsc' present='yes'/></clock>
        <memoryBacking><hugepages><page size='2048'/></hugepages></memoryBacking>";
    documents.push(with(more, devices).to_element());
    documents
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Definitions that libvirt's own checks would refuse are among them: the translation relies on none of those.
    #[test]
    fn whatever_the_document_says_it_is_a_machine_or_refused_at_a_place_that_is_there(
        which in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec(any::<Change>(), 0..8),
    ) {
        let documents = documents();
        let mut root = which.get(&documents).clone();
        for one in changes {
            change(&mut root, one);
        }
        let Ok(domain) = Domain::from_element(&root) else { return Ok(()) };
        let written = domain.to_element();
        match machine(&domain, &places()) {
            Ok(plan) => {
                prop_assert!(MachineSpec::from_config(plan.config.clone(), &mut || [2; 6]).is_ok());
                prop_assert_eq!(plan.taps.len(), plan.config.net.as_ref().unwrap().len());
                for ignored in plan.ignored {
                    prop_assert!(exists(&written, &ignored.path), "{} in\n{}", ignored.path, written);
                }
            }
            Err(first) => {
                let refusals = refusals(&domain, &places());
                prop_assert_eq!(&refusals[0], &first);
                for refusal in refusals {
                    prop_assert!(exists(&written, &refusal.path), "{} in\n{}", refusal, written);
                }
            }
        }
    }
}

#[test]
fn changed_documents_are_translated_as_well_as_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let documents = documents();
    let (mut machines, mut refused) = (0, 0);
    for _ in 0..200 {
        let strategy = (0..documents.len(), any::<Change>());
        let (which, one) = proptest::strategy::ValueTree::current(&strategy.new_tree(&mut runner).unwrap());
        let mut root = documents[which].clone();
        change(&mut root, one);
        let Ok(domain) = Domain::from_element(&root) else { continue };
        match machine(&domain, &places()) {
            Ok(_) => machines += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(machines > 5 && refused > 20, "{machines} machines, {refused} refused");
}
