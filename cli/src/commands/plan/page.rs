//! A plan for people. What matters most comes last, where a terminal ends: how fast it is, and what to type.

use std::collections::BTreeMap;

use anyhow::Result;
use porism_runtime::plan::{DevicePlan, Plan};

use super::{Offer, Report, index_name, load_seconds};
use crate::devices::Source;
use crate::ui::{self, Ui};

/// Experts in a line of the picture, at most.
const CELLS_PER_LINE: usize = 128;
/// Columns of the words in front of the summary's lines.
const LABEL: usize = 11;

pub(super) fn print(ui: &Ui, report: &Report) -> Result<()> {
    ui.heading(&format!(
        "{} with a context of {} tokens: {} of weights",
        report.name,
        ui::count(report.context.into()),
        ui::bytes(report.plan.weights())
    ))?;
    ui.line("")?;
    places(ui, report)?;
    picture(ui, report)?;
    for note in &report.notes {
        wrapped(ui, "note:", 6, note)?;
    }
    if !report.notes.is_empty() {
        ui.line("")?;
    }
    summary(ui, report)
}

/// Where every byte is.
fn places(ui: &Ui, report: &Report) -> Result<()> {
    let plan = &report.plan;
    let size = |bytes: u64| if bytes == 0 { "-".to_owned() } else { ui::bytes(bytes) };
    let headings =
        ["", "device", "memory", "weights", "cache", "activations", "staging", "free", "layers", "experts"];
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    for (index, part) in plan.devices.iter().enumerate() {
        let memory = report.devices[index].memory;
        rows.push(vec![
            letter(index).to_string(),
            name(report, index),
            memory.map_or("?".to_owned(), ui::bytes),
            size(part.weights.total()),
            size(part.cache),
            size(part.activations),
            size(part.staging.bytes()),
            memory.map_or("?".to_owned(), |memory| ui::bytes(memory - part.total())),
            layers(part),
            ui::count((part.experts + part.streamed).into()),
        ]);
    }
    let kept: u64 = plan.devices.iter().map(|part| part.files.page_cache).sum();
    let more = [("page cache", kept), ("disk", plan.disk())];
    for (name, bytes) in more.iter().filter(|(_, bytes)| *bytes > 0) {
        let memory = if *name == "disk" { None } else { report.page_cache };
        let memory = memory.map_or(String::new(), ui::bytes);
        rows.push(vec![String::new(), (*name).to_owned(), memory, ui::bytes(*bytes)]);
    }
    let lines = ui::table(&rows, &[2, 3, 4, 5, 6, 7, 8, 9]);
    if lines.iter().all(|line| line.chars().count() <= ui.columns()) {
        for (index, line) in lines.iter().enumerate() {
            if index == 0 { ui.heading(line)? } else { ui.line(line)? }
        }
    } else {
        for (index, part) in plan.devices.iter().enumerate() {
            narrow(ui, report, index, part)?;
        }
        for (name, bytes) in more.iter().filter(|(_, bytes)| *bytes > 0) {
            ui.line(&format!("   {name}: {}", ui::bytes(*bytes)))?;
        }
    }
    ui.line("")?;
    // Devices with the same are told together.
    let mut kinds: Vec<(String, Vec<String>)> = Vec::new();
    for (index, part) in plan.devices.iter().enumerate() {
        let list = |bytes: &porism_runtime::weights::layout::ByKind| {
            let words = bytes.rows().map(|(kind, bytes)| format!("{} {}", kind.name(), ui::bytes(bytes)));
            words.collect::<Vec<_>>().join(", ")
        };
        let mut text = list(&part.weights);
        if part.disk.total() > 0 {
            text.push_str(if text.is_empty() { "" } else { "; " });
            text.push_str(&format!("from disk: {}", list(&part.disk)));
        }
        if text.is_empty() {
            continue;
        }
        match kinds.iter_mut().find(|(known, _)| *known == text) {
            Some((_, names)) => names.push(letter(index).to_string()),
            None => kinds.push((text, vec![letter(index).to_string()])),
        }
    }
    for (text, names) in kinds {
        let names = names.join("");
        wrapped(ui, &names, names.len() + 2, &text)?;
    }
    ui.line("")?;
    Ok(())
}

/// A device's row of the table where the table is too wide.
fn narrow(ui: &Ui, report: &Report, index: usize, part: &DevicePlan) -> Result<()> {
    let used = ui::bytes(part.total());
    let memory = report.devices[index].memory.map_or("unknown memory".to_owned(), ui::bytes);
    ui.heading(&format!("{}  {}: {used} of {memory}", letter(index), name(report, index)))?;
    let experts = ui::plural((part.experts + part.streamed).into(), "expert");
    let layers = match part.layers.len() {
        0 => "no layers".to_owned(),
        1 => format!("layer {}", layers(part)),
        _ => format!("layers {}", layers(part)),
    };
    ui.line(&format!("   {layers}, {experts}"))?;
    let parts = [
        ("weights", part.weights.total()),
        ("cache", part.cache),
        ("activations", part.activations),
        ("staging", part.staging.bytes()),
    ];
    let parts = parts.iter().filter(|(_, bytes)| *bytes > 0);
    let text: Vec<String> = parts.map(|(what, bytes)| format!("{what} {}", ui::bytes(*bytes))).collect();
    if text.is_empty() { Ok(()) } else { wrapped(ui, "", 3, &text.join(", ")) }
}

