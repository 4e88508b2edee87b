//! `vireo`: the command line. Each subcommand is a module that owns its arguments; this file only tells them apart.
//! Called by the name `qemu-img`, it answers as that program.

mod image_command;
mod lab_command;
mod run_command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Create, run and watch virtual machines.
#[derive(Debug, Parser)]
#[command(name = "vireo", version, max_term_width = 110)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Image(image_command::Arguments),
    Lab(lab_command::Arguments),
    Run(run_command::RunArguments),
}

fn main() -> ExitCode {
    if image_command::qemu_img::called_as_qemu_img() {
        return image_command::qemu_img::main();
    }
    match CommandLine::parse().command {
        Command::Image(arguments) => image_command::main(arguments),
        Command::Lab(arguments) => lab_command::main(arguments),
        Command::Run(arguments) => run_command::run(arguments).unwrap_or_else(|error| {
            eprintln!("vireo run: {error:#}");
            ExitCode::FAILURE
        }),
    }
}
