// SPDX-License-Identifier: GPL-2.0-only
//! Saving an emulated host and restoring it: its memory is mapped, so a host begins in an instant however much of it there is.

use super::Machine;
use super::definition::memory_in;
use super::disk;
use super::parts::{Parts, SavedState};
use super::qemu::{LOOK_EVERY, PROMPT};
use super::seen::FIRST_DAY;
use crate::error::{Context, Error, Result};
use crate::layout::fresh_dir;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long saving or restoring the machine's state may take.
const MOVING: Duration = Duration::from_secs(120);

impl Machine {
    /// Starts a machine from a saved state; it stands still until [`Machine::resume`].
    pub fn restore(parts: &Parts, folder: &Path, state: &SavedState) -> Result<Self> {
        fresh_dir(folder)?;
        disk::copy(&state.disk, &folder.join(disk::NAME))?;
        let mut machine = Self::start_incoming(parts, folder, &state.memory, false)?;
        machine.leave_memory_out()?;
        machine.come_in(&state.devices)?;
        Ok(machine)
    }

    /// Starts a machine whose state is to come in, but for what of it is in the file of its memory. `written`: what it writes to its
    /// memory goes to the file, and is not forgotten with the machine.
    fn start_incoming(parts: &Parts, folder: &Path, memory: &Path, written: bool) -> Result<Self> {
        let mut more = memory_in(memory, written);
        more.extend(["-incoming", "defer"].map(str::to_owned));
        // The agent in the saved state may still owe answers to the ids of the boot.
        Self::start(parts, folder, FIRST_DAY, &more, 1 << 32)
    }

    /// Has a state that is saved from now on be without memory that is a shared file, and one that comes in be taken for such (QEMU:
    /// qapi/migration.json, `x-ignore-shared`): the file has it.
    fn leave_memory_out(&mut self) -> Result<()> {
        let shared = json!({ "capability": "x-ignore-shared", "state": true });
        let capabilities = json!({ "capabilities": [shared] });
        self.qmp
            .execute("migrate-set-capabilities", capabilities)
            .map(drop)
    }

    /// Reads a state.
    fn come_in(&mut self, state: &Path) -> Result<()> {
        let link = self.folder.join("state");
        std::os::unix::fs::symlink(state, link).context(|| "cannot link the saved state")?;
        self.read_state()
            // QEMU ends where it cannot read it, and has said why.
            .map_err(|error| self.describe_failure(&format!("cannot restore: {error}")))
    }

    fn read_state(&mut self) -> Result<()> {
        let from = json!({ "uri": "exec:cat state" });
        self.qmp.execute("migrate-incoming", from)?;
        let deadline = Instant::now() + MOVING;
        while self.status()? == "inmigrate" {
            self.check_time(deadline, "restoring its state")?;
            sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Stops the machine's time and keeps its state as `state`; the machine is of no use after it. `parts`: what it is made of.
    pub fn save(mut self, parts: &Parts, state: &SavedState) -> Result<()> {
        self.qmp.execute("stop", json!({}))?;
        // Its memory is no file: another machine takes all of it over, whose memory is one.
        let whole = self.write_state("whole")?;
        let heir = self.folder.with_extension("saved");
        fresh_dir(&heir)?;
        disk::copy(&self.folder.join(disk::NAME), &heir.join(disk::NAME))?;
        let memory = heir.join("memory");
        let mut heir = Self::start_incoming(parts, &heir, &memory, true)?;
        heir.come_in(&whole)?;
        heir.leave_memory_out()?;
        // For a moment: 1 in 20 QEMUs whose processors never ran waits for them for ever in what comes next (7.2: do_run_on_cpu() of
        // memory_global_after_dirty_log_sync(), while the processors' thread waits for its first start).
        heir.resume()?;
        heir.stop()?;
        let devices = heir.write_state("devices")?;
        // As that moment left it.
        let image = self.folder.join("image");
        disk::copy(&heir.folder.join(disk::NAME), &image)?;
        // What is left of one of the same name goes first, and what is asked for last comes last: no two make one.
        state.remove()?;
        [
            (image, &state.disk),
            (memory, &state.memory),
            (devices, &state.devices),
        ]
        .iter()
        .try_for_each(|(from, to)| std::fs::rename(from, to))
        .context(|| format!("cannot keep {}", state.devices.display()))
    }

    /// Writes its state to a file of this name in its folder, and ends QEMU.
    fn write_state(&mut self, name: &str) -> Result<PathBuf> {
        let fast = json!({ "max-bandwidth": 1_u64 << 40 });
        self.qmp.execute("migrate-set-parameters", fast)?;
        let to = json!({ "uri": format!("exec:cat > {name}") });
        self.qmp.execute("migrate", to)?;
        let deadline = Instant::now() + MOVING;
        loop {
            let progress = self.qmp.execute("query-migrate", json!({}))?;
            match progress.get("status").and_then(|status| status.as_str()) {
                Some("completed") => break,
                Some("failed" | "cancelled") => {
                    return Err(Error::new(format!("cannot save the state: {progress}")));
                }
                _ => self.check_deadline(deadline, "saving its state")?,
            }
            sleep(LOOK_EVERY);
        }
        // QEMU and with it the pipe's other end are gone before the file counts as complete.
        self.qmp.execute("quit", json!({}))?;
        self.wait_exit(PROMPT)?;
        Ok(self.folder.join(name))
    }
}
