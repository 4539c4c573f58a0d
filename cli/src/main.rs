//! The porism command.

mod answerer;
mod answering;
#[allow(
    rustdoc::broken_intra_doc_links,
    reason = "these comments are the help text, where `[default]` is no link"
)]
mod args;
mod commands;
mod completion;
mod devices;
#[cfg(test)]
mod docs;
mod domain;
mod drivers;
mod failure;
mod host;
mod interrupt;
mod live;
mod local;
mod model;
mod names;
mod opening;
mod rig;
mod settings;
mod stream;
mod ui;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command};
use ui::Ui;

fn main() -> ExitCode {
    hush_layers();
    drivers::end_if_child();
    // Ends the program where it is a shell that asks.
    clap_complete::CompleteEnv::with_factory(Cli::command).var(completion::VARIABLE).complete();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            ui::print_clap(&error);
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    let ui = Ui::new(&cli.global);
    start_log(cli.global.log);
    let crashing = drivers::leave_out_crashing(&cli.command, &ui);
    let result = match &cli.command {
        Command::Run(args) => commands::run::run(args, &ui),
        Command::Show(args) => commands::show::run(args, &ui),
        Command::Plan(args) => commands::plan::run(args, &ui),
        Command::Logits(args) => commands::logits::run(args, &ui),
        Command::Tokenize(args) => commands::tokenize::run(args, &ui),
        Command::Devices(args) => commands::devices::run(args, &ui),
        Command::Bench(args) => commands::bench::run(args, &ui),
        Command::Doctor(args) => commands::doctor::run(args, &crashing, &ui),
        Command::Prove(args) => commands::prove::run(args, &ui),
        Command::Check(args) => commands::check::run(args, &ui),
        Command::Report(args) => commands::report::run(args, &ui),
        Command::Synth(args) => commands::synth::run(args, &ui),
        Command::Completions(args) => commands::completions::run(args, &ui),
        Command::Man(args) => commands::completions::man(args, &ui),
    };
    let code = match result {
        Ok(code) => code,
        // An exit code of 0 would be an answer.
        Err(error) if ui::is_reader_gone(&error) => match &cli.command {
            Command::Prove(_) | Command::Check(_) | Command::Doctor(_) => failure::UNHEARD,
            _ => 0,
        },
        Err(error) => {
            let code = failure::code(&error);
            // Whoever pressed Ctrl-C knows.
            if code != failure::INTERRUPTED {
                let hint = failure::hint(&error).or_else(|| failure::last_hint(code, cli.command.verb()));
                ui.error(&failure::describe(&error), hint.as_deref());
            }
            code
        }
    };
    ExitCode::from(code)
}

/// Mesa's layer that picks a default GPU asks the desktop, and complains on stderr where there is none, as over ssh. We
/// pick for ourselves.
fn hush_layers() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: this is the first thing the program does, so no other thread reads the environment meanwhile.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Events of the libraries on stderr: RUST_LOG, else as many as `-v` asks for.
fn start_log(verbosity: u8) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new(match verbosity {
            0 => "error,wgpu_hal=off,wgpu_core=off",
            1 => "warn,porism_runtime=info,porism_loader=info,porism=info",
            2 => "info,porism_runtime=debug,porism_loader=debug,porism=debug",
            _ => "trace",
        })
    });
    // At its lowest level it writes down all that is sent, keys included; no RUST_LOG may ask for that.
    let filter = ["ureq_proto=off", "ureq_proto::util=off"].into_iter().fold(filter, |filter, quiet| {
        filter.add_directive(quiet.parse().expect("it names a crate and a level"))
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| live::screen::Lines)
        .without_time()
        .init();
}
