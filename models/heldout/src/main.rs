//! Held-out problems of the demo's domain through the whole search, judged by the checker:
//! `cargo run --release -p porism-heldout -- --per-family 100 [--seed N] [--wrong]
//! [--keep FOLDER] [--false N]`; `--wrong` prints the accepted proofs that are not right, `--keep` leaves the runs in folders, `--false` asks for
//! proofs of so many false statements instead, with and without the program that recomputes proofs.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use porism_checker::Checker;
use porism_checker::problems::{Family, false_statements};
use porism_heldout::{COLUMNS, Tally, measure, prove, usual};
use porism_prover::recompute::Recompute;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (mut count, mut seed, mut show, mut keep) = (100, fresh, false, None::<PathBuf>);
    let mut false_ones = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().ok_or(format!("{argument} needs a number"));
        match argument.as_str() {
            "--per-family" => count = number()?.parse()?,
            "--false" => false_ones = Some(number()?.parse()?),
            "--seed" => seed = number()?.parse()?,
            "--wrong" => show = true,
            "--keep" => keep = Some(arguments.next().ok_or("--keep needs a folder")?.into()),
            other => return Err(format!("unknown: {other}").into()),
        }
    }
    println!("seed {seed}");
    if let Some(count) = false_ones {
        let problems = false_statements(count, seed);
        for (who, recompute) in
            [("the verifier alone", None), ("with the program", Some(&Checker as &dyn Recompute))]
        {
            let started = Instant::now();
            let plans = prove(&problems, seed, usual(), recompute, None);
            let passed: Vec<_> = problems.iter().zip(&plans).filter(|(_, plan)| plan.passed()).collect();
            let seconds = started.elapsed().as_secs_f64();
            println!("{who}: {} of {count} false statements passed, {seconds:.1} s", passed.len());
            for (problem, plan) in passed.into_iter().filter(|_| show) {
                println!("\n{}\n{}", problem.question, plan.chosen().map_or("", |proof| &proof.proof));
            }
        }
        return Ok(());
    }
    println!("{:<8} {COLUMNS}  seconds", "");
    let mut all = Tally::default();
    let begun = Instant::now();
    for family in Family::ALL {
        let started = Instant::now();
        let folder = keep.as_ref().map(|keep| keep.join(format!("{}-{count}-{seed}", family.name())));
        let tally = measure(family, count, seed, folder.as_deref());
        println!("{:<8} {tally} {:>8.1}", family.name(), started.elapsed().as_secs_f64());
        all = all.plus(&tally);
    }
    println!("{:<8} {all} {:>8.1}", "all", begun.elapsed().as_secs_f64());
    for (question, proof) in all.wrong.iter().filter(|_| show) {
        println!("\n{question}\n{proof}");
    }
    Ok(())
}