fn layers(part: &DevicePlan) -> String {
    match part.layers.len() {
        0 => "-".to_owned(),
        1 => part.layers.start.to_string(),
        _ => format!("{}-{}", part.layers.start, part.layers.end - 1),
    }
}

/// A device with what `--device` calls it.
fn name(report: &Report, index: usize) -> String {
    let name = &report.devices[index].name;
    let number = index_name(report.specs[index].index);
    // Names of this machine's devices end with their number.
    if *name == number || name.starts_with(&format!("{number} ")) {
        name.clone()
    } else {
        format!("{number} {name}")
    }
}

/// A cell for every expert, those of a device together; layers that are divided alike are told together.
fn picture(ui: &Ui, report: &Report) -> Result<()> {
    let groups = groups(&report.plan);
    if groups.is_empty() {
        return Ok(());
    }
    ui.heading("experts by layer")?;
    for index in 0..report.devices.len() {
        let cell = (index, letter(index));
        ui.painted(&format!("   {} {}", ui.cells(&[cell, cell]), ui::printable(&name(report, index))))?;
    }
    let room = ui.columns().saturating_sub(3).clamp(16, CELLS_PER_LINE) / 16 * 16;
    for group in groups {
        let label = if group.layers.len() == 1 { "layer" } else { "layers" };
        let counts = group.least.iter().zip(group.most.values()).map(|((kind, least), most)| {
            let count = if least == most { least.to_string() } else { format!("{least} or {most}") };
            format!("{count} {}", kind.1)
        });
        let counts = counts.collect::<Vec<_>>().join(", ");
        wrapped(ui, label, label.len() + 1, &format!("{}: {counts}", ranges(&group.layers)))?;
        let cells: Vec<Cell> = group.first.iter().flat_map(|(cell, count)| vec![*cell; *count]).collect();
        for cells in cells.chunks(room) {
            ui.painted(&format!("   {}", ui.cells(cells)))?;
        }
    }
    ui.line("")?;
    Ok(())
}

/// A device and its letter, a small one for experts that come when they are picked.
type Cell = (usize, char);

/// Layers whose experts are divided alike, but for one more or less.
struct Group {
    layers: Vec<usize>,
    /// Experts of its first layer.
    first: BTreeMap<Cell, usize>,
    least: BTreeMap<Cell, usize>,
    most: BTreeMap<Cell, usize>,
}

fn groups(plan: &Plan) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (layer, places) in plan.placement.iter().enumerate().filter(|(_, places)| !places.is_empty()) {
        let mut counts: BTreeMap<Cell, usize> = BTreeMap::new();
        for place in places {
            let letter = letter(place.device);
            let letter = if place.resident { letter } else { letter.to_ascii_lowercase() };
            *counts.entry((place.device, letter)).or_default() += 1;
        }
        let joins = |group: &&mut Group| {
            group.first.len() == counts.len()
                && counts.iter().all(|(cell, count)| {
                    let range = group.least.get(cell).zip(group.most.get(cell));
                    range.is_some_and(|(least, most)| *count + 1 >= *most && *count <= least + 1)
                })
        };
        if let Some(group) = groups.iter_mut().find(joins) {
            group.layers.push(layer);
            for (cell, count) in counts {
                let least = group.least.get_mut(&cell).expect("joined for having the same");
                *least = count.min(*least);
                let most = group.most.get_mut(&cell).expect("joined for having the same");
                *most = count.max(*most);
            }
        } else {
            let (least, most) = (counts.clone(), counts.clone());
            groups.push(Group { layers: vec![layer], first: counts, least, most });
        }
    }
    groups
}

/// `3-5, 7`
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, end)) if *end + 1 == *number => *end = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let part = |(first, last): (usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.into_iter().map(part).collect::<Vec<_>>().join(", ")
}

