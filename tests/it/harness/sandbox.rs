//! The folder, the ports and the processes of one test process.
//!
//! Owns `kiln-it-<pid>` under the temporary folder. Every server runs with its working directory or a path argument in
//! there, which is how its processes are found again: nothing else is ever signalled.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const FOLDER_PREFIX: &str = "kiln-it-";
/// Below the range from which the system takes the ports of outgoing connections: a server that was killed finds its
/// port free when it comes back.
const FIRST_PORT: u32 = 10_000;
const PORTS: u32 = 20_000;
const KILL_PATIENCE: Duration = Duration::from_secs(10);

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    sweep_leftovers();
    let root = std::env::temp_dir().join(format!("{FOLDER_PREFIX}{}", std::process::id()));
    fs::create_dir_all(&root).expect("a folder for the tests under the temporary folder");
    // Postgres runs as another user when the tests run as root, and has to get through.
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("the folder's mode");
    let born = start_time(std::process::id() as i32).unwrap_or_default();
    fs::write(root.join("owner"), born).expect("the folder's owner file");
    // SAFETY: the handler is a plain function that lives as long as the program.
    unsafe { libc::atexit(clear_at_exit) };
    root
});

extern "C" fn clear_at_exit() {
    kill_all_under(&ROOT);
    let _ = fs::remove_dir_all(&*ROOT);
}

/// Makes a new empty folder whose name starts with `name`, for one server or one test.
pub fn folder(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = ROOT.join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&folder).expect("a folder under the test process's own");
    folder
}

/// A loopback port that nothing listens on and that this process has not handed out before.
pub fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU32> =
        LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(61)));
    for _ in 0..PORTS {
        let port = (FIRST_PORT + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!(
        "no free port between {FIRST_PORT} and {}",
        FIRST_PORT + PORTS
    );
}

/// An environment of nothing but what a program needs to run at all, so that the caller's settings don't leak in.
pub fn clean_command(program: impl AsRef<Path>, home: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    command
        .env_clear()
        .env("HOME", home)
        .env("LC_ALL", "C.UTF-8")
        .current_dir(home);
    command.env(
        "PATH",
        std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()),
    );
    command
}

/// The processes that work in `folder` or name it in their arguments, and all their descendants.
pub fn processes_under(folder: &Path) -> Vec<i32> {
    let own = std::process::id() as i32;
    let needle = folder.to_string_lossy().into_owned();
    let inside = format!("{needle}/");
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let mut found = Vec::new();
    for pid in all_processes().filter(|pid| *pid != own) {
        if let Some(parent) = stat_field(pid, 1).and_then(|parent| parent.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
        let works_there =
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        let named = || {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).into_owned();
            arguments
                .split(['\0', ' '])
                .any(|word| word == needle || word.contains(&inside))
        };
        if works_there || named() {
            found.push(pid);
        }
    }
    let mut seen: HashSet<i32> = found.iter().copied().collect();
    let mut next = 0;
    while next < found.len() {
        for child in children.remove(&found[next]).unwrap_or_default() {
            if seen.insert(child) {
                found.push(child);
            }
        }
        next += 1;
    }
    found
}

/// Sends `signal` to each of `pids`; one that has just ended is no error.
pub fn signal(pids: &[i32], signal: i32) {
    for pid in pids {
        // SAFETY: kill takes two integers and touches no memory.
        unsafe { libc::kill(*pid, signal) };
    }
}

/// Kills whatever runs under `folder` and returns when none of it runs any more.
pub fn kill_all_under(folder: &Path) {
    let end = Instant::now() + KILL_PATIENCE;
    let mut victims: HashSet<i32> = HashSet::new();
    loop {
        victims.extend(processes_under(folder));
        victims.retain(|pid| is_running(*pid));
        if victims.is_empty() || Instant::now() > end {
            return;
        }
        signal(&victims.iter().copied().collect::<Vec<_>>(), libc::SIGKILL);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether `pid` exists and is more than a zombie that its parent has not looked at yet.
pub fn is_running(pid: i32) -> bool {
    stat_field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

fn sweep_leftovers() {
    // SAFETY: geteuid has no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name
            .strip_prefix(FOLDER_PREFIX)
            .and_then(|pid| pid.parse::<i32>().ok())
        else {
            continue;
        };
        if entry.metadata().map(|data| data.uid()).ok() != Some(user) {
            continue;
        }
        let born = fs::read_to_string(entry.path().join("owner")).ok();
        let owner_lives = is_running(pid) && born.is_none_or(|born| start_time(pid) == Some(born));
        if !owner_lives {
            kill_all_under(&entry.path());
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn all_processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// When the process started, in the kernel's clock ticks: tells it from a later one with the same number.
fn start_time(pid: i32) -> Option<String> {
    stat_field(pid, 19)
}

/// A field of `/proc/<pid>/stat`, counted from the one after the program's name, which may itself hold blanks.
fn stat_field(pid: i32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(index).map(str::to_owned)
}
