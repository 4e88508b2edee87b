//! Verbs about definitions: nothing runs.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// The command with an editor that changes the file by this script.
fn with_editor(place: &Place, arguments: &[&str], script: &str) -> Command {
    let editor = place.write("editor", &format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(&editor, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = place.command(arguments);
    // Run by a shell, so that it is no matter whether a child of another test still has the file open.
    command.env("VISUAL", format!("/bin/sh {editor}")).env_remove("EDITOR");
    command
}

#[test]
fn a_domain_is_defined_shown_and_undefined() {
    let place = Place::new();
    let file = place.document("one", "");
    assert_eq!(place.ok(&["define", &file]), format!("Domain 'one' defined from {file}\n"));
    let shown = place.ok(&["dumpxml", "one"]);
    assert!(shown.starts_with("<domain type='kvm'>") && shown.ends_with("</domain>\n"), "{shown}");
    assert_eq!(place.json(&["dumpxml", "one"])["xml"].as_str().unwrap().trim(), shown.trim());
    assert_eq!(place.ok(&["undefine", "one"]), "Domain 'one' has been undefined\n");
    place.fails(&["dumpxml", "one"], 4, &["there is no domain \"one\""]);
    place.fails(&["undefine", "one"], 4, &["there is no domain"]);
}

#[test]
fn a_definition_comes_from_standard_input_as_well() {
    let place = Place::new();
    let mut command = place.command(&["define", "-"]);
    let file = std::fs::File::open(place.document("one", "")).unwrap();
    let said = Said::of(command.stdin(file));
    assert_eq!((said.code, said.out.as_str()), (Some(0), "Domain 'one' defined from -\n"));
}

#[test]
fn bad_documents_are_refused_with_what_is_wrong() {
    let place = Place::new();
    let bad = place.write("bad.xml", "<domain type='kvm'><name>x</name>");
    place.fails(&["define", &bad], 1, &["cannot define a domain from", "bad.xml: XML error"]);
    place.fails(&["define", "/nowhere.xml"], 1, &["cannot read /nowhere.xml: No such file"]);
    let long = place.write("long.xml", &" ".repeat((4 << 20) + 1));
    place.fails(&["define", &long], 2, &["longer than"]);
    let binary = place.path("binary.xml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    place.fails(&["define", binary.to_str().unwrap()], 1, &["cannot read", "UTF-8"]);
    assert_eq!(place.ok(&["list", "--all", "--name"]), "");
}

#[test]
fn lists_are_filtered_and_look_as_virshs() {
    let place = Place::with(&[("web", ""), ("demo", "")]);
    place.ok(&["autostart", "web"]);
    place.ok(&["title", "demo", "A", "demonstration"]);
    assert_eq!(place.ok(&["list"]), " Id   Name   State\n--------------------\n");
    assert_eq!(
        place.ok(&["list", "--all"]),
        " Id   Name   State\n-----------------------\n -    demo   shut off\n -    web    shut off\n"
    );
    assert_eq!(place.ok(&["list", "--inactive", "--name"]), "demo\nweb\n");
    assert_eq!(place.ok(&["list", "--all", "--autostart", "--name"]), "web\n");
    assert_eq!(place.ok(&["list", "--all", "--no-autostart", "--name"]), "demo\n");
    assert_eq!(place.ok(&["list", "--state-shutoff", "--name"]), "demo\nweb\n");
    assert_eq!(place.ok(&["list", "--state-running", "--name"]), "");
    assert!(place.ok(&["list", "--all", "--title"]).contains("A demonstration"));
    let uuid = place.ok(&["domuuid", "web"]);
    assert_eq!(
        place.ok(&["list", "--all", "--uuid", "--name"]).lines().nth(1).unwrap(),
        format!("{} web", uuid.trim())
    );
    let told = place.json(&["list", "--all"]);
    assert_eq!(told[1]["name"], "web");
    assert_eq!((&told[1]["id"], &told[1]["autostart"]), (&Value::Null, &Value::Bool(true)));
    assert_eq!((&told[0]["state"], &told[0]["title"]), (&"shut off".into(), &"A demonstration".into()));
    place.fails(&["list", "--title", "--name"], 2, &["cannot be used with"]);
}

#[test]
fn colours_are_for_terminals_only() {
    let place = Place::with(&[("one", "")]);
    place.ok(&["start", "one"]);
    assert!(!place.ok(&["list"]).contains('\u{1b}'));
    let mut person = person::Person::starts(place.command(&["list"]));
    person.waits_for("running");
    assert_eq!(person.exit_code(), Some(0));
    assert!(person.seen().contains('\u{1b}'), "{}", person.seen());
    let mut plain = place.command(&["list"]);
    plain.env("NO_COLOR", "1");
    let mut person = person::Person::starts(plain);
    person.waits_for("running");
    assert!(!person.seen().contains('\u{1b}'), "{}", person.seen());
}

#[test]
fn information_has_virshs_lines() {
    let place = Place::with(&[("one", "")]);
    let uuid = place.ok(&["domuuid", "one"]);
    let expected = format!(
        "Id:             -\nName:           one\nUUID:           {}\nOS Type:        hvm\nState:          shut off\n\
         CPU(s):         2\nMax memory:     65536 KiB\nUsed memory:    65536 KiB\nPersistent:     yes\n\
         Autostart:      disable\nManaged save:   no\n",
        uuid.trim()
    );
    assert_eq!(place.ok(&["info", "one"]), expected);
    assert_eq!(place.ok(&["dominfo", "one"]), expected);
    let told = place.json(&["info", "one"]);
    assert_eq!((told["vcpus"].as_u64(), told["max_memory_kib"].as_u64()), (Some(2), Some(65_536)));
    place.fails(&["info", "two"], 4, &["there is no domain"]);
}

#[test]
fn one_word_about_a_domain_is_printed() {
    let place = Place::with(&[("one", "")]);
    assert_eq!(place.ok(&["domid", "one"]), "-\n");
    assert_eq!(place.ok(&["domstate", "one"]), "shut off\n");
    assert_eq!(place.state("one"), "shut off (unknown)");
    assert_eq!(place.json(&["domstate", "one"])["state"], "shut off");
    assert_eq!(place.ok(&["domuuid", "one"]).trim().len(), 36);
    for verb in ["domid", "domname", "domuuid", "domstate"] {
        place.fails(&[verb, "two"], 4, &["there is no domain \"two\""]);
    }
}

#[test]
fn autostart_rename_and_texts_are_set() {
    let place = Place::with(&[("one", ""), ("two", "")]);
    assert_eq!(place.ok(&["autostart", "one"]), "Domain 'one' marked as autostarted\n");
    assert_eq!(place.ok(&["autostart", "one", "--disable"]), "Domain 'one' unmarked as autostarted\n");
    assert_eq!(place.ok(&["desc", "one"]), "No description for domain: one\n");
    assert_eq!(place.ok(&["desc", "one", "two", "words"]), "Domain description updated successfully\n");
    assert_eq!(place.ok(&["desc", "one"]), "two words\n");
    assert_eq!(place.json(&["desc", "one"])["description"], "two words");
    place.ok(&["desc", "--title", "one", "short"]);
    assert_eq!(place.ok(&["title", "one"]), "short\n");
    place.ok(&["title", "one", ""]);
    assert_eq!(place.json(&["title", "one"])["title"], Value::Null);
    place.fails(&["title", "one", "two\nlines"], 1, &["cannot set the title of domain one"]);
    place.fails(&["desc", "one", "x", "--live"], 5, &["not running", "`vireo start`"]);
    assert_eq!(place.ok(&["rename", "one", "three"]), "Domain 'one' renamed to 'three'\n");
    assert_eq!(place.ok(&["list", "--all", "--name"]), "three\ntwo\n");
    place.fails(&["domrename", "three", "two"], 1, &["cannot rename domain three to two", "already exists"]);
    place.fails(&["autostart", "one"], 4, &["there is no domain"]);
}

#[test]
fn a_definition_is_edited() {
    let place = Place::with(&[("one", "")]);
    let unchanged = Said::of(&mut with_editor(&place, &["edit", "one"], "touch \"$1\""));
    assert_eq!(unchanged.out, "Domain 'one' XML configuration not changed.\n");
    let edited = Said::of(&mut with_editor(&place, &["edit", "one"], "sed -i 's/65536/131072/' \"$1\""));
    assert_eq!((edited.code, edited.out.as_str()), (Some(0), "Domain 'one' XML configuration edited.\n"));
    assert_eq!(place.json(&["info", "one"])["max_memory_kib"], 131_072);
    let text = Said::of(&mut with_editor(&place, &["desc", "one", "--edit"], "echo written > \"$1\""));
    assert_eq!(text.code, Some(0), "{text:?}");
    assert_eq!(place.ok(&["desc", "one"]), "written\n");
}

#[test]
fn an_edit_that_fails_changes_nothing() {
    let place = Place::with(&[("one", "")]);
    let before = place.ok(&["dumpxml", "one"]);
    let failed = |script: &str| Said::of(&mut with_editor(&place, &["edit", "one"], script));
    failed("exit 1").failed(1, &["vireo edit: the editor", "nothing was changed"]);
    // Nobody is there to be asked whether to try again.
    failed("echo '<domain/>' > \"$1\"").failed(1, &["cannot define domain one: XML error"]);
    failed("printf '\\377' > \"$1\"").failed(1, &["cannot read what was edited"]);
    let meanwhile = format!("{} desc one other; echo '<!-- -->' >> \"$1\"", env!("CARGO_BIN_EXE_vireo"));
    let overtaken = failed(&meanwhile);
    assert_eq!(overtaken.code, Some(1), "{overtaken:?}");
    assert!(overtaken.err.contains("was changed by another user"), "{overtaken:?}");
    place.ok(&["desc", "one", ""]);
    assert_eq!(place.ok(&["dumpxml", "one"]), before);
    place.fails(&["edit", "two"], 4, &["there is no domain"]);
}

#[test]
fn a_person_may_edit_again_what_was_refused() {
    let place = Place::with(&[("one", "")]);
    let script = "if grep -q broken \"$1\"; then sed -i 's/<broken.*//; s/65536/131072/' \"$1\"; else \
                  echo '<broken' >> \"$1\"; fi";
    let mut person = person::Person::starts(with_editor(&place, &["edit", "one"], script));
    person.waits_for("Try again? [y,n]: ");
    assert!(person.seen().contains("XML error"), "{}", person.seen());
    person.types("what\ny\n");
    person.waits_for("XML configuration edited.");
    assert_eq!(person.exit_code(), Some(0));
    assert_eq!(place.json(&["info", "one"])["max_memory_kib"], 131_072);
}
