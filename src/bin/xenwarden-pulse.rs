// SPDX-License-Identifier: GPL-2.0-only
//! xenwarden-pulse: heartbeats between VMMs, with guests, and with remote servers.
//! xenwarden-pulse(8) is its manual.

use log::LevelFilter;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use xenwarden::exit::{CONFIG, Failure, OSERR, USAGE};
use xenwarden::pulse::plan::{Plan, check_name};
use xenwarden::pulse::run::{self, Places};
use xenwarden::pulse::{config, options};
use xenwarden::sink;

const NAME: &str = "xenwarden-pulse";

const HELP: &str = "\
xenwarden-pulse: notices the loss of a peer VMM, a guest or a remote server, and does what is
set for it. See xenwarden-pulse(8).

usage: xenwarden-pulse --config FILE
       xenwarden-pulse -chardev socket,... -object advanced-watchdog,...

  -c, --config FILE   read this configuration: xenwarden-pulse.conf(5)
      --check-config  say all that is wrong with it, do nothing, and end
      --name NAME     call this program so in its status and events
      --run DIRECTORY where its sockets are, in place of /run
  -chardev, -object   as QEMU's Advanced Watch Dog has them
  -V, --version       say the version
  -h, --help          say this";

/// What the command line asks for.
struct Request {
    config: Option<PathBuf>,
    check: bool,
    name: Option<String>,
    run: PathBuf,
    options: Vec<String>,
}

fn main() -> ExitCode {
    let done = parse().and_then(|request| request.map_or(Ok(()), serve));
    log::logger().flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.message.lines() {
                // Whoever closed stderr does not want to know.
                let _ = writeln!(io::stderr(), "{NAME}: {line}");
            }
            failure.into()
        }
    }
}

/// None: it was answered already.
fn parse() -> Result<Option<Request>, Failure> {
    let mut request = Request {
        config: None,
        check: false,
        name: None,
        run: PathBuf::from("/run"),
        options: Vec::new(),
    };
    let usage = |why: String| Failure::new(USAGE, format!("{why}; {NAME} --help explains"));
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        let word = word.to_string_lossy().into_owned();
        let mut value = || {
            let value = words.next();
            value.ok_or_else(|| usage(format!("{word}: its value is missing")))
        };
        match word.as_str() {
            "-c" | "--config" => request.config = Some(value()?.into()),
            "--check-config" => request.check = true,
            "--name" => request.name = Some(value()?.to_string_lossy().into_owned()),
            "--run" => request.run = value()?.into(),
            "-V" | "--version" => {
                return say(concat!("xenwarden-pulse ", env!("CARGO_PKG_VERSION")));
            }
            "-h" | "--help" => return say(HELP),
            _ if options::is_option(&word) => {
                let value = value()?.into_string();
                let value = value.map_err(|_| usage(format!("{word}: its value is not UTF-8")))?;
                request.options.extend([word, value]);
            }
            _ => return Err(usage(format!("{word}: unknown option"))),
        }
    }
    match (&request.config, request.options.is_empty()) {
        (Some(_), false) => Err(usage("--config and -chardev exclude each other".to_owned())),
        (None, true) => Err(usage("nothing is to be watched".to_owned())),
        _ => Ok(Some(request)),
    }
}

fn say(text: &str) -> Result<Option<Request>, Failure> {
    writeln!(io::stdout(), "{text}")
        .map(|()| None)
        .map_err(|error| Failure::new(OSERR, format!("stdout: {error}")))
}

fn plan(request: &Request) -> Result<Plan, String> {
    let mut plan = match &request.config {
        Some(path) => config::load(path)?,
        None => options::plan(&request.options)?,
    };
    if let Some(name) = &request.name {
        check_name(name).map_err(|why| format!("--name: {why}"))?;
        plan.name.clone_from(name);
    }
    Ok(plan)
}

fn serve(request: Request) -> Result<(), Failure> {
    let plan = plan(&request).map_err(|why| Failure::new(CONFIG, why))?;
    if request.check {
        for warning in &plan.warnings {
            let _ = writeln!(io::stderr(), "{NAME}: {warning}");
        }
        return say(&format!("ok; {} heartbeats", plan.heartbeats.len())).map(|_| ());
    }
    sink::log::start(NAME, LevelFilter::Info, true, || {})
        .map_err(|error| Failure::new(OSERR, format!("cannot start logging: {error}")))?;
    run::run(plan, &Places::below(&request.run))
}
