//! `vireo`: the command line. Each subcommand is a module that owns its arguments; this file only tells them apart.
//! Called by the name `qemu-img`, it answers as that program.

mod clone_command;
mod completions_command;
mod connection;
mod create_command;
mod delete_command;
mod documents;
mod domain_command;
mod image_command;
mod lab_command;
mod listening;
mod network_command;
mod output;
mod run_command;
mod signals;
mod storage_client;
mod storage_command;
mod table;
mod terminal;
mod undo;
mod user_network;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Create, run and watch virtual machines.
#[derive(Debug, Parser)]
#[command(name = "vireo", version, max_term_width = 110)]
struct CommandLine {
    #[command(flatten)]
    options: connection::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Completions(completions_command::Arguments),
    Image(image_command::Arguments),
    Lab(lab_command::Arguments),
    Network(network_command::NetworkCommand),
    Pool(storage_command::PoolCommand),
    Volume(storage_command::VolumeCommand),
    Run(run_command::RunArguments),
    #[command(flatten)]
    Domain(domain_command::Verb),
    #[command(flatten)]
    Storage(storage_command::VirshVerb),
    #[command(flatten)]
    Networks(network_command::VirshVerb),
}

fn main() -> ExitCode {
    if image_command::qemu_img::called_as_qemu_img() {
        return image_command::qemu_img::main();
    }
    // A shell asks what could come next.
    clap_complete::CompleteEnv::with_factory(CommandLine::command).complete();
    let CommandLine { options, command } = CommandLine::parse();
    let asks_nobody =
        matches!(command, Command::Completions(_) | Command::Image(_) | Command::Lab(_) | Command::Run(_));
    if options.any() && asks_nobody {
        let kind = clap::error::ErrorKind::ArgumentConflict;
        let message = "this command asks no daemon: the options before it are for those that do";
        CommandLine::command().error(kind, message).exit();
    }
    match command {
        Command::Completions(arguments) => completions_command::main(&arguments),
        Command::Image(arguments) => image_command::main(arguments),
        Command::Lab(arguments) => lab_command::main(arguments),
        Command::Run(arguments) => run_command::run(arguments).unwrap_or_else(|error| {
            eprintln!("vireo run: {error:#}");
            ExitCode::FAILURE
        }),
        Command::Domain(verb) => domain_command::main(verb, &options),
        Command::Pool(command) => storage_command::pool(command, &options),
        Command::Volume(command) => storage_command::volume(command, &options),
        Command::Storage(verb) => storage_command::virsh(verb, &options),
        Command::Network(command) => network_command::network(command, &options),
        Command::Networks(verb) => network_command::virsh(verb, &options),
    }
}
