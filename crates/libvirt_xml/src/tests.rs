//! Documents read into trees and printed again.

use proptest::prelude::*;

use crate::{Element, Fields, MAX_DEPTH, MAX_ELEMENTS, Node, XmlFault, parse};

#[test]
fn a_document_keeps_its_names_attributes_and_text() {
    let document = "<?xml version='1.0'?>\n<!-- a note --><a b='1' q:c='x &amp; &#65;'>\n  <d>t &lt; <![CDATA[<u>]]></d>\n  <e/>\n</a>\n";
    let root = parse(document).unwrap();
    assert_eq!(root.attribute("q:c"), Some("x & A"));
    assert_eq!(root.first("d").unwrap().own_text(), "t < <u>");
    assert_eq!(root.children().map(|child| child.name.as_str()).collect::<Vec<_>>(), ["d", "e"]);
    assert_eq!(root.to_string(), "<a b='1' q:c='x &amp; A'>\n  <d>t &lt; &lt;u&gt;</d>\n  <e/>\n</a>\n");
}

#[test]
fn what_is_not_one_bounded_tree_is_refused() {
    let deep = "<a>".repeat(MAX_DEPTH + 1);
    let many = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS));
    let long = format!("<a>{}</a>", " ".repeat(crate::MAX_DOCUMENT_BYTES));
    let bomb = "<!DOCTYPE a [<!ENTITY b 'bbbbbbbb'>]><a>&b;</a>";
    let attributes = format!("<a {}/>", (0..65).map(|n| format!("a{n}='' ")).collect::<String>());
    for document in [
        "",
        "text",
        "<a>",
        "<a></b>",
        "<a/><b/>",
        "<a/>text",
        "<a b='1' b='2'/>",
        "<a>&c;</a>",
        "<a>&#0;</a>",
        "<a b='&c;'/>",
        "<a>\u{1}</a>",
        &deep,
        &many,
        &long,
        bomb,
        &attributes,
    ] {
        let error = parse(document).unwrap_err();
        assert!(matches!(error.fault, XmlFault::Malformed(_)), "{document:.60}: {error}");
    }
}

#[test]
fn what_no_model_took_is_named() {
    let root = parse("<disk type='file'><source file='/a'/><source file='/b'/></disk>").unwrap();
    let mut fields = Fields::of_root(&root, "disk").unwrap();
    assert_eq!(fields.attribute("type"), Some("file"));
    let mut source = fields.child("source").unwrap();
    assert_eq!(source.path(), "disk/source");
    assert_eq!(
        source.required_attribute("index").unwrap_err().to_string(),
        "disk/source: attribute \"index\" is missing"
    );
    assert_eq!(source.finish().unwrap_err().path, "disk/source/@file");
    assert_eq!(fields.finish().unwrap_err().path, "disk/source");
}

fn trees() -> impl Strategy<Value = Element> {
    let name = "[a-z][a-z0-9]{0,8}";
    let text = "[ -~\\n\u{e9}]{0,12}";
    let attributes = proptest::collection::btree_map(name, text, 0..4);
    let leaf = (name, attributes.clone(), text).prop_map(|(name, attributes, text)| {
        let element = Element { name, attributes: attributes.into_iter().collect(), content: Vec::new() };
        element.text(text)
    });
    leaf.prop_recursive(4, 32, 5, move |inner| {
        (name, attributes.clone(), proptest::collection::vec(inner, 1..5)).prop_map(
            |(name, attributes, children)| Element {
                name,
                attributes: attributes.into_iter().collect(),
                content: children.into_iter().map(Node::Element).collect(),
            },
        )
    })
}

/// Without the blanks between elements, which layout adds.
fn without_layout(element: Element) -> Element {
    let mixed = element.children().next().is_some();
    let content = element.content.into_iter().filter_map(|node| match node {
        Node::Text(_) if mixed => None,
        Node::Text(text) => Some(Node::Text(text)),
        Node::Element(child) => Some(Node::Element(without_layout(child))),
    });
    let content = content.collect();
    Element { content, ..element }
}

proptest! {
    #[test]
    fn a_printed_tree_is_read_as_the_same_tree(tree in trees()) {
        let printed = tree.to_string();
        let read = without_layout(parse(&printed).unwrap());
        prop_assert_eq!(&read, &tree);
        prop_assert_eq!(read.to_string(), printed);
    }

    #[test]
    fn rubbish_is_refused_and_not_worse(document in "[<>/a-c='\" &;!\\[\\]#x0-9-]{0,64}") {
        let _ = parse(&document);
    }
}
