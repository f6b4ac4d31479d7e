// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-pool: what every host of a pool knows of all of them. xenwarden-pool(8) is its manual.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use xenwarden::exit::{self, CONFIG, Failure, OSERR, USAGE};
use xenwarden::pool::{config, run};
use xenwarden::sink;

const NAME: &str = "xenwarden-pool";

/// Has every host of a corosync cluster know the state, the guests and the alarms of all hosts. It may
/// be stopped at any moment: no host comes to harm. See xenwarden-pool(8).
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Arguments {
    /// Read this configuration
    /// [default: /etc/xenwarden/pool.conf, which need not be there]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
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
    exit::end(NAME, serve(&arguments))
}

fn serve(arguments: &Arguments) -> Result<(), Failure> {
    let policy =
        config::load(arguments.config.as_deref()).map_err(|error| Failure::new(CONFIG, error))?;
    if arguments.check_config {
        println!("ok; {} hooks", policy.hooks.len());
        return Ok(());
    }
    sink::log::start(NAME, log::LevelFilter::Info, false, || {})
        .map_err(|error| Failure::new(OSERR, format!("cannot start logging: {error}")))?;
    run::run(&policy)
}
