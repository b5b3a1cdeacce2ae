//! Running other programs: to the end with their output kept, or in the background until dropped.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, set_parent_process_death_signal, waitid,
};

/// Runs a program to its end and returns what it wrote to stdout.
///
/// # Errors
/// The program cannot be started or fails; its own words are part of the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = name_of(command);
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program of that name can be started from `PATH`.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Name of the program, for messages.
pub(crate) fn name_of(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program
        .file_name()
        .unwrap_or(OsStr::new("?"))
        .to_string_lossy()
        .into_owned()
}

/// A child that does not outlive this value, nor this process.
pub(crate) struct Background {
    child: Child,
    name: String,
}

impl Background {
    /// Starts the program.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(command: &mut Command) -> Result<Background> {
        let name = name_of(command);
        // SAFETY: between fork and exec the closure makes one system call and nothing else.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Background { child, name })
    }

    /// The child's standard streams.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Calls `act` on a thread of its own when the child has ended, however that comes about.
    pub(crate) fn at_end(&self, act: impl FnOnce() + Send + 'static) {
        let child = WaitId::Pid(Pid::from_child(&self.child));
        thread::spawn(move || {
            // The exit status stays for whoever owns the child; if they have taken it already,
            // this fails, and the child has ended too.
            let _ = waitid(child, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            act();
        });
    }

    /// Waits until the child has made a file.
    ///
    /// # Errors
    /// It ends before, or has not made it at `deadline`.
    pub(crate) fn wait_for_file(&mut self, file: &Path, deadline: Instant) -> Result<()> {
        let what = file.display().to_string();
        self.wait_until(&what, deadline, || file.exists().then_some(()))
    }

    /// Waits until there is something that the child makes, and returns it.
    ///
    /// # Errors
    /// It ends before, or has not made it at `deadline`.
    pub(crate) fn wait_until<T>(
        &mut self,
        what: &str,
        deadline: Instant,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if let Some(status) = self.ended() {
                bail!("{} ended ({status}) without {what}", self.name);
            }
            ensure!(Instant::now() < deadline, "{} made no {what}", self.name);
            // What appears wakes nobody who also has to notice that its maker died.
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.ended() {
            bail!("{} has ended ({status})", self.name);
        }
        rustix::process::kill_process(Pid::from_child(&self.child), signal)?;
        Ok(())
    }

    /// Asks it to end in good order (SIGTERM) and waits for that.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus> {
        if self.ended().is_none() {
            let pid = Pid::from_child(&self.child);
            // It may end on its own between the two calls; it stays ours until it is waited for.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.name))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_end_of_a_killed_child_is_reported() {
        let (sender, ends) = channel();
        let mut child = Background::start(Command::new("sleep").arg("1000")).unwrap();
        child.at_end(move || sender.send(()).unwrap());
        assert!(ends.try_recv().is_err());
        rustix::process::kill_process(Pid::from_child(child.child()), Signal::KILL).unwrap();
        ends.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(
            !child.ended().unwrap().success(),
            "its status is still there"
        );
    }
}
