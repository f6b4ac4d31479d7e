// SPDX-License-Identifier: GPL-2.0-only
//! The laboratory's command line.

use std::process::ExitCode;
use std::time::Duration;
use xenwarden_lab::bench;
use xenwarden_lab::bench::false_resets::{SAMPLES, measure};
use xenwarden_lab::bench::peers::Peer;
use xenwarden_lab::cluster;
use xenwarden_lab::command::say;
use xenwarden_lab::cost;
use xenwarden_lab::demo;
use xenwarden_lab::error::{Context, Error, Result};
use xenwarden_lab::host::{Host, PROMPT};
use xenwarden_lab::laboratory::Laboratory;
use xenwarden_lab::provision::Arch;
use xenwarden_lab::scenario::Scenario;
use xenwarden_lab::scenario::figures::Ledger;
use xenwarden_lab::scenario::phase::Phases;
use xenwarden_lab::scenario::wedges::WEDGES;
use xenwarden_lab::series;
use xenwarden_lab::soak;
use xenwarden_lab::variant;

const USAGE: &str = "usage: lab build                 provide all parts and the saved state
       lab demo WEDGE | demo list   show what a wedge does
       lab list                     name all scenarios
       lab run NAME [RUNS]          run the scenarios whose name contains NAME
       lab run NAME --phase MS      the same once, at this phase of the timers
       lab pvh [RUNS]               run a wedge or two with a PVH dom0
       lab soak RUNS [SEED]         run all that end with a reset, over phases, until there are so many runs in all
       lab soak more RUNS           so many more; both: --jobs N runs so many at a time, at most two where nobody says
       lab soak report              what the soak says so far, row by row, and what is out of the common
       lab soak take-up             goes on from the runs in doc/bench/soak.json, if they are of what is tested here
       lab soak publish             write that to doc/bench/soak.json, then the same as bench report
       lab cost [RUNS]              what the hypervisor's patches cost guests, by instruction count
       lab series                   apply each series of Xen patches to its tree
       lab variants [NAME]          builds broken variants of the programs; a scenario must notice each
       lab bench wedges [RUNS]      ours and other watchdog daemons: how long each wedge leaves the host up
       lab bench cost [RUNS]        likewise: what they cost dom0
       lab bench parts GUESTS       what ours cost with so many guests, thread by thread and mapping by mapping
       lab bench kicks [RUNS]       likewise: gaps between their kicks under load
       lab bench false-resets [SAMPLES [DAEMON]]
                                    under the same loads, until there are so many intervals between kicks of each daemon under
                                    each load, or of one: whether the host was reset
       lab bench busy [RUNS]        what they do where another process has the host watchdog open
       lab bench growth             what a look takes by guests and pCPUs, in instructions, at a simulated table
       lab bench publish            write what there is of an interrupted bench to doc/bench/*.json, then the same as
       lab bench report             make doc/bench.md and its figures of doc/bench/*.json
       lab bench dom0 COMMAND...    run commands in dom0 of such a host, on which no daemon runs
       lab cluster NAME [RUNS]      the same for rows of a cluster of two hosts; all for all of them
       lab cluster list | console   name them | run commands in both hosts' dom0
       lab dom0 COMMAND...          run commands in dom0 of a restored host
       lab debian COMMAND...        the same where that is a Debian with the package installed";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    match words {
        ["build"] => Laboratory::provide().map(drop),
        ["demo", "list"] => {
            WEDGES
                .iter()
                .for_each(|wedge| println!("{:<22}{}", wedge.name, wedge.what));
            Ok(())
        }
        ["demo", name] => demo::run(demo::known(name)?),
        ["list"] => {
            Scenario::all(Arch::chosen()?)
                .iter()
                .for_each(|scenario| println!("{:<32}{}", scenario.name(), scenario.what()));
            Ok(())
        }
        ["run", name] => repeat("run", &named(name)?, 1, None),
        ["run", name, runs] => repeat("run", &named(name)?, number(runs)?, None),
        ["run", name, "--phase", ms] => repeat("run", &exactly(name)?, 1, Some(phase(ms)?)),
        ["pvh"] => repeat("pvh", &Scenario::on_pvh(), 1, None),
        ["pvh", runs] => repeat("pvh", &Scenario::on_pvh(), number(runs)?, None),
        ["soak", words @ ..] => soaked(words),
        ["cost"] => cost::run(3),
        ["cost", runs] => cost::run(number(runs)?),
        ["series"] => series::run(),
        ["variants"] => variant::run(""),
        ["variants", name] => variant::run(name),
        ["bench", "dom0", commands @ ..] => bench::dom0(commands),
        ["bench", "parts", guests] => bench::parts(number(guests)?),
        ["bench", "growth"] => bench::growth::measure().and_then(|()| bench::report()),
        ["bench", "looks", who, pcpus, guests, looks] => {
            let guests = u16::try_from(number(guests)?).context(|| "too many guests")?;
            bench::growth::look(who, number(pcpus)?, guests, number(looks)?)
        }
        ["bench", "false-resets"] => measure(SAMPLES, None),
        ["bench", "false-resets", samples] => measure(number(samples)?.into(), None),
        ["bench", "false-resets", samples, daemon] => {
            measure(number(samples)?.into(), Some(Peer::named(daemon)?))
        }
        ["bench", what] => compare(what, 1),
        ["bench", what, runs] => compare(what, number(runs)?),
        ["cluster", "list"] => {
            cluster::list();
            Ok(())
        }
        ["cluster", "console"] => cluster::console(),
        ["cluster", "all"] => cluster::run("", 1),
        ["cluster", name] => cluster::run(name, 1),
        ["cluster", name, runs] => cluster::run(name, number(runs)?),
        ["dom0", commands @ ..] => dom0(Laboratory::provide()?.host()?, commands),
        ["debian", commands @ ..] => dom0(Laboratory::provide_parts()?.debian_guarded()?, commands),
        _ => Err(Error::new(USAGE)),
    }
}

fn number(word: &str) -> Result<u32> {
    word.parse()
        .context(|| format!("{word} is no number of runs"))
}

/// All that is done with a soak.
fn soaked(words: &[&str]) -> Result<()> {
    let (words, jobs) = match words {
        [words @ .., "--jobs", jobs] => (words, Some(number_of_jobs(jobs)?)),
        words => (words, None),
    };
    match words {
        ["report"] => soak::report(),
        ["take-up"] => soak::take_up(),
        ["publish"] => soak::publish().and_then(|()| bench::report()),
        ["more", runs] => soak::more(number(runs)?.into(), jobs),
        [runs] => soak::run(number(runs)?.into(), None, jobs),
        [runs, seed] => soak::run(number(runs)?.into(), Some(number(seed)?.into()), jobs),
        _ => Err(Error::new(USAGE)),
    }
}

fn number_of_jobs(word: &str) -> Result<usize> {
    match word.parse() {
        Ok(jobs @ 1..=64) => Ok(jobs),
        _ => Err(Error::new(format!(
            "{word} is no number of jobs: how many hosts run at a time, 1 to 64"
        ))),
    }
}

/// Compares ours with other watchdog daemons.
fn compare(what: &str, runs: u32) -> Result<()> {
    match what {
        "wedges" => bench::wedges(runs),
        "cost" => bench::cost(runs),
        "kicks" => bench::kicks(runs),
        "busy" => bench::busy(runs),
        "publish" => bench::publish().and_then(|()| bench::report()),
        "report" => bench::report(),
        _ => Err(Error::new(USAGE)),
    }
}

/// Runs commands in dom0 of a restored host and shows what they print.
fn dom0(mut host: Host, commands: &[&str]) -> Result<()> {
    for command in commands {
        let outcome = host.dom0(command, 10 * PROMPT)?;
        println!("{}[exit code {}]", outcome.output, outcome.code);
    }
    Ok(())
}

fn all(wanted: impl Fn(&Scenario) -> bool) -> Result<Vec<Scenario>> {
    let scenarios = Scenario::all(Arch::chosen()?);
    Ok(scenarios.into_iter().filter(wanted).collect())
}

fn named(part: &str) -> Result<Vec<Scenario>> {
    all(|scenario| scenario.name().contains(part))
}

/// The one that is called so, else those whose name contains it.
fn exactly(name: &str) -> Result<Vec<Scenario>> {
    match all(|scenario| scenario.name() == name)? {
        none if none.is_empty() => named(name),
        one => Ok(one),
    }
}

fn phase(word: &str) -> Result<Duration> {
    match word.parse() {
        Ok(ms @ 0..1000) => Ok(Duration::from_millis(ms)),
        _ => Err(Error::new(format!(
            "{word} is no phase: whole milliseconds from 0 to 999"
        ))),
    }
}

/// Runs scenarios over and over, each time at another phase or all at one, and sums up.
fn repeat(kind: &str, scenarios: &[Scenario], runs: u32, at: Option<Duration>) -> Result<()> {
    if scenarios.is_empty() {
        return Err(Error::new("no scenario is called so; see: lab list"));
    }
    let laboratory = Laboratory::provide_parts()?;
    let ledger = Ledger::create(&laboratory.results()?.join(format!("{kind}.jsonl")))?;
    let mut phases = Phases::from_clock();
    for _ in 0..runs {
        for scenario in scenarios {
            let phase = at.unwrap_or_else(|| phases.next(0, 1));
            ledger.record(scenario.run(&laboratory, phase))?;
        }
    }
    println!("{}", ledger.table());
    match ledger.failures() {
        0 => Ok(()),
        count => Err(Error::new(format!("{count} runs failed"))),
    }
}
