//! The committed table, docs/gpu-kernels.md: written from rows, and read again to compare rows with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use crate::emit;
use crate::row::Row;
use porism_gpu_compilers::variants::variants;

const HEAD: &str = "# The kernels on the compilers of GPUs

Written by `tests/gpu-compilers/run.sh --renew`; the gate compares with it. Every pipeline that a GPU gets at the shapes of
DeepSeek-V3.2 is compiled by the GPU's own compiler, on a stub device of Mesa: registers, spills and occupancy are real,
nothing has run. `nv:hopper:unchecked` is without checks of indices, as `create_shader_module_trusted` has it.

Waves: on AMD subgroups per SIMD, on NVIDIA warps per multiprocessor, on Adreno waves per core, on Apple threads of a
workgroup, on Intel lanes of the subgroup. Spills are registers stored to or loaded from memory, scratch is bytes of memory
per thread. What is per weight is of the inner loop that multiplies weights, and on AMD counts instructions of the vector unit.
";

const COLUMNS: &str = "| kernel | variant | registers | waves | spills | scratch | instructions | loads per weight | instructions per weight |";

fn number<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}

/// The page for `rows`. Devices that these do not have keep what `before` says of them.
pub fn write(rows: &[Row], before: &str) -> Result<String> {
    let mut page = HEAD.to_owned();
    page.push_str(
        "\n## Workgroups\n\n| kernel | variant | threads | workgroup memory |\n|---|---|--:|--:|\n",
    );
    for variant in variants() {
        let (threads, bytes) = emit::workgroup(&variant)?;
        writeln!(page, "| {} | {} | {threads} | {bytes} |", variant.kernel.name, variant.name())?;
    }
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    for section in before.split("\n## ").skip(2) {
        if let Some((device, rest)) = section.split_once('\n') {
            sections.insert(device.to_owned(), rest.trim().to_owned());
        }
    }
    let mut devices: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.instructions.is_some()) {
        devices.entry(&row.device).or_default().push(row);
    }
    for (device, rows) in devices {
        let compiler = rows[0].compiler.as_deref().unwrap_or_default();
        let mut section =
            format!("Compiler: {compiler}\n\n{COLUMNS}\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
        for row in rows {
            let (kernel, variant, _) = row.key();
            writeln!(
                section,
                "| {kernel} | {variant} | {} | {} | {} | {} | {} | {} | {} |",
                number(row.registers),
                number(row.waves),
                number(row.spills),
                number(row.scratch),
                number(row.instructions),
                number(row.loads_per_weight),
                number(row.instructions_per_weight),
            )?;
        }
        sections.insert(device.to_owned(), section.trim().to_owned());
    }
    for (device, section) in sections {
        write!(page, "\n## {device}\n\n{section}\n")?;
    }
    Ok(page)
}

/// The rows of a page.
pub fn read(page: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for section in page.split("\n## ").skip(2) {
        let mut lines = section.lines();
        let device = lines.next().unwrap_or_default();
        let mut compiler = None;
        for line in lines {
            if let Some(name) = line.strip_prefix("Compiler: ") {
                compiler = Some(name);
            }
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [kernel, variant, registers, waves, spills, scratch, instructions, loads, per_weight] =
                cells[..]
            else {
                continue;
            };
            let Ok(instructions) = instructions.parse() else { continue };
            let mut row = Row::new(kernel, variant, device, compiler);
            row.registers = registers.parse().ok();
            row.waves = waves.parse().ok();
            row.spills = spills.parse().ok();
            row.scratch = scratch.parse().ok();
            row.instructions = Some(instructions);
            row.loads_per_weight = loads.parse().ok();
            row.instructions_per_weight = per_weight.parse().ok();
            rows.push(row);
        }
    }
    rows
}

/// In what `row` is worse than `before` by more than 5 %.
pub fn worse(row: &Row, before: &Row) -> Vec<String> {
    let whole = |value: Option<u64>| value.map(|value| value as f64);
    let pairs = [
        ("registers", whole(row.registers), whole(before.registers)),
        ("instructions", whole(row.instructions), whole(before.instructions)),
        ("spills", whole(row.spills), whole(before.spills)),
        ("scratch", whole(row.scratch), whole(before.scratch)),
        ("loads per weight", row.loads_per_weight, before.loads_per_weight),
        ("instructions per weight", row.instructions_per_weight, before.instructions_per_weight),
        // Fewer waves are worse, so the signs are turned.
        ("waves", whole(row.waves).map(|v| -v), whole(before.waves).map(|v| -v)),
    ];
    let pairs = pairs.into_iter().filter_map(|(what, now, then)| Some((what, now?, then?)));
    pairs
        .filter(|(_, now, then)| *now > then + 0.05 * then.abs())
        .map(|(what, now, then)| format!("{what} {}, the table has {}", now.abs(), then.abs()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let mut row = Row::new("matvec", "LANES=8", "amd:navi31", Some("radv Mesa 26.2.6-1"));
        (row.registers, row.waves, row.spills, row.scratch) = (Some(96), Some(12), Some(0), Some(0));
        (row.instructions, row.loads_per_weight) = (Some(590), Some(1.063));
        row
    }

    #[test]
    fn a_page_that_was_written_reads_the_same() {
        let page = write(&[row()], "").unwrap();
        let rows = read(&page);
        assert_eq!(serde_json::to_value(&rows[0]).unwrap(), serde_json::to_value(row()).unwrap());
        assert_eq!(write(&rows, "").unwrap(), page);
    }

    #[test]
    fn devices_that_were_not_compiled_for_keep_their_section() {
        let before = write(&[row()], "").unwrap();
        let other = Row { device: "nv:hopper".into(), ..row() };
        assert_eq!(read(&write(&[other], &before).unwrap()).len(), 2);
    }

    #[test]
    fn more_registers_and_fewer_waves_are_worse() {
        let mut now = row();
        now.waves = Some(11);
        now.registers = Some(100);
        assert_eq!(worse(&now, &row()), ["waves 11, the table has 12"]);
        now.registers = Some(101);
        assert_eq!(worse(&now, &row()).len(), 2);
        assert!(worse(&row(), &now).is_empty(), "better is not worse");
    }
}
