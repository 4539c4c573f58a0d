//! Rigs: devices from a file, for planning without the hardware.

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use porism_runtime::DeviceId;
use porism_runtime::device::{Device, nominal};
use serde::Deserialize;
use toml::Spanned;

use crate::devices::{Adapter, Hardware, Source, Sources};
use crate::failure::Failure;
use crate::settings::{parse_size, read_text};

/// A rig has no more devices than this.
const MOST_DEVICES: usize = 256;
/// Characters of a device's name.
const LONGEST_NAME: usize = 60;
/// Seconds that starting a kernel may be said to take.
const LONGEST_DISPATCH: f64 = 1.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rig {
    #[serde(default)]
    device: Vec<Entry>,
}

/// A string of the file and where it is.
type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Text,
    count: Option<Spanned<u64>>,
    memory: Option<Text>,
    unified: Option<Spanned<bool>>,
    bandwidth: Text,
    efficiency: Option<Text>,
    link: Option<Text>,
    compute: Option<Text>,
    dispatch: Option<Text>,
    disk: Option<Text>,
    binding: Option<Text>,
}

/// What is wrong with a file: where, at which key, and why.
#[derive(Debug)]
struct Wrong {
    at: Option<Range<usize>>,
    key: String,
    reason: String,
}

impl Wrong {
    fn new<T>(value: &Spanned<T>, key: &str, reason: impl Into<String>) -> Self {
        Wrong { at: Some(value.span()), key: key.into(), reason: reason.into() }
    }
}

/// The hardware of a rig file.
///
/// # Errors
/// A file that cannot be read or is no rig, with its line and key.
pub fn read(path: &Path) -> Result<Hardware> {
    let text = read_text(path)?;
    parse(&text).map_err(|wrong| {
        let line = wrong.at.map(|at| 1 + text[..at.start.min(text.len())].matches('\n').count());
        let line = line.map_or(String::new(), |line| format!(", line {line}"));
        let key = if wrong.key.is_empty() { String::new() } else { format!(", {}", wrong.key) };
        Failure::usage(format!("{}{line}{key}: {}", path.display(), wrong.reason))
            .hint(
                "a rig is a list of [[device]] tables with name, memory and bandwidth, as in docs/rigs; \
                 `porism plan --help` explains the keys",
            )
            .into()
    })
}

