//! The worker's side of the process that runs its suspects: starting it, giving it a job, hearing what became of the job, ending it.
//!
//! Promises that every wait for the process has an end, that no process outlives its handle, and that a process which couldn't start or
//! load a model is told apart from one that a job ended. Refuses to decide what follows from either.

use super::protocol::{self, FrameError, Request, Said};
use crate::{
    pipeline::{InputCounts, Outcome},
    redact::Redact,
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::BufReader,
    process::{ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// The command that this side starts.
pub const COMMAND: &str = "run-suspect";
/// Longest that a process may take to start: it opens threads and, if there is one, a graphics processor.
const START: Duration = Duration::from_secs(60);
/// Longest that it may take to load a model.
const LOAD: Duration = Duration::from_secs(300);
/// Longest wait for a process to end whose pipe is closed, or that was killed.
const END: Duration = Duration::from_secs(1);

/// What is started.
#[derive(Debug, Clone)]
pub(in crate::worker) struct Program {
    file: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// This very program, with the settings file that the worker has read. Its environment is the worker's.
    pub fn own(settings: Option<&Path>) -> Self {
        // A replaced program is still there by this name, and another version is not what is to be talked to.
        let running = PathBuf::from("/proc/self/exe");
        let file = if running.exists() {
            running
        } else {
            std::env::current_exe().unwrap_or_else(|_| "kiln".into())
        };
        let mut arguments: Vec<OsString> = vec![COMMAND.into()];
        if let Some(settings) = settings {
            arguments.extend(["--config".into(), settings.into()]);
        }
        Self { file, arguments }
    }
}

/// How a job's run ended.
#[derive(Debug)]
pub(super) enum End {
    /// With its outcome.
    Outcome(Outcome, InputCounts),
    /// Its process died, or said what no process of ours says.
    Died(String),
    /// It took longer than it may.
    TooLong,
    /// Its model wasn't loaded, and the job never began.
    Unserved { model: String, reason: String },
}

/// A process that has said that it is ready. Killed when dropped.
#[derive(Debug)]
pub(super) struct Child {
    process: tokio::process::Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts a process and waits until it is ready. An error says why it isn't.
    pub async fn start(program: &Program) -> Result<Self, String> {
        let spawned = Command::new(&program.file)
            .arg0("kiln")
            .args(&program.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut process = spawned.map_err(|error| error.redacted())?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("it has no pipes".into());
        };
        let mut child = Self {
            process,
            input,
            output: BufReader::new(output),
        };
        match timeout(START, child.hear()).await {
            Ok(Ok((Said::Ready, _))) => Ok(child),
            Ok(Ok((Said::Unready { reason }, _))) => Err(reason),
            Ok(Ok((other, _))) => Err(format!("it said {other:?} before it was ready")),
            Ok(Err(error)) => Err(format!("it wasn't ready: {}", child.why_gone(&error).await)),
            Err(_) => Err(format!("it wasn't ready within {} s", START.as_secs())),
        }
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Has it run a job, for no longer than `limit`: loading its model and waiting for the database don't count. Only after
    /// [`End::Outcome`] and [`End::Unserved`] does it take another one.
    pub async fn run(&mut self, request: &Request, body: &[u8], limit: Duration) -> End {
        let sent = timeout(limit, protocol::write(&mut self.input, request, body)).await;
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::Died(self.why_gone(&error).await),
            Err(_) => return End::TooLong,
        }
        let mut loading = None;
        loop {
            let wait = if loading.is_some() { LOAD } else { limit };
            let heard = match timeout(wait, self.hear()).await {
                Ok(Ok(heard)) => heard,
                Ok(Err(error)) => {
                    let reason = self.why_gone(&error).await;
                    return match loading {
                        Some(model) => End::Unserved { model, reason },
                        None => End::Died(reason),
                    };
                }
                Err(_) => {
                    return match loading {
                        Some(model) => End::Unserved {
                            model,
                            reason: format!("it isn't loaded after {} s", LOAD.as_secs()),
                        },
                        None => End::TooLong,
                    };
                }
            };
            match heard {
                (Said::Loading { model }, _) => loading = Some(model),
                (Said::Loaded, _) => loading = None,
                (Said::Waiting, _) => {}
                (Said::Unserved { model, reason }, _) => return End::Unserved { model, reason },
                (Said::Ended(ended), results) => {
                    return match ended.into_outcome(results) {
                        Ok((outcome, counts)) => End::Outcome(outcome, counts),
                        Err(error) => End::Died(error.to_string()),
                    };
                }
                (Said::Ready | Said::Unready { .. }, _) => {
                    return End::Died("it said that it starts while a job ran".into());
                }
            }
        }
    }

    /// Closes its pipe, and waits for its end.
    pub async fn close(mut self) {
        drop(self.input);
        if timeout(END, self.process.wait()).await.is_err() {
            kill(&mut self.process).await;
        }
    }

    /// Ends it at once.
    pub async fn kill(mut self) {
        kill(&mut self.process).await;
    }

    async fn hear(&mut self) -> Result<(Said, Vec<u8>), FrameError> {
        protocol::read(&mut self.output).await
    }

    /// What is known of why it doesn't answer any more.
    async fn why_gone(&mut self, error: &FrameError) -> String {
        if !matches!(error, FrameError::Gone) {
            return error.to_string();
        }
        match timeout(END, self.process.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.redacted(),
            Err(_) => error.to_string(),
        }
    }
}

async fn kill(process: &mut tokio::process::Child) {
    // One that ended meanwhile is as dead; one that hangs in the kernel is collected by the runtime when it ends.
    let _ended = timeout(END, process.kill()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that says these frames, and then does `after`.
    fn saying(frames: &[Said], after: &str) -> Program {
        let bytes = frames.iter().flat_map(|said| {
            let frame = protocol::beginning(said, &[]).expect("a frame");
            frame.into_iter().map(|byte| format!("\\{byte:03o}"))
        });
        let script = format!("printf '{}'; {after}", bytes.collect::<String>());
        Program {
            file: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
        }
    }

    /// The same, once it has taken a request.
    fn answering(frames: &[Said], after: &str) -> Program {
        let request = protocol::beginning(&Request::default(), BODY).expect("a frame");
        let bytes = request.len() + BODY.len();
        saying(frames, &format!("head -c {bytes} >/dev/null; {after}"))
    }

    async fn end_of(program: &Program, limit: Duration) -> End {
        let mut child = Child::start(program).await.expect("it is ready");
        child.run(&Request::default(), BODY, limit).await
    }

    const BODY: &[u8] = b"{}";
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_cannot_start_says_why() {
        let reason = "no database is set".to_owned();
        let refused = Said::Unready {
            reason: reason.clone(),
        };
        assert_eq!(
            Child::start(&saying(&[refused], "exit 1"))
                .await
                .expect_err("unready"),
            reason
        );
        let silent = Child::start(&saying(&[], "exit 3")).await;
        assert!(silent.expect_err("silent").contains("exit status: 3"));
        let missing = Program {
            file: "/nowhere/kiln".into(),
            arguments: Vec::new(),
        };
        assert!(Child::start(&missing).await.is_err());
    }

    #[tokio::test]
    async fn the_job_is_blamed_for_what_happens_while_it_runs_and_for_nothing_else() {
        let loading = || Said::Loading {
            model: "fault".into(),
        };
        let died = end_of(&answering(&[Said::Ready], "kill -9 $$"), LONG).await;
        assert!(
            matches!(&died, End::Died(why) if why.contains("signal: 9")),
            "{died:?}"
        );
        let loaded = [Said::Ready, loading(), Said::Loaded, Said::Waiting];
        let died = end_of(&answering(&loaded, "exit 1"), LONG).await;
        assert!(matches!(died, End::Died(_)), "{died:?}");
        let unloaded = end_of(&answering(&[Said::Ready, loading()], "exit 1"), LONG).await;
        assert!(
            matches!(&unloaded, End::Unserved { model, .. } if model == "fault"),
            "{unloaded:?}"
        );
        let short = Duration::from_millis(50);
        let hung = end_of(&answering(&loaded, "exec sleep 600"), short).await;
        assert!(matches!(hung, End::TooLong), "{hung:?}");
    }

    #[tokio::test]
    async fn one_that_ignores_its_closed_pipe_is_killed() {
        let child = Child::start(&saying(&[Said::Ready], "exec sleep 600")).await;
        let mut child = child.expect("it is ready");
        assert!(child.is_alive());
        let process = child.process.id().expect("a process");
        child.close().await;
        assert!(!Path::new(&format!("/proc/{process}")).exists());
    }
}
