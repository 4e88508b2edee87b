//! The service as guests see it: a process in a network namespace with a bridge, real DHCP clients and resolvers in another.
//!
//! This is its own harness, because the process under test is this program again (`network serve DIRECTORY`) and has one thread then. Namespaces,
//! files and processes are each test's own and go with it. Without root, or without one of the clients, a test is skipped and says so.

#![expect(clippy::unwrap_used, reason = "tests, though the harness is not the usual one")]

mod dhcp;
mod laboratory;
mod load;
mod names;
mod process;

use std::panic::catch_unwind;
use std::path::Path;
use std::process::ExitCode;

use laboratory::Skipped;

type Test = (&'static str, fn() -> Result<(), Skipped>);

const TESTS: &[Test] = &[
    (
        "udhcpc_gets_an_address_at_the_first_try_and_renews_it",
        dhcp::udhcpc_gets_an_address_at_the_first_try_and_renews_it,
    ),
    ("a_fixed_address_is_given", dhcp::a_fixed_address_is_given),
    (
        "a_guest_keeps_its_lease_over_a_kill_of_the_service",
        dhcp::a_guest_keeps_its_lease_over_a_kill_of_the_service,
    ),
    ("dhclient_gets_addresses_of_both_families", dhcp::dhclient_gets_addresses_of_both_families),
    ("advertisements_make_the_guest_use_the_router", dhcp::advertisements_make_the_guest_use_the_router),
    ("names_lead_to_guests_and_back", names::names_lead_to_guests_and_back),
    ("other_names_are_asked_of_others", names::other_names_are_asked_of_others),
    (
        "port_53_taken_by_another_program_is_no_hindrance",
        names::port_53_taken_by_another_program_is_no_hindrance,
    ),
    ("a_description_is_replaced_whole_or_not_at_all", process::a_description_is_replaced_whole_or_not_at_all),
    ("the_process_has_no_rights_left_and_is_alone", process::the_process_has_no_rights_left_and_is_alone),
    ("a_lease_is_renewed_for_years", load::a_lease_is_renewed_for_years),
    ("garbage_harms_nobody", load::garbage_harms_nobody),
    (
        "250_guests_at_once_have_each_an_address",
        load::two_hundred_and_fifty_guests_at_once_have_each_an_address,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, directory] = arguments.as_slice()
        && word == "serve"
    {
        return serve(Path::new(directory));
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        match catch_unwind(test) {
            Ok(Ok(())) => println!("test {name} ... ok"),
            Ok(Err(Skipped(reason))) => eprintln!("test {name} ... skipped: {reason}"),
            Err(_) => {
                println!("test {name} ... FAILED");
                failed += 1;
            }
        }
    }
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn serve(directory: &Path) -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::ERROR).with_writer(std::io::stderr).init();
    let options = network_services::Options {
        description_path: directory.join("description.json"),
        database_path: directory.join("leases.sqlite"),
        control_socket: directory.join("control"),
    };
    match network_services::serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
