//! Every kernel through the shader compilers of real GPUs. `run.sh` beside this sets up what is needed and calls it:
//!
//! `porism-gpu-compilers --cache FOLDER [--quick] [--renew] [--json FILE] [--listings FOLDER] [--device NAME]…`
//!
//! It ends with 1 on a compile error, on spills or scratch memory that `exceptions.txt` does not have, on an exception that
//! is not needed any more, and where a figure is worse by more than 5 % than docs/gpu-kernels.md has for the same compiler.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command that reports on the terminal")]

mod device;
mod emit;
mod gate;
mod loops;
mod row;
mod stubs;
mod table;
mod tools;
mod vulkan;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail};

use crate::row::Row;
use crate::stubs::STUBS;

#[derive(Default)]
struct Arguments {
    cache: PathBuf,
    quick: bool,
    renew: bool,
    json: Option<PathBuf>,
    listings: Option<PathBuf>,
    devices: Vec<String>,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut parsed = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--cache" => parsed.cache = value()?.into(),
            "--json" => parsed.json = Some(value()?.into()),
            "--listings" => parsed.listings = Some(value()?.into()),
            "--device" => parsed.devices.push(value()?),
            "--quick" => parsed.quick = true,
            "--renew" => parsed.renew = true,
            other => bail!(
                "unknown argument `{other}`; there are --quick, --renew, --json, --listings and --device"
            ),
        }
    }
    let known: Vec<&str> =
        STUBS.iter().map(|s| s.name).chain(tools::PROFILES.map(|p| p.0)).chain(["tint"]).collect();
    if let Some(unknown) = parsed.devices.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no device `{unknown}`; there are {}", known.join(", "));
    }
    Ok(parsed)
}

fn main() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "on-stub").is_some() {
        on_stub(&words.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let arguments = arguments(words)?;
    let rows = compile_all(&arguments)?;
    if let Some(file) = &arguments.json {
        let lines: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
        std::fs::write(file, lines?.join("\n") + "\n").with_context(|| file.display().to_string())?;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    gate::judge(&root, &rows, arguments.renew)
}

/// The part that runs inside the process of a stub.
fn on_stub(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["compile", device, from] => device::compile(device, from.parse()?, None),
        ["compile", device, from, folder] => device::compile(device, from.parse()?, Some(Path::new(folder))),
        ["wgpu", device] => device::through_wgpu(device),
        _ => bail!("on-stub {words:?}"),
    }
}

type Job<'a> = Box<dyn FnOnce() -> Result<Vec<Row>> + Send + 'a>;

/// The rows of every device that is asked for, in their own order.
fn compile_all(arguments: &Arguments) -> Result<Vec<Row>> {
    let (cache, listings) = (arguments.cache.as_path(), arguments.listings.as_deref());
    let root = cache.join("root");
    let wanted = |name: &str, quick: bool| {
        if arguments.devices.is_empty() {
            quick || !arguments.quick
        } else {
            arguments.devices.iter().any(|device| device == name)
        }
    };
    std::fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
    let root = &root;
    let mut jobs: VecDeque<(usize, Job<'_>)> = VecDeque::new();
    let mut add = |job: Job<'static>| jobs.push_back((jobs.len(), job));
    for stub in STUBS.iter().filter(|stub| wanted(stub.name, stub.quick)) {
        if let Some(reason) = stub.missing(root) {
            add(Box::new(move || Ok(vec![Row::skipped(stub.name, reason)])));
            continue;
        }
        let (here, folder) = (root.clone(), listings.map(Path::to_owned));
        add(Box::new(move || stub.compile(&here, folder.as_deref())));
        if stub.wgpu {
            let here = root.clone();
            add(Box::new(move || stub.through_wgpu(&here)));
        }
    }
    for profile in tools::PROFILES.into_iter().filter(|profile| wanted(profile.0, true)) {
        let cache = cache.to_owned();
        add(Box::new(move || tools::dxc(&cache.join("dxc"), &cache, profile)));
    }
    if wanted("tint", true) {
        let (here, cache) = (root.clone(), cache.to_owned());
        add(Box::new(move || tools::tint(&here, &cache)));
    }
    let count = jobs.len();
    let (jobs, found) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(count.max(1)) {
            scope.spawn(|| {
                while let Some((number, job)) = jobs.lock().expect("never poisoned").pop_front() {
                    let rows = job();
                    found.lock().expect("never poisoned").push((number, rows));
                }
            });
        }
    });
    let mut found = found.into_inner().expect("never poisoned");
    found.sort_by_key(|(number, _)| *number);
    let rows: Result<Vec<Vec<Row>>> = found.into_iter().map(|(_, rows)| rows).collect();
    Ok(rows?.concat())
}
