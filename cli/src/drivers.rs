//! Drivers that end whoever asks them for their devices.
//!
//! A Vulkan driver is loaded into the process that lists adapters, and one that crashes there takes the program with it. So a
//! child lists them first, once for the drivers that are installed: when it survives that is written down, and the next start
//! does not ask again. When it does not, each driver is asked alone, and those that crash are left out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use porism_runtime::{DeviceId, gpu};
use serde::{Deserialize, Serialize};

use crate::args::{self, DeviceArgs};
use crate::ui::Ui;

/// In the environment of the child that only lists adapters.
const CHILD: &str = "PORISM_LIST_ADAPTERS";
/// Names of the drivers to be asked, the old one included.
const VARIABLES: [&str; 2] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
/// A driver that says nothing for so long is left out as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A driver that is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashing {
    /// Its file, which names its library.
    pub file: PathBuf,
    /// How the child ended.
    pub how: String,
}

/// What a child found out about the drivers that are installed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// The files, their libraries, and when each was changed.
    drivers: String,
    crashing: Vec<Crashing>,
}

/// Ends the process where it is the child.
pub fn end_if_child() {
    if std::env::var_os(CHILD).is_some() {
        let adapters = gpu::adapters();
        std::process::exit(i32::from(adapters.len() > 1 << 16));
    }
}

/// Leaves out the drivers that crash when they are listed, if this command is going to list them. To be called before there are
/// other threads. Returns those that are left out.
pub fn leave_out_crashing(command: &args::Command, ui: &Ui) -> Vec<Crashing> {
    if !cfg!(target_os = "linux") || !asks_vulkan() || !lists_adapters(command) {
        return Vec::new();
    }
    let files = driver_files();
    let drivers = described(&files);
    let memory = memory();
    // Whoever looks for what is wrong looks again.
    let is_fresh = matches!(command, args::Command::Doctor(_));
    let known = memory.as_deref().filter(|_| !is_fresh).and_then(|path| {
        let known: Known = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (known.drivers == drivers).then_some(known)
    });
    let crashing = known.map_or_else(
        || {
            let crashing = find_crashing(&files);
            if let Some(path) = memory {
                write_down(&path, &Known { drivers, crashing: crashing.clone() });
            }
            crashing
        },
        |known| known.crashing,
    );
    if crashing.is_empty() {
        return crashing;
    }
    let left: Vec<&PathBuf> =
        files.iter().filter(|file| !crashing.iter().any(|bad| bad.file == **file)).collect();
    // With an empty list the loader would look for drivers by itself.
    let nothing = PathBuf::from(NOTHING);
    let left = if left.is_empty() { vec![&nothing] } else { left };
    if let Ok(list) = std::env::join_paths(left) {
        for name in VARIABLES {
            // SAFETY: the program has not started a thread yet, so no other one reads the environment meanwhile.
            unsafe { std::env::set_var(name, &list) };
        }
    }
    if !is_fresh {
        for Crashing { file, how } in &crashing {
            ui.warn(&format!(
                "the driver of {} {how} when its devices are listed; it is left out (`porism doctor` says what to do)",
                file.display()
            ));
        }
    }
    crashing
}

/// A file that names no driver.
pub const NOTHING: &str = "/nonexistent/no-driver.json";

/// Whether Vulkan is among the interfaces that are used.
fn asks_vulkan() -> bool {
    let chosen = std::env::var("WGPU_BACKEND").unwrap_or_default().to_lowercase();
    chosen.is_empty() || chosen.split(',').any(|name| matches!(name.trim(), "vulkan" | "vk"))
}

/// Whether a command looks for adapters of this machine.
fn lists_adapters(command: &args::Command) -> bool {
    use args::Command;
    let here = |device: &DeviceArgs| {
        let list = device.device.as_ref();
        list.is_none_or(|list| list.0.iter().any(|spec| spec.index != DeviceId::Host))
    };
    match command {
        Command::Devices(_) | Command::Doctor(_) => true,
        Command::Run(args) => here(&args.device),
        Command::Plan(args) => args.rig.is_none() && here(&args.device),
        Command::Logits(args) => here(&args.device),
        Command::Bench(args) => here(&args.device),
        Command::Prove(args) => here(&args.prover.device),
        Command::Check(args) => here(&args.prover.device),
        _ => false,
    }
}

