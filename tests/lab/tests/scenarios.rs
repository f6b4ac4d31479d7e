// SPDX-License-Identifier: GPL-2.0-only
//! Every scenario on nested Xen, at a random phase of the timers or at three. `XENWARDEN_LAB_PHASES=3` has each whose bounds are the host
//! watchdog's run at three, and `--include-ignored` those as well that are left to `make test-all`, which does both.
//!
//! Two emulated hosts at a time, each of which keeps one processor of this machine busy and has a time of its own. The figures are kept as lines of JSON in `target/lab/results/scenarios.jsonl`, and summed up at the end.

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use xenwarden_lab::error;
use xenwarden_lab::laboratory::Laboratory;
use xenwarden_lab::provision::Arch;
use xenwarden_lab::scenario::Scenario;
use xenwarden_lab::scenario::figures::Ledger;
use xenwarden_lab::scenario::phase::Phases;

/// Overrides how many phases each of those scenarios runs at whose bounds are the host watchdog's.
const PHASES: &str = "XENWARDEN_LAB_PHASES";

/// Emulated hosts at a time.
const HOSTS: usize = 2;

/// What all trials share. It is made by the first one: listing trials needs no laboratory.
struct Bench {
    laboratory: Laboratory,
    ledger: Ledger,
}

impl Bench {
    fn open() -> error::Result<Self> {
        // Each saved state is made when the first of its hosts is asked for.
        let laboratory = Laboratory::provide_parts()?;
        let ledger = Ledger::create(&laboratory.results()?.join("scenarios.jsonl"))?;
        Ok(Bench { laboratory, ledger })
    }

    fn run(&self, scenario: Scenario, phase: Duration) -> Result<(), Failed> {
        let figures = scenario.run(&self.laboratory, phase);
        let failure = figures.failure.clone();
        self.ledger.record(figures)?;
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }
}

type Shared = Arc<OnceLock<error::Result<Bench>>>;

fn trial(shared: &Shared, scenario: Scenario, number: u32, phase: Duration) -> Trial {
    let shared = Arc::clone(shared);
    Trial::test(
        format!("{}/phase-{number}", scenario.name()),
        move || match shared.get_or_init(Bench::open) {
            Ok(bench) => bench.run(scenario, phase),
            Err(error) => Err(error.to_string().into()),
        },
    )
    .with_ignored_flag(scenario.is_left_to_all())
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(HOSTS));
    let shared = Shared::default();
    let mut phases = Phases::from_clock();
    let asked = match std::env::var(PHASES).map(|text| text.parse::<u32>()) {
        Err(_) => None,
        Ok(Ok(count @ 1..)) => Some(count),
        Ok(_) => {
            eprintln!("{PHASES} is no number of phases");
            return ExitCode::FAILURE;
        }
    };
    let arch = match Arch::chosen() {
        Ok(arch) => arch,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let scenarios = Scenario::all(arch).into_iter();
    let trials = scenarios.flat_map(|scenario| {
        let parts = match asked {
            Some(count) if scenario.is_timed() => count,
            _ => scenario.phases(),
        };
        let chosen = (0..parts)
            .map(|part| phases.next(part, parts))
            .collect::<Vec<_>>();
        chosen
            .into_iter()
            .zip(1..)
            .map(|(phase, number)| trial(&shared, scenario, number, phase))
            .collect::<Vec<_>>()
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Some(Ok(bench)) = shared.get() {
        println!("{}", bench.ledger.table());
    }
    conclusion.exit_code()
}