fn summary(ui: &Ui, report: &Report) -> Result<()> {
    let predicted = &report.plan.predicted;
    let line = |label: &str, text: &str| wrapped(ui, label, LABEL, text);
    line(
        "predicted",
        &format!(
            "generates {}, limited by {}",
            rate(predicted.decode_tokens_per_second),
            predicted.limited_by
        ),
    )?;
    line(
        "",
        &format!(
            "reads {} of a prompt in steps of {}, limited by {}",
            rate(predicted.prefill_tokens_per_second),
            report.plan.chunk,
            predicted.prefill_limited_by
        ),
    )?;
    if !report.is_embedded {
        line("loading", &loading(report))?;
    }
    for (label, text) in figures(report) {
        line(label, &text)?;
    }
    if let Some((indices, offer)) = &report.left_out {
        let names: Vec<String> = indices.iter().map(|index| index_name(*index)).collect();
        let (devices, them) = if names.len() == 1 { ("device", "it") } else { ("devices", "them") };
        let (names, speeds) = (names.join(", "), speeds(offer));
        let text = format!("{devices} {names}: with {them} {speeds}; `--device {}`", offer.device);
        line("left out", &text)?;
    }
    if let Some(offer) = &report.faster {
        line("faster", &format!("{} with `--device {}`", speeds(offer), offer.device))?;
    }
    let label = if report.is_here { "next" } else { "next, there" };
    for (index, command) in report.commands.iter().enumerate() {
        // To be copied in one piece.
        let label = if index == 0 { label } else { "" };
        ui.line(&format!("{label:<LABEL$} {command}"))?;
    }
    Ok(())
}

fn speeds(offer: &Offer) -> String {
    format!("{}, of a prompt {}", rate(offer.speed.decode), rate(offer.speed.prefill))
}

/// Three digits of what may be anything between one in an hour and thousands.
fn rate(tokens_per_second: f64) -> String {
    match tokens_per_second {
        slow if slow < 0.1 => format!("a token in {}", ui::duration(1.0 / slow)),
        rate if rate < 1.0 => format!("{rate:.2} tokens/s"),
        rate if rate < 100.0 => format!("{rate:.1} tokens/s"),
        rate => format!("{} tokens/s", ui::count(rate.round() as u64)),
    }
}

fn loading(report: &Report) -> String {
    let bytes = ui::bytes(report.plan.loaded());
    let disk = report.devices[0].rates.disk;
    let seconds = load_seconds(report);
    let once = if seconds < 1.0 { "under a second".to_owned() } else { ui::duration(seconds) };
    let source = word(report.sources[0].disk);
    format!("{once}: {bytes} once from disk at {} ({source})", ui::bytes_per_second(disk))
}

/// What figures the predictions rest on, and where those are from.
fn figures(report: &Report) -> Vec<(&'static str, String)> {
    let mut lines: Vec<(String, Vec<char>)> = Vec::new();
    for (index, (device, sources)) in report.devices.iter().zip(&report.sources).enumerate() {
        let rates = &device.rates;
        let figure = |what: &str, value: String, source: Source| format!("{what} {value} ({})", word(source));
        let share = match sources.bandwidth {
            Source::Stated if sources.efficiency < 1.0 => {
                format!("{:.0} % of what is stated", 100.0 * sources.efficiency)
            }
            source => word(source).to_owned(),
        };
        let mut text = vec![
            format!("memory {} ({share})", ui::bytes_per_second(rates.bandwidth)),
            figure("computing", operations(rates.compute), sources.compute),
            figure("a kernel", ui::duration(rates.dispatch), sources.dispatch),
        ];
        if !device.host {
            text.insert(1, figure("link", ui::bytes_per_second(rates.link), sources.link));
        }
        let text = text.join(", ");
        match lines.iter_mut().find(|(known, _)| *known == text) {
            Some((_, letters)) => letters.push(letter(index)),
            None => lines.push((text, vec![letter(index)])),
        }
    }
    let label = |index: usize| if index == 0 { "counted on" } else { "" };
    let text =
        |(text, letters): (String, Vec<char>)| format!("{}: {text}", letters.iter().collect::<String>());
    lines.into_iter().map(text).enumerate().map(|(index, text)| (label(index), text)).collect()
}

fn word(source: Source) -> &'static str {
    match source {
        Source::Stated => "stated",
        Source::Reported => "reported",
        Source::Measured => "measured",
        Source::Assumed => "assumed",
        Source::Unknown => "unknown",
    }
}

fn operations(per_second: f64) -> String {
    match per_second {
        rate if rate < 1e12 => format!("{:.0} GFLOPS", rate / 1e9),
        rate => format!("{:.1} TFLOPS", rate / 1e12),
    }
}

/// A line with a label before it; what does not fit goes on below, indented as far.
fn wrapped(ui: &Ui, label: &str, indent: usize, text: &str) -> Result<()> {
    let indent = indent.max(label.chars().count()) + usize::from(indent == LABEL);
    for (index, line) in ui::wrap(text, ui.columns().saturating_sub(indent)).iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        ui.line(format!("{label:<indent$}{line}").trim_end())?;
    }
    Ok(())
}

/// `A`, `B`, …, and again from the start.
fn letter(device: usize) -> char {
    char::from(b'A' + (device % 26) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_written_as_ranges() {
        assert_eq!(ranges(&[3, 4, 5, 7, 9, 10]), "3-5, 7, 9-10");
        assert_eq!((ranges(&[]), ranges(&[0])), (String::new(), "0".into()));
    }

    #[test]
    fn rates_have_three_digits() {
        assert_eq!(rate(0.05), "a token in 20 s");
        assert_eq!([0.25, 12.34, 1234.0].map(rate), ["0.25 tokens/s", "12.3 tokens/s", "1,234 tokens/s"]);
    }
}