fn parse(text: &str) -> Result<Hardware, Wrong> {
    let rig: Rig = toml::from_str(text).map_err(|error| {
        let at = error.span();
        // The key of the line, where it has one.
        let start = at.as_ref().map_or(0, |at| at.start.min(text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |end| end + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        let reason = error.message().trim_end().replace('\n', " ");
        Wrong { at, key: if is_key { key.to_owned() } else { String::new() }, reason }
    })?;
    let count = |entry: &Entry| entry.count.as_ref().map_or(1, |count| *count.get_ref());
    let devices = rig.device.iter().map(count).fold(0u64, u64::saturating_add);
    if devices == 0 || devices > MOST_DEVICES as u64 {
        let reason = format!("{devices} devices, expected 1 to {MOST_DEVICES}");
        let at = rig.device.iter().find_map(|entry| entry.count.as_ref()).map(Spanned::span);
        let key = if at.is_some() { "count" } else { "device" };
        return Err(Wrong { at, key: key.into(), reason });
    }
    // One machine has one disk.
    let disks: Vec<&Text> = rig.device.iter().filter_map(|entry| entry.disk.as_ref()).collect();
    let disk = disks.first().map(|text| rate(text, "disk")).transpose()?;
    for other in &disks {
        if Some(rate(other, "disk")?) != disk {
            return Err(Wrong::new(other, "disk", "another rate than before: a rig has one disk"));
        }
    }
    let mut hardware = Hardware { adapters: Vec::new(), host: None, host_memory: None, is_here: false };
    let mut names: Vec<String> = Vec::new();
    let mut unified = None;
    for entry in &rig.device {
        let is_host = entry.name.get_ref().trim().eq_ignore_ascii_case("host");
        for name in named(entry, is_host)? {
            if names.iter().any(|other| other.eq_ignore_ascii_case(&name)) {
                let reason = match is_host {
                    true => "two devices named `host`, there is one CPU side".to_owned(),
                    false => format!("two devices named `{name}`: for equal ones write `count = 2`"),
                };
                return Err(Wrong::new(&entry.name, "name", reason));
            }
            let (memory, device, sources) = device(entry, &name, is_host, disk)?;
            if is_host {
                hardware.host_memory = memory;
                hardware.host = Some((device, sources));
            } else {
                let is_unified = entry.unified.as_ref().is_some_and(|unified| *unified.get_ref());
                unified = unified.or(entry.unified.as_ref().filter(|_| is_unified));
                let index = DeviceId::Adapter(hardware.adapters.len());
                let unified = is_unified;
                hardware.adapters.push(Adapter { index, device, memory, unified, by_default: true, sources });
            }
            names.push(name);
        }
    }
    match unified {
        Some(key) if hardware.host.is_none() => Err(Wrong::new(
            key,
            "unified",
            "its memory would be the host's, and the rig has no device named `host`",
        )),
        _ => Ok(hardware),
    }
}

/// The names of an entry's devices: numbered where it stands for several.
fn named(entry: &Entry, is_host: bool) -> Result<Vec<String>, Wrong> {
    let name = entry.name.get_ref().trim();
    let wrong = |reason: &str| Err(Wrong::new(&entry.name, "name", reason));
    if name.is_empty() || name.chars().count() > LONGEST_NAME {
        return wrong(&format!("a name has 1 to {LONGEST_NAME} characters"));
    }
    if name.contains(|c: char| c.is_control()) {
        return wrong("a name has no control characters");
    }
    if is_host {
        return match entry.count.as_ref().filter(|count| *count.get_ref() != 1) {
            Some(count) => Err(Wrong::new(count, "count", "there is one CPU side")),
            None => Ok(vec!["host".to_owned()]),
        };
    }
    Ok(match &entry.count {
        Some(count) => (1..=*count.get_ref()).map(|number| format!("{name} {number}")).collect(),
        None => vec![name.to_owned()],
    })
}

/// Bytes of memory, and the device without them.
fn device(
    entry: &Entry,
    name: &str,
    is_host: bool,
    disk: Option<f64>,
) -> Result<(Option<u64>, Device, Sources), Wrong> {
    let size =
        |text: &Text, key: &str| parse_size(text.get_ref()).map_err(|reason| Wrong::new(text, key, reason));
    let memory = entry.memory.as_ref().map(|text| size(text, "memory")).transpose()?;
    let is_unified = entry.unified.as_ref().is_some_and(|unified| *unified.get_ref());
    if memory.is_none() && !is_unified {
        return Err(Wrong::new(&entry.name, "memory", format!("`{name}` has none: add `memory = \"24GB\"`")));
    }
    if let Some(unified) = entry.unified.as_ref().filter(|_| is_host && is_unified) {
        return Err(Wrong::new(unified, "unified", "this is for adapters that share the memory of `host`"));
    }
    let efficiency = match &entry.efficiency {
        Some(text) => percent(text)?,
        None if is_host => nominal::HOST_EFFICIENCY,
        None => nominal::ADAPTER_EFFICIENCY,
    };
    let bandwidth = rate(&entry.bandwidth, "bandwidth")? * efficiency;
    let device = match is_host {
        true => Device::host(None, bandwidth),
        false => Device::adapter(name, None, bandwidth, nominal::LINK),
    };
    let mut rates = device.nominal;
    if let Some(link) = &entry.link {
        rates.link = rate(link, "link")?;
    }
    if let Some(compute) = &entry.compute {
        rates.compute = operations(compute)?;
    }
    if let Some(dispatch) = &entry.dispatch {
        rates.dispatch = seconds(dispatch)?;
    }
    rates.disk = disk.unwrap_or(rates.disk);
    let mut device = device.with(rates);
    if let Some(binding) = &entry.binding {
        device.max_binding_bytes = size(binding, "binding")?;
    }
    let source = |is_stated: bool| if is_stated { Source::Stated } else { Source::Assumed };
    let sources = Sources {
        memory: source(memory.is_some()),
        bandwidth: Source::Stated,
        efficiency,
        link: source(entry.link.is_some()),
        disk: source(disk.is_some()),
        compute: source(entry.compute.is_some()),
        dispatch: source(entry.dispatch.is_some()),
    };
    Ok((memory, device, sources))
}

/// `960GB/s` → bytes per second.
fn rate(text: &Text, key: &str) -> Result<f64, Wrong> {
    let found = text.get_ref();
    let wrong = || {
        let reason = format!("`{found}` is no rate: give a size per second, as in `960GB/s`");
        Wrong::new(text, key, reason)
    };
    let size = found.trim().strip_suffix("/s").ok_or_else(wrong)?;
    parse_size(size).map(|bytes| bytes as f64).map_err(|_| wrong())
}

/// `20TFLOPS` → operations per second.
fn operations(text: &Text) -> Result<f64, Wrong> {
    let example = "a computing rate: give operations per second, as in `20TFLOPS`";
    with_unit(text, "compute", &[("tflops", 1e12), ("gflops", 1e9)], 1e6..1e21, example)
}

/// `40us` → seconds.
fn seconds(text: &Text) -> Result<f64, Wrong> {
    let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("μs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let example = "a time for starting a kernel: give 1 ns to 1 s, as in `40us`";
    with_unit(text, "dispatch", &units, 1e-9..LONGEST_DISPATCH, example)
}

/// `80%` → 0.8.
fn percent(text: &Text) -> Result<f64, Wrong> {
    let example = "a share of the bandwidth: give 1% to 100%, as in `80%`";
    with_unit(text, "efficiency", &[("%", 0.01)], 0.01..1.0, example)
}

/// A plain decimal number with one of some units, within a range.
fn with_unit(
    text: &Text,
    key: &str,
    units: &[(&str, f64)],
    range: Range<f64>,
    what: &str,
) -> Result<f64, Wrong> {
    let wrong = || Wrong::new(text, key, format!("`{}` is not {what}", text.get_ref()));
    let lower = text.get_ref().trim().to_lowercase();
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?.trim_end(), *factor)))
        .ok_or_else(wrong)?;
    // No exponents, signs or names of numbers.
    if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * factor;
    // Rounding of the factor must not exclude the ends.
    let within = value >= range.start * (1.0 - 1e-9) && value <= range.end * (1.0 + 1e-9);
    if within { Ok(value) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rigs_are_parsed_with_their_units() {
        let text = r#"
            [[device]]
            name = "RX 7900 XTX"
            count = 2
            memory = "24GiB"
            bandwidth = "960GB/s"
            efficiency = "62.5%"
            link = "25 GB/s"
            compute = "20.5TFLOPS"
            dispatch = "35 us"
            binding = "2GiB"

            [[device]]
            name = "GPU"
            unified = true
            bandwidth = "100GB/s"

            [[device]]
            name = "host"
            memory = "512GB"
            bandwidth = "300GB/s"
            disk = "7GB/s"
        "#;
        let rig = parse(text).unwrap();
        assert_eq!((rig.adapters.len(), rig.is_here), (3, false));
        let card = &rig.adapters[1];
        assert_eq!((card.device.name.as_str(), card.index), ("RX 7900 XTX 2", DeviceId::Adapter(1)));
        let rates = card.device.rates;
        assert_eq!((card.memory, rates.bandwidth, rates.link), (Some(24 << 30), 600e9, 25e9));
        assert_eq!((rates.compute, rates.dispatch), (20.5e12, 35.0 * 1e-6));
        assert_eq!((card.device.max_binding_bytes, card.unified), (2 << 30, false));
        assert_eq!((rig.adapters[2].memory, rig.adapters[2].unified), (None, true));
        let (host, sources) = rig.host.unwrap();
        assert_eq!((host.host, host.rates.bandwidth), (true, 300e9 * nominal::HOST_EFFICIENCY));
        assert_eq!(rig.host_memory, Some(512_000_000_000));
        // One disk, whoever names it.
        assert!(rates.disk == 7e9 && host.rates.disk == 7e9);
        assert_eq!(
            (card.sources.disk, card.sources.dispatch, sources.dispatch),
            (Source::Stated, Source::Stated, Source::Assumed)
        );
    }

    #[test]
    fn wrong_rigs_say_where() {
        let entry = |lines: &str| {
            format!("[[device]]\nname = \"X\"\nmemory = \"24GB\"\nbandwidth = \"1GB/s\"\n{lines}")
        };
        let of =
            |key: &str, value: &str| entry("").replace(&format!("{key} = \""), &format!("{key} = \"{value}"));
        let huge = "9".repeat(400);
        let other = |name: &str| {
            entry(&format!("[[device]]\nname = \"{name}\"\nmemory = \"1GB\"\nbandwidth = \"1GB/s\""))
        };
        let cases = [
            // (file, line, key, a part of the reason)
            (String::new(), None, "device", "0 devices"),
            ("device = []".to_owned(), None, "device", "0 devices"),
            ("device = 3".to_owned(), Some(1), "device", "invalid type"),
            ("[[device]\n".to_owned(), Some(1), "", ""),
            ("[[device]]\nname = \"X\"\nbandwidth = \"1GB/s\"".to_owned(), Some(2), "memory", "has none"),
            ("[[device]]\nname = \"X\"\nmemory = \"1GB\"".to_owned(), Some(1), "", "bandwidth"),
            (of("memory", "-"), Some(3), "memory", "is no size"),
            (of("memory", "0.00000000000"), Some(3), "memory", "not between"),
            (of("memory", &huge), Some(3), "memory", "not between"),
            (of("memory", "NaN"), Some(3), "memory", "is no size"),
            (entry("").replace("\"24GB\"", "24"), Some(3), "memory", "invalid type"),
            (of("bandwidth", "-"), Some(4), "bandwidth", "is no rate"),
            (of("bandwidth", "inf"), Some(4), "bandwidth", "is no rate"),
            (entry("").replace("1GB/s", "0GB/s"), Some(4), "bandwidth", "is no rate"),
            (entry("").replace("1GB/s", "1GB"), Some(4), "bandwidth", "is no rate"),
            (entry("link = \"fast\""), Some(5), "link", "is no rate"),
            (entry("compute = \"9FLOPS\""), Some(5), "compute", "is not a computing rate"),
            (entry(&format!("compute = \"{huge}TFLOPS\"")), Some(5), "compute", "is not a computing rate"),
            (entry("dispatch = \"40\""), Some(5), "dispatch", "is not a time"),
            (entry("dispatch = \"0us\""), Some(5), "dispatch", "is not a time"),
            (entry("dispatch = \"-40us\""), Some(5), "dispatch", "is not a time"),
            (entry("dispatch = \"2s\""), Some(5), "dispatch", "is not a time"),
            (entry("efficiency = \"0%\""), Some(5), "efficiency", "is not a share"),
            (entry("efficiency = \"101%\""), Some(5), "efficiency", "is not a share"),
            (entry("disk = \"7GB\""), Some(5), "disk", "is no rate"),
            (entry("count = 0"), Some(5), "count", "0 devices"),
            (entry("count = -3"), Some(5), "count", "invalid"),
            (entry("count = 18446744073709551615"), Some(5), "count", ""),
            (entry("count = 9000000000000000000"), Some(5), "count", "expected 1 to 256"),
            (entry("unified = true"), Some(5), "unified", "no device named `host`"),
            (entry("speed = 3"), Some(5), "speed", "unknown field"),
            (entry("name = \"Y\""), Some(5), "name", "duplicate key"),
            (other("X"), Some(6), "name", "two devices named `X`"),
            (other("x"), Some(6), "name", "count = 2"),
            (other("\\u001b[2J"), Some(6), "name", "control characters"),
            (other(" "), Some(6), "name", "1 to 60"),
            (other(&"n".repeat(61)), Some(6), "name", "1 to 60"),
            (
                format!(
                    "{}\n[[device]]\nname = \"HOST\"\nmemory = \"1GB\"\nbandwidth = \"1GB/s\"",
                    other("host")
                ),
                None,
                "name",
                "there is one CPU side",
            ),
            (
                other("host").replace("\"host\"", "\"host\"\nunified = true"),
                Some(7),
                "unified",
                "for adapters",
            ),
            (other("host").replace("\"host\"", "\"host\"\ncount = 2"), Some(7), "count", "one CPU side"),
        ];
        for (text, line, key, reason) in cases {
            let wrong = parse(&text).map(|_| ()).unwrap_err();
            let found = wrong.at.clone().map(|at| 1 + text[..at.start].matches('\n').count());
            assert!(line.is_none() || found == line, "{text}\n{wrong:?}");
            assert!(wrong.key == key && wrong.reason.contains(reason), "{text}\n{wrong:?}");
        }
    }
}