/// The files of the drivers that the Vulkan loader would ask: those of the variables, else those that are installed.
pub fn driver_files() -> Vec<PathBuf> {
    let named =
        VARIABLES.into_iter().find_map(|name| std::env::var_os(name).filter(|value| !value.is_empty()));
    let is_driver = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    let all_of = |folder: &Path| -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = folder
            .read_dir()
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(is_driver)
            .collect();
        files.sort_unstable();
        files
    };
    let mut files = Vec::new();
    match named {
        Some(list) => {
            for path in std::env::split_paths(&list) {
                files.extend(if path.is_dir() { all_of(&path) } else { vec![path] });
            }
        }
        None => {
            for folder in folders() {
                files.extend(all_of(&folder));
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|file| seen.insert(file.clone()));
    files
}

/// Where drivers are installed, in the order in which the loader looks.
fn folders() -> Vec<PathBuf> {
    let of = |name: &str, otherwise: &[&str]| -> Vec<PathBuf> {
        match std::env::var_os(name).filter(|value| !value.is_empty()) {
            Some(list) => std::env::split_paths(&list).collect(),
            None => otherwise.iter().map(PathBuf::from).collect(),
        }
    };
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let own = |variable: &str, below: &str| -> Option<PathBuf> {
        let set = std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        set.or_else(|| home.as_ref().map(|home| home.join(below)))
    };
    let roots = [
        own("XDG_CONFIG_HOME", ".config").into_iter().collect(),
        of("XDG_CONFIG_DIRS", &["/etc/xdg"]),
        vec!["/usr/local/etc".into(), "/etc".into()],
        own("XDG_DATA_HOME", ".local/share").into_iter().collect(),
        of("XDG_DATA_DIRS", &["/usr/local/share", "/usr/share"]),
    ];
    let mut folders: Vec<PathBuf> =
        roots.into_iter().flatten().map(|root| root.join("vulkan/icd.d")).collect();
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    folders
}

/// What would have to stay the same for what was found out to hold.
fn described(files: &[PathBuf]) -> String {
    let stamp = |path: &Path| {
        let changed = path.metadata().and_then(|about| Ok((about.len(), about.modified()?))).ok();
        changed.map_or_else(
            || "none".to_owned(),
            |(bytes, time)| {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                format!("{bytes} {}", since.as_nanos())
            },
        )
    };
    let mut out = format!("porism {}\n", env!("CARGO_PKG_VERSION"));
    for name in ["VK_ADD_DRIVER_FILES", "VK_INSTANCE_LAYERS", "VK_LAYER_PATH", "VK_LOADER_DRIVERS_SELECT"] {
        out.push_str(&format!("{name} {:?}\n", std::env::var_os(name)));
    }
    for file in files {
        out.push_str(&format!("{} {}", file.display(), stamp(file)));
        let text = std::fs::read(file).ok();
        let json: Option<serde_json::Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(library) = json.as_ref().and_then(|json| json["ICD"]["library_path"].as_str()) {
            let path = file.parent().unwrap_or(Path::new(".")).join(library);
            out.push_str(&format!(" {library} {}", stamp(&path)));
        }
        out.push('\n');
    }
    out
}

/// Where what was found out is written down.
fn memory() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("porism/drivers.json"))
}

/// Without it the next start asks again.
fn write_down(path: &Path, known: &Known) {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, known)?;
        file.persist(path)?;
        Ok(())
    };
    if let Err(error) = write() {
        tracing::debug!("{}: {error}", path.display());
    }
}

/// Which drivers crash, each asked alone, if all of them together do.
fn find_crashing(files: &[PathBuf]) -> Vec<Crashing> {
    let Some(how) = crash(None) else { return Vec::new() };
    let alone = |file: &PathBuf| {
        crash(Some(file.as_os_str().to_owned())).map(|how| Crashing { file: file.clone(), how })
    };
    let crashing: Vec<Crashing> = files.iter().filter_map(alone).collect();
    if crashing.is_empty() {
        // Only together, or a layer: none of them can be trusted.
        return files.iter().map(|file| Crashing { file: file.clone(), how: how.clone() }).collect();
    }
    crashing
}

/// Lists adapters in a child, of this driver alone if one is given. How the child ended, if not well.
fn crash(driver: Option<OsString>) -> Option<String> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.env(CHILD, "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(driver) = driver {
        for name in VARIABLES {
            command.env(name, &driver);
        }
    }
    let mut child = command.spawn().ok()?;
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return None,
            Ok(Some(status)) => return Some(format!("ends the program ({status})")),
            Ok(None) if begin.elapsed() > PATIENCE => {
                drop(child.kill());
                drop(child.wait());
                return Some(format!("does not answer within {} s", PATIENCE.as_secs()));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            // Nobody knows; the program goes on as if nothing had been asked.
            Err(_) => return None,
        }
    }
}
