// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-qemu: alarms for the watchdog devices of QEMU's VMs. xenwarden-qemu(8) is its manual.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use xenwarden::exit::{self, CONFIG, Failure, OSERR, USAGE};
use xenwarden::qemu::{config, service};
use xenwarden::sink;

const NAME: &str = "xenwarden-qemu";

/// Follows the watchdog devices of QEMU's VMs: alarms that clear when a guest feeds again. It may
/// be stopped at any moment; the VMs go on all the same. See xenwarden-qemu(8).
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Arguments {
    /// Read this configuration; its name, without .conf, is the instance's
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Say all that is wrong with it, touch nothing, and end
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            let code = if error.exit_code() == 0 { 0 } else { USAGE };
            return ExitCode::from(code);
        }
    };
    exit::end(NAME, run(&arguments))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let policy = config::load(&arguments.config).map_err(|error| Failure::new(CONFIG, error))?;
    if arguments.check_config {
        println!("{}: ok", arguments.config.display());
        return Ok(());
    }
    sink::log::start(NAME, log::LevelFilter::Info, true, || {})
        .map_err(|error| Failure::new(OSERR, format!("cannot start logging: {error}")))?;
    service::run(&policy)
}
